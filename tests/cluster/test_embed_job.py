"""Embedding on Ray's processes: killed ones, and folders that cannot be written."""

import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from messages import raises_naming
from real_runs import make_recipe

from t2m_bench.cluster.embed_job import embed_with_ray
from t2m_bench.embedding.encode import EmbedTask
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import ShardPlan
from t2m_bench.errors import WorkersLostError
from t2m_bench.models.sam import load_sam
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.terminal import Terminal


@pytest.fixture(scope="module")
def task(root: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbedTask:
    folder = tmp_path_factory.mktemp("embed")
    prepared = prepare(make_recipe(root), folder, Terminal())
    sam = load_sam("mini")
    signature = Signature("mini", sam.weights_sha256, sam.entry.get_preprocessing_id(), "m" * 64)
    plan = ShardPlan("shard-00000.h5", tuple(case.case_id for case in prepared.cases))
    return EmbedTask("mini", None, prepared.root.resolve(), folder / "shards", plan, signature, tuple(prepared.cases))


def test_a_folder_that_cannot_be_made_is_told_as_the_system_does(root: Path, task: EmbedTask, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cluster = make_recipe(root, num_embed_workers=1, max_failures=1).cluster
    with pytest.raises(OSError, match="file") as caught:
        embed_with_ray([replace(task, folder=tmp_path / "file" / "shards")], cluster, lambda cases: None)
    assert type(caught.value) is NotADirectoryError, "not wrapped by Ray"
    assert "\n" not in str(caught.value)


def kill_embedders(ended: threading.Event) -> None:
    """Kill each process of this one's Ray that embeds."""
    while not ended.wait(0.05):
        listing = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        for line in listing.splitlines():
            pid, _, arguments = line.strip().partition(" ")
            if arguments.strip().startswith("ray::_run") and is_ours(int(pid)):
                os.kill(int(pid), signal.SIGKILL)


def is_ours(pid: int) -> bool:
    while pid > 1 and pid != os.getpid():
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == os.getpid()


def test_workers_that_keep_dying_are_lost_workers(root: Path, task: EmbedTask) -> None:
    cluster = make_recipe(root, num_embed_workers=1, max_failures=1).cluster
    ended = threading.Event()
    killer = threading.Thread(target=kill_embedders, args=(ended,))
    killer.start()
    try:
        with raises_naming(WorkersLostError, "embedding", "1 times"):
            embed_with_ray([task], cluster, lambda cases: None)
    finally:
        ended.set()
        killer.join()
    assert not (task.folder / task.plan.file).exists()
