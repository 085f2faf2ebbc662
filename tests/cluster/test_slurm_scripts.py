"""The job scripts' own decisions, without a Slurm: what they tell Ray, what signals do, when a job is requeued."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages import check_names, is_named

REPOSITORY = Path(__file__).resolve().parents[2]
NODE_SCRIPT = REPOSITORY / "slurm" / "node.sh"

RECORDED = 'run_on_ray() { printf "%s\\n" "$@" > told; }\n'

SCONTROL = """#!/bin/sh
case $1 in
  show) echo "   JobState=${STATE:-RUNNING} Reason=None" ;;
  requeue) echo "$2" >> requeued; exit "${REQUEUE_CODE:-0}" ;;
esac
"""


def make_program(folder: Path, name: str, text: str) -> None:
    program = folder / name
    program.write_text(text)
    program.chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What a job's step finds: a PATH whose first folder the test fills, and no variable of another Slurm."""
    (tmp_path / "bin").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "T2M", "RAY"))}
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept |= {"T2M_TEMP": str(tmp_path), "T2M_HEAD_NODE": "n1", "SLURMD_NODENAME": "localhost"}
    return {**kept, "PATH": path, "T2M_HOME": str(REPOSITORY), "VIRTUAL_ENV": "any", "SLURM_JOB_ID": "12345"}


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, ["--num-cpus=1", "--num-gpus=0"]),
        ({"SLURM_CPUS_ON_NODE": "6"}, ["--num-cpus=6", "--num-gpus=0"]),
        (
            {"SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "4", "SLURM_GPUS_ON_NODE": "2"},
            ["--num-cpus=4", "--num-gpus=2"],
        ),
        ({"SLURM_MEM_PER_NODE": "4000"}, [f"--memory={4000 * 2**20 // 100 * 80}"]),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_CPU": "500"}, [f"--memory={2000 * 2**20 // 100 * 80}"]),
        ({"SLURM_MEM_PER_NODE": "4000", "T2M_MEMORY_SHARE": "50"}, [f"--memory={4000 * 2**20 // 100 * 50}"]),
        ({"SLURM_MEM_PER_GPU": "500", "SLURM_GPUS_ON_NODE": "8"}, [f"--memory={4000 * 2**20 // 100 * 80}"]),
        ({"T2M_INTERFACE": "lo"}, ["--node-ip-address=127.0.0.1"]),
        ({}, ["--node-ip-address=127.0.0.1"]),
    ],
)
def test_what_ray_is_told_follows_from_slurm(
    environment: dict[str, str], tmp_path: Path, given: dict[str, str], flags: list[str]
) -> None:
    make_program(tmp_path / "bin", "ray", '#!/bin/sh\nprintf "%s\\n" "$@" > told\n')
    make_program(tmp_path / "bin", "srun", "#!/bin/sh\n")  # the head's host answers: its script decides
    told = {}
    for role in ("head", "worker"):
        command = ["bash", NODE_SCRIPT, role, "10.0.0.1", "22345"]
        subprocess.run(command, cwd=tmp_path, env=environment | given, check=True, capture_output=True)
        told[role] = (tmp_path / "told").read_text().splitlines()
        assert told[role][:2] == ["start", "--block"]
        assert set(flags) <= set(told[role])
        assert any("memory=" in flag for flag in told[role] if "store" not in flag) == any("MEM_" in n for n in given)
    assert {"--head", "--port=22345", f"--temp-dir={tmp_path}/ray-12345/r", "--include-dashboard=false"} <= set(
        told["head"]
    )
    assert "--address=10.0.0.1:22345" in told["worker"]


def test_jobs_that_share_a_node_get_ports_and_folders_of_their_own(environment: dict[str, str], tmp_path: Path) -> None:
    make_program(tmp_path / "bin", "ray", '#!/bin/sh\nprintf "%s\\n" "$@" > told\n')
    fixed = []
    for job in ("12345", "12346"):
        command = ["bash", NODE_SCRIPT, "head", "10.0.0.1", str(20000 + int(job) % 10000)]
        subprocess.run(command, cwd=tmp_path, env=environment | {"SLURM_JOB_ID": job}, check=True, capture_output=True)
        flags = (tmp_path / "told").read_text().splitlines()
        fixed.append({f for f in flags if ("port=" in f and not f.endswith("port=0")) or "dir=" in f})
    assert len(fixed[0]) == 3  # the head's port, the client server's, the folder
    assert not fixed[0] & fixed[1]


def test_an_interface_that_is_not_there_is_named(environment: dict[str, str]) -> None:
    given = environment | {"T2M_INTERFACE": "ib7", "SLURMD_NODENAME": "n1"}
    done = subprocess.run(["bash", NODE_SCRIPT, "address"], env=given, capture_output=True, text=True)
    assert done.returncode == 1
    check_names(done.stderr, "n1", "ib7", "T2M_INTERFACE", "slurm/site.sh")


@pytest.mark.parametrize(("nodes", "address"), [("1", "127.0.1.1"), ("2", "10.1.2.3")])
def test_a_name_that_only_the_host_itself_reaches_serves_no_job_of_several_nodes(
    environment: dict[str, str], tmp_path: Path, nodes: str, address: str
) -> None:
    """Debian gives a host's own name 127.0.1.1."""
    make_program(tmp_path / "bin", "getent", "#!/bin/sh\necho 127.0.1.1 STREAM\n")
    make_program(tmp_path / "bin", "ip", "#!/bin/sh\necho 192.0.2.1 via 10.1.0.1 dev eth0 src 10.1.2.3 uid 0\n")
    given = environment | {"SLURM_JOB_NUM_NODES": nodes}
    done = subprocess.run(["bash", NODE_SCRIPT, "address"], env=given, capture_output=True, text=True, check=True)
    assert done.stdout == f"{address}\n"


@pytest.mark.parametrize(
    ("answers", "state", "requeued"), [(1, "RUNNING", True), (0, "RUNNING", False), (1, "PENDING", False)]
)
def test_a_job_whose_first_host_is_lost_is_requeued_by_another(
    environment: dict[str, str], tmp_path: Path, answers: int, state: str, requeued: bool
) -> None:
    """Slurm lets such a job go on without its script, which waits for nothing until the time limit."""
    make_program(tmp_path / "bin", "ray", "#!/bin/sh\nexit 7\n")
    make_program(tmp_path / "bin", "srun", f"#!/bin/sh\nexit {answers}\n")
    make_program(tmp_path / "bin", "scontrol", SCONTROL)
    command = ["bash", NODE_SCRIPT, "worker", "10.0.0.1", "22345"]
    done = subprocess.run(command, cwd=tmp_path, env=environment | {"STATE": state}, capture_output=True)
    assert done.returncode == 7
    assert (tmp_path / "requeued").exists() == requeued


def test_ray_that_does_not_start_is_tried_again_while_nodes_may_join(
    environment: dict[str, str], tmp_path: Path
) -> None:
    make_program(tmp_path / "bin", "ray", "#!/bin/sh\necho try >> tries; [ $(wc -l < tries) -ge 3 ]\n")
    command = ["bash", NODE_SCRIPT, "head", "10.0.0.1", "22345"]
    done = subprocess.run(command, cwd=tmp_path, env=environment)
    assert done.returncode == 0
    assert (tmp_path / "tries").read_text() == "try\n" * 3
    subprocess.run(command, cwd=tmp_path, env=environment | {"T2M_JOIN_SECONDS": "0"})
    assert (tmp_path / "tries").read_text() == "try\n" * 4


def test_rays_folder_is_the_users_own(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ray-12345").mkdir(mode=0o777)
    make_program(tmp_path / "bin", "ray", f"#!/bin/sh\nstat -c %a {tmp_path}/ray-12345 > mode\n")
    subprocess.run(["bash", NODE_SCRIPT, "head", "10.0.0.1", "22345"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "mode").read_text() == "700\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"T2M_TEMP": "/proc"}, ("/proc/ray-12345", "T2M_TEMP")),
        ({"SLURMD_NODENAME": "host.invalid"}, ("host.invalid", "T2M_INTERFACE")),
        ({"PATH": "/usr/bin:/bin"}, ("ray", "localhost", "slurm/site.sh")),
    ],
)
def test_a_node_that_cannot_start_ray_rightly_starts_none(
    environment: dict[str, str], tmp_path: Path, given: dict[str, str], words: tuple[str, ...]
) -> None:
    make_program(tmp_path / "bin", "ray", "#!/bin/sh\ntouch started\n")
    command = ["bash", NODE_SCRIPT, "head", "10.0.0.1", "22345"]
    done = subprocess.run(command, cwd=tmp_path, env=environment | given, capture_output=True, text=True)
    assert done.returncode == 1
    check_names(done.stderr, *words)
    assert not (tmp_path / "started").exists()


def list_tree(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [pid, *(below for child in listing.split() for below in list_tree(int(child)))]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_preemption_reaches_the_script_and_ray_goes_on_until_it_is_told(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """TERM goes to every process of the step, as `proctrack/linuxproc` does it."""
    child = (
        "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(3)); open(sys.argv[1], 'w'); time.sleep(60)"
    )
    make_program(
        tmp_path / "bin",
        "ray",
        f'#!/bin/sh\n"{sys.executable}" -c "{child}" started &\necho ready; wait\n',
    )
    asked = "trap 'echo asked' USR1; echo $$; while :; do read -t 1 line; [ \"$line\" != end ] || exit; done"
    script = subprocess.Popen(
        ["bash", "-c", asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert script.stdout is not None
    given = environment | {"T2M_SCRIPT_PID": script.stdout.readline().strip()}
    node = subprocess.Popen(["bash", NODE_SCRIPT, "head", "10.0.0.1", "22345"], cwd=tmp_path, env=given)
    for _ in range(200):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.05)
    step = list_tree(node.pid)
    assert len(step) == 3  # the script, ray, ray's child
    for pid in step:
        os.kill(pid, signal.SIGTERM)
    assert script.stdout.readline() == "asked\n"
    script.communicate("end\n")
    time.sleep(0.3)
    assert all(map(is_alive, step))
    node.send_signal(signal.SIGUSR2)
    assert node.wait(10) == 0
    assert not any(map(is_alive, step))


class Job:
    """A job whose driver ends with given codes, one attempt after another."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment | {"T2M_SAVED": str(folder / "saved")}
        make_program(folder / "bin", "scontrol", SCONTROL)

    def end(self, code: int, saves: bool = False, **more: str) -> tuple[int, bool]:
        """Return the job script's exit code and whether it requeued the job."""
        work = (
            f"{sys.executable} -c 'from t2m_bench.files import touch_saved_marker; touch_saved_marker()';"
            if saves
            else ""
        )
        script = (
            f'ray_pids=(); sleep() {{ :; }}; . "$T2M_HOME/slurm/ray.sh"; . "$T2M_HOME/slurm/site.sh"; set -u;'
            f'before=$(find_last_save); {work} decide {code} "$before"'
        )
        return self.run(script, **more)

    def run(self, script: str, **more: str) -> tuple[int, bool]:
        """Return a script's exit code and whether it requeued the job."""
        log = self.folder / "requeued"
        log.unlink(missing_ok=True)
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=self.environment | more)
        return done.returncode, log.exists() and log.read_text() == "12345\n"


@pytest.fixture
def job(tmp_path: Path, environment: dict[str, str]) -> Job:
    return Job(tmp_path, environment)


def test_losses_in_a_row_with_nothing_saved_between_end_the_job(job: Job) -> None:
    assert [job.end(86) for _ in range(3)] == [(86, True), (86, True), (86, False)]


def test_losses_after_work_was_saved_are_the_first_of_their_row(job: Job) -> None:
    ends = [job.end(code, saves) for code, saves in [(86, False), (137, False), (86, True), (1, False), (86, False)]]
    assert [requeued for _, requeued in ends] == [True, True, True, True, False]


def test_time_limits_and_preemptions_are_no_losses(job: Job) -> None:
    assert all(job.end(85) == (85, True) for _ in range(5))
    assert [job.end(code)[1] for code in (86, 86, 85, 86, 86)] == [True] * 5
    assert job.end(86) == (86, False)


@pytest.mark.parametrize(
    ("left", "signal_name", "code"),
    [("4:58", "USR1", 2), ("0:31", "USR1", 2), ("4:58", "TERM", 0), ("12:00", "USR1", 0), ("1-00:04:58", "USR1", 0)],
)
def test_a_time_limit_within_its_own_notice_is_refused(job: Job, left: str, signal_name: str, code: int) -> None:
    """Else the job would be told to save as soon as it began, and requeue itself for ever."""
    make_program(job.folder / "bin", "squeue", f"#!/bin/sh\necho {left}\n")
    script = f'. "$T2M_HOME/slurm/ray.sh"; stop_signal={signal_name}; check_time_limit'
    done = subprocess.run(["bash", "-c", script], cwd=job.folder, env=job.environment, capture_output=True, text=True)
    assert done.returncode == code
    assert is_named(done.stderr, "--time") == (code == 2)


def test_a_task_of_an_array_requeues_itself_alone(job: Job) -> None:
    """The number of one task is the array's own, by which scontrol would speak of all."""
    job.end(85, SLURM_ARRAY_JOB_ID="12345", SLURM_ARRAY_TASK_ID="3")
    assert (job.folder / "requeued").read_text() == "12345_3\n"


def test_a_node_without_the_tool_is_told_where_to_load_it(job: Job) -> None:
    script = '. "$T2M_HOME/slurm/ray.sh"; load_site'
    given = job.environment | {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], cwd=job.folder, env=given, capture_output=True, text=True)
    assert done.returncode == 2
    check_names(done.stderr, "t2m-bench", "localhost", "slurm/site.sh")


def test_what_is_done_wrong_or_cancelled_is_not_requeued(job: Job) -> None:
    assert job.end(0) == (0, False)
    assert job.end(2) == (2, False)
    assert job.end(85, STATE="COMPLETING") == (85, False)
    assert job.end(86, STATE="PENDING") == (86, False)  # Slurm has requeued it already


def test_a_site_that_forbids_requeues_gets_the_drivers_code(job: Job) -> None:
    assert job.end(86, REQUEUE_CODE="1")[0] == 86


@pytest.mark.parametrize(("restarts", "end"), [("0", (1, False)), ("2", (1, True))])
def test_nodes_that_do_not_join_end_a_job_that_never_ran_and_requeue_one_that_did(
    job: Job, restarts: str, end: tuple[int, bool]
) -> None:
    """What ran before is set up rightly: it met a busy or a lost node."""
    script = (
        '. "$T2M_HOME/slurm/ray.sh"; start_ray() { head_ip=n1; }; wait_for_nodes() { return 1; }; sleep() { :; };'
        "run_on_ray train"
    )
    assert job.run(script, SLURM_RESTART_COUNT=restarts) == end


def test_a_refusal_after_the_head_of_ray_is_gone_is_a_loss(job: Job) -> None:
    """Else the job would end as if its input were wrong."""
    wait = '. "$T2M_HOME/slurm/ray.sh"; stop_signal=""; (sleep 2; exit 2) & driver_pid=$!;'
    tell = "wait_for_driver; exit $driver_code"
    assert job.run(f"{wait} true & ray_pids=($!); {tell}") == (1, False)
    assert job.run(f"{wait} command sleep 9 & ray_pids=($!); {tell}") == (2, False)


@pytest.mark.parametrize(
    ("gpus", "told"),
    [
        ("0", []),
        ("2", ["cluster.use_gpu=true", "sweep.resources.gpus=1", "sweep.resources.cpus=1"]),
        ("8", ["cluster.use_gpu=true", "sweep.resources.gpus=1", "sweep.resources.cpus=0.25"]),
    ],
)
def test_a_sweep_is_told_of_gpus_where_the_job_has_some(
    environment: dict[str, str], tmp_path: Path, gpus: str, told: list[str]
) -> None:
    home = tmp_path / "home"
    (home / "slurm").mkdir(parents=True)
    real = (REPOSITORY / "slurm" / "ray.sh").read_text()
    (home / "slurm" / "ray.sh").write_text(real + RECORDED)  # Ray itself is not tried here
    make_program(tmp_path / "bin", "scontrol", "#!/bin/sh\n")
    given = {"T2M_HOME": str(home), "SLURM_GPUS_ON_NODE": gpus, "SLURM_CPUS_PER_TASK": "2"}
    command = ["bash", REPOSITORY / "slurm" / "sweep.sh", "some.yaml", "optim.epochs=2"]
    subprocess.run(command, cwd=tmp_path, env=environment | given, check=True, capture_output=True)
    assert (tmp_path / "told").read_text().splitlines() == ["sweep", "some.yaml", *told, "optim.epochs=2"]


def submit(folder: Path, environment: dict[str, str], script: str, *arguments: str) -> list[str]:
    """Return what t2m-bench is run with by a script of slurm/ that a job runs."""
    home = folder / "home"
    (home / "slurm").mkdir(parents=True, exist_ok=True)
    real = (REPOSITORY / "slurm" / "ray.sh").read_text()
    (home / "slurm" / "ray.sh").write_text(real + RECORDED)
    make_program(folder / "bin", "scontrol", "#!/bin/sh\n")
    given = environment | {"T2M_HOME": str(home), "SLURM_JOB_NUM_NODES": "2"}
    command = ["bash", REPOSITORY / "slurm" / script, *arguments]
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)
    return (folder / "told").read_text().splitlines() if done.returncode == 0 else [f"exit {done.returncode}"]


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "share"),
    [("2", "0", 2, 2.0), ("2", "8", 16, 0.25), ("3", "8", 16, 0.37), ("64", "8", 16, 8.0), ("9", "8", 16, 1.0)],
)
def test_workers_fit_whatever_cpus_the_gpus_come_with(
    environment: dict[str, str], tmp_path: Path, cpus: str, gpus: str, workers: int, share: float
) -> None:
    given = environment | {"SLURM_CPUS_PER_TASK": cpus, "SLURM_GPUS_ON_NODE": gpus}
    told = dict(item.split("=") for item in submit(tmp_path, given, "train.sh", "my.yaml")[2:])
    assert int(told["cluster.num_train_workers"]) == workers
    assert float(told["cluster.cpus_per_worker"]) == share
    assert share * workers <= 2 * int(cpus), "of two nodes"
    assert ("cluster.use_gpu" in told) == (gpus != "0")


def test_the_demo_proves_the_cluster_in_a_folder_of_its_own(environment: dict[str, str], tmp_path: Path) -> None:
    told = submit(tmp_path, environment, "train.sh")
    assert told[:2] == ["train", "demo"]
    assert told[told.index("--runs") + 1] == "runs/cluster-check-12345"
    assert "--runs" not in submit(tmp_path, environment, "train.sh", "bus_bra", "dataset.root=x")


@pytest.mark.parametrize(
    ("task", "first", "last", "step", "count", "part"),
    [
        ("1", "1", "16", "1", "16", ["--part", "1/16"]),
        ("16", "1", "16", "1", "16", ["--part", "16/16"]),
        ("0", "0", "3", "1", "4", ["--part", "1/4"]),
        ("7", "1", "7", "2", "4", ["--part", "4/4"]),
        ("9", "1", "9", "1", "3", None),
        ("5", "5", "5", "1", "1", None),
    ],
)
def test_a_task_of_an_array_takes_its_part(
    environment: dict[str, str],
    tmp_path: Path,
    task: str,
    first: str,
    last: str,
    step: str,
    count: str,
    part: list[str] | None,
) -> None:
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    array = {f"SLURM_ARRAY_TASK_{n}": v for n, v in zip(names, (task, first, last, step, count), strict=True)}
    told = submit(tmp_path, environment | array, "bench.sh", "my.yaml")
    assert told == ["exit 2"] if part is None else told[-2:] == part
    if part is not None:
        assert "--part" not in submit(tmp_path, environment, "bench.sh", "my.yaml")


def test_a_site_may_do_what_condas_hook_does(environment: dict[str, str], tmp_path: Path) -> None:
    """Unset variables and failing commands; the scripts are as strict as before after it."""
    home = tmp_path / "home" / "slurm"
    home.mkdir(parents=True)
    hook = 'OLD="$PS1_OF_NOBODY"; false; false | true; module_of_nobody() { return 3; }; module_of_nobody\nSEEN=yes\n'
    for name in ("ray.sh", "node.sh", "site.sh"):
        text = (REPOSITORY / "slurm" / name).read_text()
        (home / name).write_text(hook + text if name == "site.sh" else text)
    given = environment | {"T2M_HOME": str(home.parent), "SLURMD_NODENAME": "localhost"}
    script = 'set -uo pipefail; . "$T2M_HOME/slurm/ray.sh"; load_site; echo "$SEEN $T2M_TEMP"; echo "$NOT_SET"'
    done = subprocess.run(["bash", "-c", script], env=given, capture_output=True, text=True)
    assert done.stdout == f"yes {tmp_path}\n"
    assert done.returncode != 0, "an unset variable of ours is still an error"
    node = subprocess.run(["bash", home / "node.sh", "address"], env=given, capture_output=True, text=True, check=True)
    assert node.stdout == "127.0.0.1\n"


def test_slurms_own_launcher_is_told_of_no_mpi() -> None:
    lines = [line for name in ("ray.sh", "node.sh") for line in (REPOSITORY / "slurm" / name).read_text().splitlines()]
    calls = [line for line in lines if "srun -" in line and not line.lstrip().startswith("#")]
    assert calls
    assert all("--mpi=none" in line for line in calls)
