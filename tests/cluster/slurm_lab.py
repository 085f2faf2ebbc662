"""A real Slurm of several hosts on this machine: each slurmd has its own network, host name, mounts and process ids.

Needs root and Debian's Slurm, which it installs where it is absent. Ends what it started, by id.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
SUBNET = "10.91.0"
BRIDGE = "t2mbr0"


def run(*command: object, check: bool = True, **more: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


def install() -> str:
    """Install what is absent; return why that is not possible, or nothing."""
    if os.getuid() != 0:
        return "a Slurm of several hosts needs root"
    if all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "ip")):
        return ""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "update", env=environment)
        run("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES, env=environment)
    except (RuntimeError, FileNotFoundError) as error:
        return f"Slurm cannot be installed here: {str(error)[:200]}"
    return ""


@dataclass
class SlurmLab:
    """Hosts n1 to nN with a controller here."""

    folder: Path
    num_hosts: int = 2
    cpus: int = 2
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", "spool", "log", "hosts"):
            (self.folder / name).mkdir(parents=True)
        self._start_munge()
        self._make_network()
        self._write_configuration()
        self._spawn("controller", "slurmctld", "-D")
        for number in range(1, self.num_hosts + 1):
            self.power_on(number)
        self._wait_until_idle()

    def power_on(self, number: int) -> None:
        """Start a host: bash is its first process and reaps, slurmd its service."""
        host = self.folder / "hosts" / f"n{number}"
        host.mkdir(exist_ok=True)
        (self.folder / "spool" / host.name).mkdir(exist_ok=True)
        script = (
            f"hostname n{number}; mount -t tmpfs -o size=1g tmpfs /dev/shm;"
            f"slurmd -D -N n{number} -f {self.folder}/slurm.conf; true"
        )
        inside = [
            "unshare",
            "--uts",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            script,
        ]
        self._spawn(f"n{number}", "ip", "netns", "exec", f"t2m-n{number}", *inside)

    def power_off(self, number: int) -> None:
        """Take a host's power: every process of it is gone at once."""
        process = self.processes.pop(f"n{number}")
        process.send_signal(signal.SIGKILL)
        process.wait()

    def command(self, *arguments: object, **more: object) -> str:
        return run(*arguments, env=self.environment, **more)

    def submit(self, *arguments: object, cwd: Path) -> int:
        return int(self.command("sbatch", "--parsable", *arguments, cwd=cwd).strip().split(";")[0])

    def state(self, job: int) -> str:
        shown = self.command("scontrol", "show", "job", job)
        return shown.split("JobState=")[1].split()[0]

    def wait(self, job: int, seconds: float = 240) -> str:
        """Return the job's last state."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.state(job)
            if state not in {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED"}:
                return state
            time.sleep(0.5)
        return f"still {self.state(job)}"

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError, FileNotFoundError):
            self.command("scancel", "--user=root")
        for process in self.processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait()
        for number in range(1, self.num_hosts + 1):
            run("ip", "netns", "delete", f"t2m-n{number}", check=False)
            shutil.rmtree(f"/etc/netns/t2m-n{number}", ignore_errors=True)
        run("ip", "link", "delete", BRIDGE, check=False)

    def _spawn(self, name: str, *command: object, **more: str) -> None:
        log = (self.folder / "log" / f"{name}.out").open("ab")
        self.processes[name] = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self.environment,
            start_new_session=True,
            **more,
        )

    def _start_munge(self) -> None:
        """One munged serves all hosts, whose mounts share its socket."""
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        for path, mode in (("/run/munge", "755"), ("/var/log/munge", "700"), ("/var/lib/munge", "700")):
            run("install", "-d", "-o", "munge", "-g", "munge", "-m", mode, path)
        if not Path("/etc/munge/munge.key").is_file():
            run("install", "-d", "-o", "munge", "-g", "munge", "-m", "700", "/etc/munge")
            run("runuser", "-u", "munge", "--", "mungekey", "--create")
        self._spawn("munged", "munged", "--foreground", user="munge", group="munge")
        for _ in range(100):
            if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("munged does not answer")

    def _make_network(self) -> None:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        names = [f"{SUBNET}.{10 + number} n{number}" for number in range(1, self.num_hosts + 1)]
        hosts = "\n".join(["127.0.0.1 localhost", f"{SUBNET}.1 {os.uname().nodename}", *names, ""])
        for number in range(1, self.num_hosts + 1):
            space, cable = f"t2m-n{number}", f"t2mv{number}"
            run("ip", "netns", "add", space)
            own = Path("/etc/netns") / space
            own.mkdir(parents=True, exist_ok=True)
            (own / "hosts").write_text(hosts)
            run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", cable, "master", BRIDGE, "up")
            run("ip", "-n", space, "address", "add", f"{SUBNET}.{10 + number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                run("ip", "-n", space, "link", "set", device, "up")

    def _write_configuration(self) -> None:
        here = os.uname().nodename
        lines = [
            "ClusterName=t2m",
            f"SlurmctldHost={here}({SUBNET}.1)",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            "AuthInfo=cred_expire=5",  # how long a requeued job waits; 120 s by default
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool/%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd-%n.pid",
            f"SlurmctldLogFile={self.folder}/log/slurmctld.log",
            f"SlurmdLogFile={self.folder}/log/slurmd-%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "SlurmdParameters=config_overrides",
            "SchedulerParameters=batch_sched_delay=0,bf_interval=1",
            "ReturnToService=2",
            "SlurmdTimeout=10",
            "InactiveLimit=0",
            "KillWait=5",
            "MinJobAge=3600",
            "JobRequeue=1",
            f"NodeName=DEFAULT CPUs={self.cpus} CoresPerSocket={self.cpus} RealMemory=8000 State=UNKNOWN",
        ]
        lines += [f"NodeName=n{number} NodeAddr={SUBNET}.{10 + number}" for number in range(1, self.num_hosts + 1)]
        lines += ["PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP", ""]
        (self.folder / "slurm.conf").write_text("\n".join(lines))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")  # a new /sys has none

    def _wait_until_idle(self) -> None:
        for _ in range(300):
            idle = run(
                "sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", env=self.environment, check=False
            )
            if len(set(idle.split())) == self.num_hosts:
                return
            time.sleep(0.1)
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in (self.folder / "log").iterdir())
        raise RuntimeError(f"the hosts did not come up:\n{logs}")


@contextlib.contextmanager
def slurm_lab(folder: Path, num_hosts: int) -> Iterator[SlurmLab]:
    """Run a lab in a folder."""
    lab = SlurmLab(folder, num_hosts)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
