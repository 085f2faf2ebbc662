"""Ray's workers on real processes: stopped, given bad input, asked for more than there is."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from messages import check_names, raises_naming
from real_runs import assert_same_end, finish, make_recipe, restart, start, wait_for_epochs

from t2m_bench.cluster import stop as stop_flag
from t2m_bench.cluster import train_job
from t2m_bench.cluster.session import count_cpus
from t2m_bench.errors import ClusterError, DatasetError, StoppedError
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.train import open_experiment, train
from t2m_bench.terminal import Terminal
from t2m_bench.training.checkpoint import load_tensors


def test_bad_input_in_a_worker_is_told_once_and_not_retried(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "data"
    write = open_experiment(make_recipe(root), tmp_path / "first", Terminal())  # the phantoms are there from now on
    shutil.copytree(write.prepared.root, copy)
    recipe = make_recipe(copy)
    experiment = open_experiment(recipe, tmp_path / "runs", Terminal())
    job = experiment.make_job("gated", 0)
    stopped = StopRequest()
    stopped.number = signal.SIGTERM  # another arm writes the reference, which reads all masks in this process, and ends
    alone = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"num_train_workers": 0})})
    with pytest.raises(StoppedError):
        train(open_experiment(alone, tmp_path / "runs", Terminal()), "text_free", 0, Terminal(), stopped)
    assert (experiment.folder / "reference-fold1" / "cases.parquet").is_file()
    (case, *_) = job.select(experiment.prepared.splits.val)
    (copy / case.mask_path).write_bytes(b"gone")
    with raises_naming(DatasetError, copy / case.mask_path) as caught:
        train(experiment, "gated", 0, Terminal(), StopRequest())
    assert caught.traceback[-1].path == Path(train_job.__file__), "a worker met it, not this process"
    assert len(list((job.run_folder / "tensorboard").iterdir())) == 1, "each attempt to train opens one"


@pytest.mark.soak
def test_workers_that_heed_no_stop_are_left_in_time_and_the_same_command_ends_the_run(
    root: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They evaluate, which nothing interrupts and is done again: the time limit would end the job without a requeue."""
    monkeypatch.setattr(stop_flag, "STOP_SECONDS", 0.0)  # so that they still train: evaluation is short here
    shutil.copytree(undisturbed, tmp_path / "a", ignore=shutil.ignore_patterns("hierarchical-*"))
    experiment = open_experiment(make_recipe(root), tmp_path / "a" / "runs", Terminal())
    job, stop = experiment.make_job("hierarchical", 0), StopRequest()

    def ask_in_the_midst() -> None:
        while not (job.run_folder / "history.jsonl").exists():
            time.sleep(0.05)
        stop.number = signal.SIGUSR1
        stop.notify()

    threading.Thread(target=ask_in_the_midst, daemon=True).start()
    with pytest.raises(StoppedError):
        train(experiment, "hierarchical", 0, Terminal(), stop)
    assert not (job.run_folder / "run.json").exists()
    train(experiment, "hierarchical", 0, Terminal(), StopRequest())
    assert_same_end(undisturbed, tmp_path / "a")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DatasetError("bad"), ("DatasetError", "bad")),
        (OSError(errno.ENOSPC, "No space", "a"), ("UserError", "space: 'a'")),
        (OSError(errno.EACCES, "Permission denied", "a"), ("UserError", "denied: 'a'")),
        (OSError(errno.ESTALE, "Stale handle", "a"), None),  # another start may well succeed
        (ConnectionResetError(), None),
    ],
)
def test_what_another_start_would_meet_again_is_not_retried(error: OSError, told: tuple[str, str] | None) -> None:
    found = train_job.find_lasting_failure(error)
    assert (found is None) == (told is None)
    if told is not None:
        assert found[0] == told[0]
        assert told[1] in found[1]


def test_a_stop_is_overdue_when_there_was_time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    call = stop_flag.StopCall(SimpleNamespace(set=SimpleNamespace(remote=lambda: asked.append(1))))
    monkeypatch.setattr(stop_flag, "STOP_SECONDS", 0.0)
    assert not call.is_overdue(), "nobody asked"
    call.ask()
    time.sleep(0.01)
    assert asked == [1]
    assert call.is_overdue()
    monkeypatch.setattr(stop_flag, "STOP_SECONDS", 60.0)
    assert not call.is_overdue()


@pytest.mark.parametrize(("workers", "cpus", "room"), [(count_cpus() + 1, 1, count_cpus()), (1, count_cpus() + 1, 0)])
def test_more_than_the_nodes_have_is_refused_at_once(
    root: Path, tmp_path: Path, workers: int, cpus: float, room: int
) -> None:
    recipe = make_recipe(root, num_train_workers=workers, cpus_per_worker=cpus)
    experiment = open_experiment(recipe, tmp_path, Terminal())
    asked = (f"{workers} processes", f"{cpus} CPUs")
    with raises_naming(ClusterError, "cluster.num_train_workers", *asked, f"room for {room}"):
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
    process = start(rarely, folder, undisturbed)
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
    for address, named in (("127.0.0.1:9", "unset"), ("somewhere", "HOST:PORT")):
        environment = {**os.environ, "RAY_ADDRESS": address}
        done = subprocess.run(
            [*command, "--runs", str(tmp_path / "runs")], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        check_names(done.stderr, "RAY_ADDRESS", address, named)
