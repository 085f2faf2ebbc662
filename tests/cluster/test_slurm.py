"""`sbatch slurm/train.sh` on a real Slurm of several hosts."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_lab import SlurmLab, install, slurm_lab

from t2m_bench.training.checkpoint import load_tensors

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["dataset.phantom.cases=63", "optim.epochs=6", "optim.global_batch_size=8", "optim.patience=9"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmLab]:
    reason = install()
    if reason:
        pytest.skip(reason)
    with slurm_lab(tmp_path_factory.mktemp("slurm"), num_hosts=2) as lab:
        yield lab


@pytest.fixture(autouse=True)
def tool_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give jobs the tool that is under test, as a user's activated environment does."""
    binaries = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setenv("VIRTUAL_ENV", str(binaries.parent))


def submit(lab: SlurmLab, folder: Path, *arguments: object) -> int:
    folder.mkdir(exist_ok=True)
    return lab.submit("--time=10", "--cpus-per-task=1", REPOSITORY / "slurm" / "train.sh", *arguments, cwd=folder)


def read_log(folder: Path, job: int) -> str:
    return (folder / f"t2m-train-{job}.log").read_text()


def load_final(folder: Path) -> dict[str, object]:
    (adapter,) = folder.glob("runs/*/hierarchical-*/adapter.safetensors")
    return load_tensors(adapter)[0]


def wait_for_epochs(lab: SlurmLab, folder: Path, job: int, epochs: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = list(folder.glob("runs/*/hierarchical-*/history.jsonl"))
        if found and len(found[0].read_text().splitlines()) >= epochs:
            return
        time.sleep(0.05)
    pytest.fail(f"{lab.state(job)}: {read_log(folder, job)}")


@pytest.fixture(scope="module")
def undisturbed(lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        binaries = Path(sys.executable).parent
        patch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
        patch.setenv("VIRTUAL_ENV", str(binaries.parent))
        job = submit(lab, folder, *SMALL)
        state = lab.wait(job)
    assert state == "COMPLETED", read_log(folder, job)
    return folder


def test_two_hosts_train_and_evaluate(lab: SlurmLab, undisturbed: Path) -> None:
    (run,) = undisturbed.glob("runs/*/hierarchical-*/run.json")
    summary = json.loads(run.read_text())
    assert summary["world_size"] == 2
    assert summary["num_nodes"] == 2
    assert 0 < summary["test_dice"] <= 1
    (log,) = undisturbed.glob("t2m-train-*.log")
    printed = log.read_text()
    assert "--num-cpus=1 --num-gpus=0" in printed
    assert f"--memory={4096 * 2**20 // 100 * 80}" in printed
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "/tmp/ray-" not in listing, "nothing of a job's Ray may be left on a host"


@pytest.mark.parametrize("request_stop", ["usr1", "requeue"])
def test_a_disturbed_job_ends_as_an_undisturbed_one(
    lab: SlurmLab, undisturbed: Path, tmp_path: Path, request_stop: str
) -> None:
    job = submit(lab, tmp_path / "a", *SMALL, "cluster.checkpoint_minutes=0.000001")
    wait_for_epochs(lab, tmp_path / "a", job, 2)
    if request_stop == "usr1":
        lab.command("scancel", "--batch", "--signal=USR1", job)
    else:
        lab.command("scontrol", "requeue", job)
    state = lab.wait(job)
    printed = read_log(tmp_path / "a", job)
    assert state == "COMPLETED", printed
    if request_stop == "usr1":
        assert "stopped on request, the work is saved" in printed
    assert "Restarts=1" in lab.command("scontrol", "show", "job", job)
    want, got = load_final(undisturbed), load_final(tmp_path / "a")
    assert all(want[name].equal(got[name]) for name in want)


def test_wrong_input_ends_the_job_at_once(lab: SlurmLab, tmp_path: Path) -> None:
    job = submit(lab, tmp_path / "a", "optim.epoch=3")
    assert lab.wait(job, 90) == "FAILED"
    assert "did you mean epochs?" in read_log(tmp_path / "a", job)
    assert "Restarts=0" in lab.command("scontrol", "show", "job", job)


def test_a_cancelled_job_leaves_nothing(lab: SlurmLab, tmp_path: Path) -> None:
    job = submit(lab, tmp_path / "a", *SMALL)
    wait_for_epochs(lab, tmp_path / "a", job, 1)
    lab.command("scancel", job)
    assert lab.wait(job, 60) == "CANCELLED"
    for _ in range(60):
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        if "/tmp/ray-" not in listing:
            return
        time.sleep(0.5)
    pytest.fail("Ray goes on after scancel")


@pytest.mark.soak
def test_a_host_without_power_is_waited_for_and_the_job_goes_on(
    lab: SlurmLab, undisturbed: Path, tmp_path: Path
) -> None:
    job = submit(lab, tmp_path / "a", *SMALL, "cluster.checkpoint_minutes=0.000001")
    wait_for_epochs(lab, tmp_path / "a", job, 2)
    lab.power_off(2)
    lost = time.monotonic()
    while "nodes or workers were lost" not in read_log(tmp_path / "a", job):
        assert time.monotonic() - lost < 120, read_log(tmp_path / "a", job)
        time.sleep(0.5)
    lab.power_on(2)
    assert lab.wait(job) == "COMPLETED", read_log(tmp_path / "a", job)
    want, got = load_final(undisturbed), load_final(tmp_path / "a")
    assert all(want[name].equal(got[name]) for name in want)
