"""Gives the training loop its process group, through Accelerate; one process is a group of one.

Whoever starts workers makes their process group first. A process without one trains alone, whatever a launcher
(torchrun, Kubeflow, srun, mpirun) has left in its environment.
"""

import json
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.nn  # before any group exists: imported later, its defaults keep the group's threads to the end
from accelerate import Accelerator, DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from t2m_bench.errors import RecipeError
from t2m_bench.locks import hold_lock
from t2m_bench.recipe.schema import Zero
from t2m_bench.shipped import find_folder
from t2m_bench.training.launcher_variables import forget_launchers
from t2m_bench.training.precision import autocast


class ProcessGroup:
    """This process among those that train together.

    The group is the one that was made before, by Ray or `join_group`; without one this process is alone, and no
    variable is read. Sums of tensors are all that is shared: each rank fills its own rows of a zero tensor, so a sum
    also gathers, in an order that does not depend on the number of ranks.

    Raises:
        RecipeError: fp16 is asked where there is no GPU, or DeepSpeed where it cannot run.
    """

    def __init__(
        self, mixed_precision: str, use_gpu: bool, zero: Zero | None = None, clip_norm: float | None = None
    ) -> None:
        if mixed_precision == "fp16" and not use_gpu:
            raise RecipeError("optim.mixed_precision = fp16 needs a GPU; on a CPU use bf16.")
        self._alone = find_device(use_gpu)
        # Accelerate keeps one precision for the life of a process; autocast is torch's own, so that runs may differ
        self._accelerator: Accelerator | None = None
        if torch.distributed.is_initialized():
            forget_launchers()
            if zero is None:
                self._accelerator = Accelerator(cpu=not use_gpu, mixed_precision="no")
            else:
                self._accelerator = _accelerate_with_deepspeed(zero, use_gpu, clip_norm)
        elif zero is not None:
            raise RuntimeError("DeepSpeed works in a process group; there is none")
        self._precision = mixed_precision
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=mixed_precision == "fp16")

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index) if self._accelerator else 0

    @property
    def world_size(self) -> int:
        return int(self._accelerator.num_processes) if self._accelerator else 1

    @property
    def num_nodes(self) -> int:
        """Hosts that train together; each rank says how many share its own (torchrun's variable, which Ray sets)."""
        on_this_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self._accelerator else 1
        return round(float(self.sum(torch.tensor(1.0 / on_this_node, device=self.device))))

    @property
    def device(self) -> torch.device:
        return torch.device(self._accelerator.device) if self._accelerator else self._alone

    @property
    def is_main(self) -> bool:
        """Return whether this rank writes the run folder."""
        return self.rank == 0

    @property
    def has_deepspeed(self) -> bool:
        """Return whether DeepSpeed makes the updates."""
        return self._accelerator is not None and self._accelerator.distributed_type == DistributedType.DEEPSPEED

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """Return DeepSpeed's engine over a module and its optimizer."""
        assert self._accelerator is not None
        engine, _ = self._accelerator.prepare(module, optimizer)
        return engine

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in the recipe's precision inside this context."""
        return autocast(self.device, self._precision)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""
        if self._accelerator is None or self.world_size == 1:
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

    def barrier(self) -> None:
        """Return when every rank has come this far."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def join_group(rank: int, world_size: int, port: int) -> None:
    """Join a group of processes on this host that talk by gloo, of which rank 0 listens on the port."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )


def find_device(use_gpu: bool) -> torch.device:
    """Return the kind of device that the recipe asks for.

    Raises:
        RecipeError: a GPU is asked for and torch finds none.
    """
    if use_gpu and not torch.cuda.is_available():
        raise RecipeError("cluster.use_gpu is true, but torch finds no GPU here; set it to false or use a GPU node.")
    return torch.device("cuda" if use_gpu else "cpu")


def _accelerate_with_deepspeed(zero: Zero, use_gpu: bool, clip_norm: float | None) -> Accelerator:
    """Build an Accelerator whose `prepare` makes DeepSpeed's engine.

    On a CPU `cpu=True` would silently train without DeepSpeed; what it would have set is set here instead.
    """
    if not use_gpu and torch.cuda.is_available():
        raise RecipeError("cluster.deepspeed would use the GPUs here; set cluster.use_gpu=true, or deepspeed to null.")
    if not use_gpu and not any(map(shutil.which, ("c++", "g++"))):
        raise RecipeError("cluster.deepspeed on a CPU compiles a part of DeepSpeed: install a C++ compiler (g++).")
    if not use_gpu:
        compile_once()
    file = find_folder("launch") / "deepspeed" / f"{zero}.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file}: DeepSpeed's settings cannot be read ({error}). Install from a checkout.") from None
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    accelerator = Accelerator(
        mixed_precision="no",
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config | {"gradient_clipping": clip_norm or 0.0}),
        kwargs_handlers=[] if use_gpu else [InitProcessGroupKwargs(backend="gloo")],
    )
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        raise RuntimeError(f"asked for DeepSpeed, Accelerate set up {accelerator.distributed_type}")
    return accelerator


def compile_once() -> None:
    """Compile DeepSpeed's part for CPUs where that is not done yet, one process after another.

    PyTorch guards a compilation by a file, which a killed process leaves behind and all later ones would wait on for
    ever. Our lock ends with its process: whoever holds it knows that the file is nobody's.
    """
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    folder = find_build_folder(ShareMemCommBuilder.NAME)
    with hold_lock(folder / ".t2m-bench.lock"):
        (folder / "lock").unlink(missing_ok=True)
        build_shm_op()


def find_build_folder(name: str) -> Path:
    """Return the folder in which PyTorch compiles an extension of this name, made where it is missing."""
    from torch.utils import cpp_extension

    find = getattr(cpp_extension, "_get_build_directory", None)
    if find is not None:
        return Path(find(name, verbose=False))
    # a private name, which a later PyTorch may lack; this variable, which is public, then says where it compiles
    ours = Path.home() / ".cache" / "t2m-bench" / f"torch_extensions-{torch.__version__}"
    folder = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(ours))) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
