"""DeepSpeed's ZeRO stages 1 and 2: AdamW's state, and the summed gradients, are spread over the ranks.

The engine holds the adapter alone, in fp32: the frozen models are outside, neither stored nor sharded. Its checkpoints
are pickles, so they are not used; whole tensors are read from and given to it instead.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from t2m_bench.models.arm import Arm
from t2m_bench.recipe.schema import OptimSection
from t2m_bench.training.optim import build_optimizer, find_state_keys, set_learning_rate
from t2m_bench.training.process_group import ProcessGroup


class ZeroUpdater:
    """AdamW inside a DeepSpeed engine.

    Each rank's gradient of the global batch's loss goes in as one backward pass a step, however many micro-batches the
    rank had: so shares may be uneven, and a rank without cases takes part.
    """

    def __init__(self, adapter: Arm, optim: OptimSection, ranks: ProcessGroup) -> None:
        self._ranks = ranks
        self._adapter = adapter
        self.engine: Any = ranks.prepare(adapter, build_optimizer(adapter, optim))
        self._linked = False

    @property
    def name(self) -> str:
        """Name of the optimizer, from the engine itself."""
        return f"{type(self.engine).__name__} ZeRO {self.engine.zero_optimization_stage()}"

    def update(self, learning_rate: float) -> None:
        """Make one step from the ranks' summed gradients; the engine takes their mean, and clips."""
        set_learning_rate(self.engine.optimizer, learning_rate)
        objective = torch.zeros((), device=self._ranks.device)
        for parameter in self._adapter.parameters():
            gradient, parameter.grad = parameter.grad, None
            share = torch.zeros_like(parameter) if gradient is None else gradient * self._ranks.world_size
            objective = objective + (parameter * share).sum()
        self.engine.backward(objective)
        self.engine.step()
        self._link_state()

    def get_state(self) -> dict[str, Tensor]:
        """Return parameters and AdamW's state, gathered from the ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        for name, parameter in self._adapter.named_parameters():
            tensors[f"parameter/{name}"] = safe_get_full_fp32_param(parameter)
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"optimizer/{key}/{name}"] = safe_get_full_optimizer_state(parameter, key)
            tensors[f"optimizer/step/{name}"] = self._states()[0]["step"].clone()
        return tensors

    def set_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore parameters and AdamW's state; the engine makes its state at a first step, which changes nothing."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self.update(0.0)
        for name, parameter in self._adapter.named_parameters():
            whole = tensors[f"parameter/{name}"].to(parameter.device)
            with torch.no_grad():
                parameter.copy_(whole)
            safe_set_full_fp32_param(parameter, whole)
            for key in find_state_keys(tensors, name):
                value = tensors[f"optimizer/{key}/{name}"].to(parameter.device)
                if key == "step":
                    for state in self._states():
                        state["step"].fill_(float(value))
                else:
                    safe_set_full_optimizer_state(parameter, value, key)

    def _link_state(self) -> None:
        """Let parameters find their state: DeepSpeed 0.19 looks after the first group's first step, and but once."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self._linked:
            return
        zero = self.engine.optimizer
        for parameters, part in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            lazy_init_hp_params_optimizer_state(parameters, part, zero.optimizer.state)
        self._linked = True

    def _states(self) -> list[dict[str, Tensor]]:
        """Return AdamW's state of this rank's part of each parameter group."""
        return list(self.engine.optimizer.optimizer.state.values())
