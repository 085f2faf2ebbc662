"""Ray's workers on real processes: killed, given bad input, asked for more than there is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from t2m_bench.cluster.session import count_cpus
from t2m_bench.config import Recipe, parse_recipe
from t2m_bench.errors import ClusterError, DatasetError
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.terminal import Terminal
from t2m_bench.pipeline.train import open_experiment, train
from t2m_bench.training.checkpoint import ADAPTER_NAME, load_tensors


def make_recipe(root: Path, **cluster: object) -> Recipe:
    raw = {
        "name": "trial",
        "dataset": {"root": str(root), "phantom": {"cases": 63, "seed": 4}},
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": 6, "warmup_steps": 2, "global_batch_size": 8, "patience": 9},
        "cluster": {"num_train_workers": 2, "checkpoint_minutes": 1e-6, **cluster},
    }
    return parse_recipe(raw, "test")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "phantoms"


def start(recipe: Recipe, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "train", str(folder / "recipe.yaml")]
    command += ["--runs", str(folder / "runs"), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def find_workers(driver: int) -> list[int]:
    """Return the ids of the driver's own training workers."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    parent = {int(pid): int(ppid) for pid, ppid, _ in rows}

    def descends(pid: int) -> bool:
        while pid in parent and pid != driver:
            pid = parent[pid]
        return pid == driver

    return [int(pid) for pid, _, args in rows if "TrainWorker" in args and descends(int(pid))]


def wait_for_epochs(folder: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        found = list(folder.glob("runs/*/hierarchical-*/history.jsonl"))
        if found and len(found[0].read_text().splitlines()) >= epochs:
            return
        time.sleep(0.02)
    pytest.fail(f"ended too early: {process.communicate()}")


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(printed.splitlines()[-1])


def restart(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Give the same command again."""
    return subprocess.Popen(process.args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same_end(undisturbed: Path, folder: Path) -> None:
    """Final weights and history equal to the bit."""
    want, got = load_final(undisturbed), load_final(folder)
    assert want.keys() == got.keys()
    assert all(want[name].equal(got[name]) for name in want)
    tables = [next(place.glob("runs/*/hierarchical-*/history.jsonl")).read_text() for place in (undisturbed, folder)]
    rows = [[{**json.loads(line), "seconds": 0} for line in table.splitlines()] for table in tables]
    assert rows[0] == rows[1]


def load_final(folder: Path) -> dict[str, object]:
    (adapter,) = folder.glob(f"runs/*/hierarchical-*/{ADAPTER_NAME}")
    return load_tensors(adapter)[0]


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "a"
    finish(start(make_recipe(root), folder))
    return folder


@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_killed_process_costs_nothing_but_time(root: Path, undisturbed: Path, tmp_path: Path, victim: str) -> None:
    folder = tmp_path / "b"
    process = start(make_recipe(root), folder)
    wait_for_epochs(folder, 2, process)
    pid = process.pid if victim == "driver" else find_workers(process.pid)[0]
    os.kill(pid, signal.SIGKILL)
    if victim == "driver":
        process.communicate(timeout=60)
        process = restart(process)
    finish(process)
    assert_same_end(undisturbed, folder)


def test_bad_input_in_a_worker_is_told_once_and_not_retried(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    write = open_experiment(make_recipe(root), tmp_path / "first", Terminal())  # the phantoms are there from now on
    shutil.copytree(write.prepared.root, copy)
    recipe = make_recipe(copy)
    experiment = open_experiment(recipe, tmp_path / "runs", Terminal())
    (case, *_) = experiment.make_job("gated", 0).select(experiment.prepared.splits.val)
    (copy / case.mask_path).write_bytes(b"gone")
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        train(experiment, "gated", 0, Terminal(), StopRequest())


def test_more_workers_than_processors_are_refused_at_once(root: Path, tmp_path: Path) -> None:
    recipe = make_recipe(root, num_train_workers=count_cpus() + 1)
    experiment = open_experiment(recipe, tmp_path, Terminal())
    with pytest.raises(ClusterError, match=f"asks for {count_cpus() + 1} CPUs at once and there are {count_cpus()}"):
        train(experiment, "gated", 0, Terminal(), StopRequest())


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGUSR1, 85),
        pytest.param(signal.SIGTERM, 85, marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak),
    ],
)
def test_a_signal_saves_at_the_next_step_and_the_same_command_goes_on(
    root: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "b"
    rarely = make_recipe(root, checkpoint_minutes=10)  # so that only the signal saves inside an epoch
    process = start(rarely, folder)
    wait_for_epochs(folder, 2, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert f"stopped by {number.name}" in errors
    (state,) = folder.glob("runs/*/hierarchical-*/state.safetensors")
    progress = load_tensors(state)[1]
    assert not progress["finished"]
    assert (progress["epoch"], progress["step"]) > (2, 0)
    finish(restart(process))
    assert_same_end(undisturbed, folder)


def test_a_cluster_that_does_not_answer_is_named(root: Path, tmp_path: Path) -> None:
    recipe = make_recipe(root)
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "train", str(folder / "recipe.yaml")]
    for address, message in (("127.0.0.1:9", "nothing answers there"), ("somewhere", "write it as HOST:PORT")):
        environment = {**os.environ, "RAY_ADDRESS": address}
        done = subprocess.run(
            [*command, "--runs", str(tmp_path / "runs")], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
