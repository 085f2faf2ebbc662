"""How processes that trained together leave each other."""

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from ranks_bench import compute_one_gradient, find_port, join_ranks


def _list_threads_of_group() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it ended meanwhile
            names.append((task / "comm").read_text().strip())
    return [name for name in names if "gloo" in name or "tcpstore" in name]


def _leave(rank: int, port: int, out: Path) -> None:
    join_ranks(rank, 2, port)
    compute_one_gradient(step=0, micro_batch_size=16)
    with_group = _list_threads_of_group()
    torch.distributed.destroy_process_group()
    patience = time.monotonic() + 10
    while _list_threads_of_group() and time.monotonic() < patience:  # the system lists a thread a moment longer
        time.sleep(0.05)
    (out / f"{rank}.json").write_text(json.dumps([with_group, _list_threads_of_group()]))


def test_no_thread_of_a_group_outlives_it(tmp_path: Path) -> None:
    """One that does may still free a tensor while the interpreter ends, which aborts the process now and then."""
    mp.spawn(_leave, (find_port(), tmp_path), nprocs=2)
    for rank in range(2):
        with_group, after = json.loads((tmp_path / f"{rank}.json").read_text())
        if not with_group and torch.__version__ < "2.13":
            pytest.skip("threads of an older torch have no names by which to find them")
        assert with_group
        assert not after, f"rank {rank}"
