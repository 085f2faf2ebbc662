"""`sbatch slurm/train.sh` on a real Slurm of several hosts, and what clusters do to jobs."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from messages import is_named
from slurm_lab import HOSTS_OWN, SlurmLab, install, run, slurm_lab

from t2m_bench.search.study import has_study, list_counted, load_studies
from t2m_bench.shipped import copy_shipped
from t2m_bench.training.checkpoint import load_tensors

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["dataset.phantom.cases=63", "optim.epochs=10", "optim.global_batch_size=8", "optim.patience=19"]
ALWAYS_SAVE = "cluster.checkpoint_minutes=0.000001"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmLab]:
    """Six hosts, whose jobs find the tool under test and notice lost hosts soon."""
    reason = install()
    if reason:
        pytest.skip(reason)
    binaries = Path(sys.executable).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
        patch.setenv("VIRTUAL_ENV", str(binaries.parent))
        patch.setenv("RAY_health_check_timeout_ms", "2500")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("T2M_LOST_SECONDS", "4")
        patch.setenv("T2M_TEMP", HOSTS_OWN)
        patch.setenv("T2M_JOIN_SECONDS", "150")  # this machine has six hosts on its processors
        with slurm_lab(tmp_path_factory.mktemp("slurm"), num_hosts=6) as lab:
            yield lab


def submit(
    lab: SlurmLab,
    folder: Path,
    hosts: str,
    *arguments: object,
    nodes: int = 2,
    script: str = "train.sh",
    options: Sequence[str] = (),
) -> int:
    """Submit a script from a folder, to some of the hosts."""
    folder.mkdir(exist_ok=True)
    if script == "train.sh" and (not arguments or "=" in str(arguments[0])):
        arguments = (
            "demo",
            *arguments,
        )  # in runs/, as a user's recipe is; without a recipe the demo has its own folder
    others = set(range(1, lab.num_hosts + 1)) - {int(number) for number in hosts.split(",")}
    wishes = ["--time=20", "--cpus-per-task=1", "--mem=3G", f"--nodes={nodes}", *options]
    exclude = f"--exclude={','.join(f'n{number}' for number in others)}"
    return lab.submit(*wishes, exclude, REPOSITORY / "slurm" / script, *arguments, cwd=folder)


def read_log(folder: Path, job: int) -> str:
    (log,) = folder.glob(f"t2m-*-{job}.log")
    return log.read_text()


def count_epochs(folder: Path) -> int:
    found = list(folder.glob("runs/*/hierarchical-*/history.jsonl"))
    return len(found[0].read_text().splitlines()) if found else 0


def wait_until(happened: Callable[[], bool], folder: Path, job: int, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return
        time.sleep(0.2)
    pytest.fail(read_log(folder, job))


def list_ray(job: int) -> list[str]:
    """Return the command lines of a job's Ray, on all hosts."""
    listing = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if f"{HOSTS_OWN}/ray-{job}" in line]


def is_on(lab: SlurmLab, host: int, job: int) -> bool:
    """Return whether a job's Ray runs on a host."""
    return f"{HOSTS_OWN}/ray-{job}/" in "\n".join(lab.list_processes(host))


def assert_same_end(undisturbed: Path, folder: Path) -> None:
    pair = [next(place.glob("runs/*/hierarchical-*/adapter.safetensors")) for place in (undisturbed, folder)]
    want, got = (load_tensors(path)[0] for path in pair)
    assert all(want[name].equal(got[name]) for name in want)
    assert count_epochs(folder) == count_epochs(undisturbed)


@pytest.fixture(scope="module")
def unreachable(lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A job behind a firewall: one host hears no answer from Ray on the other. It only waits, beside the other jobs."""
    lab.block_ray(6, head=5)
    folder = tmp_path_factory.mktemp("unreachable")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2M_JOIN_SECONDS", "60")
        return folder, submit(lab, folder, "5,6", *SMALL)


@pytest.fixture(scope="module")
def mistaken(lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("mistaken")
    return folder, submit(lab, folder, "3,4", "optim.epoch=3")


@pytest.fixture(scope="module")
def undisturbed(
    lab: SlurmLab,
    unreachable: tuple[Path, int],
    mistaken: tuple[Path, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = submit(lab, folder, "1,2", *SMALL)
    assert lab.wait(job) == "COMPLETED", read_log(folder, job)
    assert list_ray(job) == [], "nothing of a job's Ray may be left on a host"
    return folder


@pytest.fixture
def folder(undisturbed: Path, tmp_path: Path) -> Path:
    """A folder where all is prepared and nothing trained."""
    shutil.copytree(undisturbed, tmp_path / "a", ignore=shutil.ignore_patterns("hierarchical-*", "*.log"))
    return tmp_path / "a"


def test_two_hosts_train_and_evaluate(undisturbed: Path) -> None:
    (found,) = undisturbed.glob("runs/*/hierarchical-*/run.json")
    summary = json.loads(found.read_text())
    assert summary["world_size"] == 2
    assert summary["num_nodes"] == 2
    assert 0 < summary["test_dice"] <= 1
    (log,) = undisturbed.glob("t2m-train-*.log")
    printed = log.read_text()
    assert "--num-cpus=1 --num-gpus=0" in printed
    assert f"--memory={3072 * 2**20 // 100 * 80}" in printed


def test_wrong_input_ends_the_job_at_once(lab: SlurmLab, mistaken: tuple[Path, int]) -> None:
    folder, job = mistaken
    assert lab.wait(job, 90) == "FAILED"
    assert [line for line in read_log(folder, job).splitlines() if "t2m-bench: " in line and is_named(line, "epochs")]
    assert "Restarts=0" in lab.command("scontrol", "show", "job", job)


def test_a_job_goes_on_after_all_that_a_cluster_does_to_it(lab: SlurmLab, undisturbed: Path, folder: Path) -> None:
    """A time limit's signal, a requeue without notice, a preemption, and a host lost with no other in the job."""
    job = submit(lab, folder, "1,2,6", *SMALL, ALWAYS_SAVE)
    disturbances = [
        lambda: lab.command("scancel", "--batch", "--signal=USR1", job),
        lambda: lab.command("scontrol", "requeue", job),
        lambda: lab.command("scancel", "--signal=TERM", job),
        lambda: lab.power_off(2),
    ]

    def count_saved() -> int:
        return read_log(folder, job).count("on request")

    saved = []
    for number, disturb in enumerate(disturbances, start=1):
        done = count_epochs(folder)
        wait_until(lambda done=done: count_epochs(folder) > done, folder, job)
        saved.append(count_saved())
        assert (folder / f".t2m-{job}.saved").is_file(), "whoever saves tells the script"
        disturb()
        wait_until(lambda n=number: f"Restarts={n} " in lab.command("scontrol", "show", "job", job), folder, job)
    assert lab.wait(job) == "COMPLETED", read_log(folder, job)
    lab.power_on(2)
    assert not list(folder.glob(".t2m-*")), "what the script noted beside the log"
    printed = read_log(folder, job)
    counts = itertools.pairwise([*saved, count_saved()])
    by_usr1, by_requeue, by_term, by_loss = (after - before for before, after in counts)
    assert (by_usr1, by_term, by_loss) == (1, 1, 0)
    assert by_requeue in (0, 1)  # Slurm sends TERM with it, which the job hears when it is in time
    # 139: Ray may crash at the very end of a driver whose nodes were lost, which the script counts as the loss it is
    assert len(re.findall(r"\(code (?:86|139)\), 1\b", printed)) == 1
    assert_same_end(undisturbed, folder)


def test_an_array_deals_a_suite_to_its_tasks_and_the_last_one_reports(lab: SlurmLab, tmp_path: Path) -> None:
    """Two tasks on a host each: one waits for what the other embeds, and each requeues itself at the time limit."""
    asked = ["demo", *SMALL, "bench.arms=[text_free,gated,hierarchical]"]
    folder = tmp_path / "array"
    array = submit(lab, folder, "1,2", *asked, nodes=1, script="bench.sh", options=["--array=3-4"])

    def show(field: str) -> list[str]:
        return re.findall(rf"\b{field}=(\w+)", lab.command("scontrol", "show", "job", array))

    def list_states() -> list[str]:
        return show("JobState")

    deadline = time.monotonic() + 400
    while not all(any(folder.glob(f"runs/*/{arm}-*/history.jsonl")) for arm in ("text_free", "gated")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lab.command("scancel", "--batch", "--signal=USR1", array)
    while show("Restarts") != ["1", "1"]:
        assert time.monotonic() < deadline, [path.read_text() for path in folder.glob("t2m-bench-*.log")]
        time.sleep(0.2)
    while set(list_states()) & {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING"} and time.monotonic() < deadline:
        time.sleep(1)
    logs = [path.read_text() for path in sorted(folder.glob("t2m-bench-*.log"))]
    assert list_states() == ["COMPLETED"] * 2, logs
    assert sorted(re.findall(r"--part (\d/\d)", "".join(logs))) == ["1/2", "1/2", "2/2", "2/2"]
    runs = [json.loads(path.read_text()) for path in folder.glob("runs/*/*-seed0-*/run.json")]
    assert sorted(run["arm"] for run in runs) == ["gated", "hierarchical", "text_free"]
    (report,) = folder.glob("runs/*/report/report.md")
    assert all(f"| {arm} |" in report.read_text() for arm in ("gated", "hierarchical", "text_free"))


def test_a_lost_host_is_replaced_from_the_same_job_and_a_cancelled_neighbour_leaves_nothing(
    lab: SlurmLab, undisturbed: Path, folder: Path, tmp_path: Path
) -> None:
    """Three hosts for two workers; another job shares two of the hosts for a while."""
    neighbours = tmp_path / "b"
    shutil.copytree(folder, neighbours)
    neighbour = submit(lab, neighbours, "3,4", *SMALL, "optim.epochs=900", "optim.patience=899")
    wait_until(lambda: count_epochs(neighbours) > 0, neighbours, neighbour)
    job = submit(lab, folder, "3,4,5", *SMALL, ALWAYS_SAVE, "cluster.num_train_workers=2", nodes=3)
    for shared in (3, 4):
        wait_until(lambda host=shared: is_on(lab, host, job), folder, job)
        assert is_on(lab, shared, neighbour)
    lab.command("scancel", neighbour)  # while the job starts: the training that is disturbed below takes seconds
    assert lab.wait(neighbour, 60) == "CANCELLED"
    wait_until(lambda: list_ray(neighbour) == [], neighbours, neighbour, 30)
    assert all(is_on(lab, shared, job) for shared in (3, 4))

    def find_workers() -> list[int]:
        return [host for host in (4, 5) if "TrainWorker" in "\n".join(lab.list_processes(host))]

    wait_until(lambda: bool(find_workers()), folder, job)
    wait_until(lambda: count_epochs(folder) > 0, folder, job)
    lost = find_workers()[0]
    lab.power_off(lost)  # n3 has Ray's head
    assert count_epochs(folder) < count_epochs(undisturbed), "had ended before its host was lost"
    assert lab.wait(job) == "COMPLETED", read_log(folder, job)
    lab.power_on(lost)
    assert "Restarts=0" in lab.command("scontrol", "show", "job", job)
    assert_same_end(undisturbed, folder)


def requeue(lab: SlurmLab, folder: Path, job: int) -> None:
    """Requeue a job without notice, and see it through to its end."""
    lab.command("scontrol", "requeue", job)
    assert lab.wait(job) == "COMPLETED", read_log(folder, job)
    assert "Restarts=1 " in lab.command("scontrol", "show", "job", job)


@pytest.mark.soak
def test_a_job_that_loses_its_first_host_is_requeued_by_another(lab: SlurmLab, undisturbed: Path, folder: Path) -> None:
    """Script and Ray's head are gone with it; Slurm itself would let the job go on until its time limit."""
    job = submit(lab, folder, "1,2,6", *SMALL, ALWAYS_SAVE)
    wait_until(lambda: count_epochs(folder) > 0, folder, job)
    described = lab.command("scontrol", "show", "job", job)
    (first,) = re.findall(r"BatchHost=n(\d)", described)
    lab.power_off(int(first))
    assert count_epochs(folder) < count_epochs(undisturbed), "had ended before its host was lost"
    assert lab.wait(job, 600) == "COMPLETED", read_log(folder, job)  # Ray needs minutes to miss a head that is silent
    assert "Restarts=1 " in lab.command("scontrol", "show", "job", job)
    lab.power_on(int(first))
    assert_same_end(undisturbed, folder)


@pytest.mark.soak
def test_a_suite_requeued_midway_ends_whole_and_trains_nothing_twice(lab: SlurmLab, folder: Path) -> None:
    arms = ["bench.arms=[text_free,gated]", "optim.epochs=4"]
    job = submit(lab, folder, "1,2", REPOSITORY / "launch" / "demo.yaml", *SMALL, *arms, script="bench.sh")
    wait_until(lambda: any(folder.glob("runs/*/text_free-*/run.json")), folder, job)
    (first,) = folder.glob("runs/*/text_free-*/adapter.safetensors")
    before = first.stat()
    requeue(lab, folder, job)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    summaries = [json.loads(path.read_text()) for path in folder.glob("runs/*/*-seed0-*/run.json")]
    assert {summary["arm"]: summary["num_nodes"] for summary in summaries} == {"text_free": 2, "gated": 2}
    assert any(folder.glob("runs/*/report/report.html"))


@pytest.mark.soak
def test_a_sweep_requeued_midway_ends_with_the_trials_that_were_asked(lab: SlurmLab, folder: Path) -> None:
    few = ["dataset.phantom.cases=63", "--trials", 10]
    job = submit(
        lab, folder, "1,2", REPOSITORY / "sweeps" / "demo.yaml", *few, "sweep.concurrency=2", script="sweep.sh"
    )
    place = folder / "runs" / "sweeps" / "demo"

    def count() -> int:
        return len(list_counted(load_studies(place)["demo"])) if has_study(place) else 0

    wait_until(lambda: count() >= 2, folder, job)
    assert count() < 10
    requeue(lab, folder, job)
    assert all(trial.state.is_finished() for trial in load_studies(place)["demo"].trials)
    assert count() == 10
    assert (place / "best.yaml").is_file()


def test_a_job_whose_host_cannot_join_fails(lab: SlurmLab, unreachable: tuple[Path, int]) -> None:
    folder, job = unreachable
    assert lab.wait(job, 120) == "FAILED"
    assert [line for line in read_log(folder, job).splitlines() if "1 of 2" in line and is_named(line, "n5")]
    assert "Restarts=0" in lab.command("scontrol", "show", "job", job)


def test_a_killed_test_run_leaves_no_process_and_the_next_lab_removes_its_names(lab: SlurmLab, tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from slurm_lab import SlurmLab\n"
    script += "lab = SlurmLab(Path(sys.argv[1]), 1); lab.start(); print(lab.tag, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, tmp_path / "killed"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1] / "helpers")
    assert other.stdout is not None
    tag = other.stdout.readline().strip()
    assert f"{tag}-n1" in run("ip", "netns", "list"), "two labs run beside each other"
    other.send_signal(signal.SIGKILL)
    other.wait()
    with slurm_lab(tmp_path / "next", num_hosts=1):
        names = run("ip", "netns", "list")
        assert tag not in names
        assert f"{lab.tag}-n1" in names
    for _ in range(50):
        if str(tmp_path / "killed") not in run("ps", "-ww", "-eo", "args"):
            return
        time.sleep(0.1)
    pytest.fail("a lab's processes outlive the process that started them")


CONDAS_HOOK = 'OLD="$PS1_OF_NOBODY"; false; false | true; hook_of_nobody() { return 3; }; hook_of_nobody\n'


def test_a_copy_in_a_folder_that_is_no_checkout_proves_the_cluster(lab: SlurmLab, tmp_path: Path) -> None:
    """With the scripts' own CPUs and memory, and a site that does what conda's hook does."""
    copied = copy_shipped(tmp_path / "own")
    assert not copied.kept
    site = tmp_path / "own" / "slurm" / "site.sh"
    site.write_text(CONDAS_HOOK + site.read_text())
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    script = tmp_path / "own" / "slurm" / "train.sh"
    job = lab.submit("--time=20", "--exclude=n3,n4,n5,n6", script, *SMALL, "optim.epochs=2", cwd=folder)
    assert lab.wait(job) == "COMPLETED", read_log(folder, job)
    assert list(folder.glob(f"runs/cluster-check-{job}/demo-*/hierarchical-*/run.json"))
    assert "--num-cpus=2 --num-gpus=0" in read_log(folder, job)  # phrase: options of `ray start`


@pytest.mark.parametrize("asked", ["--gpus-per-node=8", "--gres=gpu:8"])
def test_eight_gpus_and_the_default_cpus_ask_for_what_the_job_has(
    asked: str, lab: SlurmLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The GPUs are declared and not there, so that the driver refuses; what Ray and it were asked for is in the log."""
    with slurm_lab(tmp_path / "slurm", num_hosts=1, gpus=8) as own:
        folder = tmp_path / "work"
        folder.mkdir()
        script = REPOSITORY / "slurm" / "train.sh"
        job = own.submit("--time=10", "--nodes=1", asked, script, "demo", *SMALL, cwd=folder)
        assert own.wait(job) == "FAILED"
        log = read_log(folder, job)
    (ray,) = [line for line in log.splitlines() if line.startswith("ray start")]
    assert {"--num-cpus=2", "--num-gpus=8"} <= set(ray.split())
    (driver,) = [line for line in log.splitlines() if line.startswith("t2m-bench train")]
    wishes = {"cluster.num_train_workers=8", "cluster.cpus_per_worker=0.25", "cluster.use_gpu=true"}
    assert wishes <= set(driver.split())
    with capsys.disabled():
        print(f"\n{ray}\n{driver}")
