"""What the training loop needs of its process group, through Accelerate; one process is a group of one."""

import os
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from t2m_bench.errors import RecipeError

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Ranks:
    """This process among those that train together.

    Sums of tensors are all that is shared: each rank fills its own rows of a zero tensor, so a sum also gathers, in an
    order that does not depend on the number of ranks.

    Raises:
        RecipeError: fp16 is asked where there is no GPU.
    """

    def __init__(self, mixed_precision: str, use_gpu: bool) -> None:
        if use_gpu and not torch.cuda.is_available():
            raise RecipeError(
                "cluster.use_gpu is true, but torch finds no GPU here; set it to false or use a GPU node."
            )
        if mixed_precision == "fp16" and not use_gpu:
            raise RecipeError("optim.mixed_precision = fp16 needs a GPU; on a CPU use bf16.")
        # Accelerate keeps one precision for the life of a process; autocast is torch's own, so that runs may differ
        self._accelerator = Accelerator(cpu=not use_gpu, mixed_precision="no")
        self._dtype = PRECISIONS[mixed_precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=mixed_precision == "fp16")

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def world_size(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def num_nodes(self) -> int:
        """Hosts that train together; each rank says how many share its own (torchrun's variable, which Ray sets)."""
        on_this_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return round(float(self.sum(torch.tensor(1.0 / on_this_node, device=self.device))))

    @property
    def device(self) -> torch.device:
        return torch.device(self._accelerator.device)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the run folder."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in the recipe's precision inside this context."""
        return torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype is not None)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""
        if self.world_size == 1:
            return tensor
        total: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return total

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace each trainable parameter's gradient by its sum over all ranks; a rank without cases adds zero."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = self.sum(torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]))
        pieces = flat.split([parameter.numel() for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).clone()

    def wait(self) -> None:
        """Return when every rank has come this far."""
        self._accelerator.wait_for_everyone()
