"""Turns each rank's gradients into new parameters; the state has the same names in every implementation."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from t2m_bench.models.arm import Arm
from t2m_bench.recipe.schema import OptimSection
from t2m_bench.training.optim import build_optimizer, find_state_keys, set_learning_rate
from t2m_bench.training.process_group import ProcessGroup


class Updater(Protocol):
    """Interface that the training loop needs of an optimizer; every call is made on all ranks together."""

    @property
    def name(self) -> str:
        """Name of the optimizer, for the history."""

    def update(self, learning_rate: float) -> None:
        """Sum the ranks' gradients, clip, make one step of AdamW and drop the gradients."""

    def get_state(self) -> dict[str, Tensor]:
        """Return `parameter/NAME` and `optimizer/KEY/NAME`, whole on every rank."""

    def set_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `get_state` of any updater returned."""


class PlainUpdater:
    """AdamW with its whole state on every rank."""

    def __init__(self, adapter: Arm, optim: OptimSection, ranks: ProcessGroup) -> None:
        self._adapter = adapter
        self._clip_norm = optim.clip_norm
        self._ranks = ranks
        self._optimizer = build_optimizer(adapter, optim)

    @property
    def name(self) -> str:
        """Name of the optimizer."""
        return type(self._optimizer).__name__

    def update(self, learning_rate: float) -> None:
        """Make one step from the ranks' summed gradients."""
        scaler = self._ranks.scaler
        set_learning_rate(self._optimizer, learning_rate)
        self._ranks.sum_gradients(self._adapter)
        scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._adapter.parameters(), self._clip_norm)
        scaler.step(self._optimizer)
        scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def get_state(self) -> dict[str, Tensor]:
        """Return parameters and AdamW's state."""
        tensors: dict[str, Tensor] = {f"parameter/{name}": value for name, value in self._adapter.named_parameters()}
        for name, parameter in self._adapter.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = value
        return tensors

    def set_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore parameters and AdamW's state."""
        with torch.no_grad():
            for name, parameter in self._adapter.named_parameters():
                parameter.copy_(tensors[f"parameter/{name}"])
                state = {key: tensors[f"optimizer/{key}/{name}"] for key in find_state_keys(tensors, name)}
                if state:
                    self._optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                    }


def build_updater(adapter: Arm, optim: OptimSection, ranks: ProcessGroup) -> Updater:
    """Build the updater that the ranks were set up for."""
    if not ranks.has_deepspeed:
        return PlainUpdater(adapter, optim, ranks)
    from t2m_bench.training.zero import ZeroUpdater

    return ZeroUpdater(adapter, optim, ranks)
