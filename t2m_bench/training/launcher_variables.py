"""Variables by which launchers tell a process its rank, and which libraries take for settings of its process group."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

GROUP = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""torchrun's and Kubeflow's, which Ray sets in its own workers."""

FOREIGN = {
    "PMI_": "srun or mpirun",
    "PMIX_": "srun or mpirun",
    "OMPI_COMM_WORLD_": "mpirun of Open MPI",
    "MV2_COMM_WORLD_": "mpirun of MVAPICH2",
    "MPI_LOCAL": "mpirun of Intel MPI",
    "PET_": "Kubeflow",
    "TORCHELASTIC_": "torchrun",
    "ACCELERATE_": "accelerate launch",
    "FSDP_": "accelerate launch",
    "MEGATRON_LM_": "accelerate launch",
    "PARALLELISM_CONFIG_": "accelerate launch",
    "FORK_LAUNCHED": "accelerate launch",
}
"""Prefix -> who sets such variables; none of ours, wherever they stand."""

SET_BY_RAY = ("ACCELERATE_TORCH_DEVICE",)

TASK, TASKS = "SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
"""Slurm's number of this task, and how many there are."""


def is_foreign(name: str) -> bool:
    """Return whether a launcher that is none of ours sets a variable of this name."""
    return name.startswith(tuple(FOREIGN)) and name not in SET_BY_RAY


def forget_launchers() -> None:
    """Remove from a worker's environment what torch, Accelerate and DeepSpeed would take for settings of its group."""
    for name in list(os.environ):
        if is_foreign(name):
            del os.environ[name]


@contextmanager
def hide_launchers() -> Iterator[None]:
    """Inside this context the environment has no variable of a launcher, so that processes started there inherit none.

    Workers of a Ray of our own would: torchrun's make torch wait for a store that is not there.
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name in GROUP or is_foreign(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def list_launched(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables of launchers with their values, by name: with them other programs would form a group."""
    found = {name: value for name, value in environment.items() if name in GROUP or is_foreign(name)}
    if TASK in environment and any(environment.get(name, "1") not in ("", "1") for name in TASKS):
        found |= {name: environment[name] for name in (TASK, *TASKS) if name in environment}
    return dict(sorted(found.items()))
