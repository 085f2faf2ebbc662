"""A process without a group trains alone, whatever launched its shell."""

import os
import subprocess
import sys

import pytest
import torch
from ranks_bench import find_port

from t2m_bench.training.launcher_variables import hide_launchers, list_launched
from t2m_bench.training.process_group import ProcessGroup

LAUNCHERS = {
    "torchrun": {
        **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577", "TORCHELASTIC_USE_AGENT_STORE": "True"},
    },
    "second rank": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"},
    "PyTorchJob": {
        "WORLD_SIZE": "4",
        "RANK": "3",
        "PET_NNODES": "4",
        "MASTER_ADDR": "job-master-0",
        "MASTER_PORT": "23456",
    },
    "srun pmi2": {"PMI_SIZE": "2", "PMI_RANK": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
    "srun pmix": {
        "PMIX_RANK": "1",
        "PMIX_NAMESPACE": "slurm.pmix.1.0",
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
    },
    "Open MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
    "Intel MPI": {"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "0"},
    "MVAPICH2": {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"},
    "accelerate launch": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_MIXED_PRECISION": "fp8",
        "FORK_LAUNCHED": "1",
    },
    "nonsense": {"WORLD_SIZE": "many", "RANK": "", "LOCAL_RANK": "x"},
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_group_of_one_reads_no_environment(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    ranks = ProcessGroup("no", use_gpu=False)
    assert (ranks.rank, ranks.world_size, ranks.num_nodes, ranks.is_main) == (0, 1, 1, True)
    assert ranks.device == torch.device("cpu")
    assert not ranks.has_deepspeed
    assert ranks.sum(torch.tensor(3.0)) == 3.0
    ranks.barrier()
    assert dict(os.environ) == before
    told = list_launched(os.environ)
    assert LAUNCHERS[launcher].items() <= told.items()
    with hide_launchers():
        assert not {name for name in list_launched(os.environ) if not name.startswith("SLURM_")}
    assert dict(os.environ) == before


def test_a_shell_that_nothing_launched_has_nothing_to_tell() -> None:
    ordinary = {"HOME": "/root", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "h:1"}
    assert list_launched(ordinary) == {}


def test_a_group_that_was_made_stands_above_other_launchers(tmp_path: os.PathLike[str]) -> None:
    """A worker of two on a node that srun started: its size is the group's, not PMI's."""
    code = (
        "import os, sys, torch\n"
        "from t2m_bench.training.process_group import ProcessGroup, join_group\n"
        "rank = int(sys.argv[1])\n"
        "os.environ.update(PMI_SIZE='5', PMI_RANK='4', OMPI_COMM_WORLD_SIZE='7', ACCELERATE_USE_DEEPSPEED='true')\n"
        "join_group(rank, 2, int(sys.argv[2]))\n"
        "ranks = ProcessGroup('no', use_gpu=False)\n"
        "print(ranks.rank, ranks.world_size, ranks.num_nodes, float(ranks.sum(torch.ones(()))), ranks.has_deepspeed)\n"
    )

    port = str(find_port())
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), port], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    # the last line: gloo of an older torch says on standard output too with whom it is connected
    said = sorted(process.communicate(timeout=120)[0].splitlines()[-1].split() for process in started)
    assert said == [["0", "2", "1", "2.0", "False"], ["1", "2", "1", "2.0", "False"]]
