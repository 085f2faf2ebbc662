"""A real Slurm of several hosts on this machine: each slurmd has its own network, host name, mounts and process ids.

Needs root and Debian's Slurm, which it installs where it is absent. All that it makes is named by the process that made
it, so several labs may run at once. Its processes die with that process, and the next lab removes the names it left.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
COUNT = itertools.count()
HOSTS_OWN = "/mnt"
"""Where each host has a small disk of its own."""


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


def make_tag(process: int, number: int) -> str:
    """Return what marks the names of one lab of a process; with a host's number it fits an interface's 15 letters."""
    return f"t2m{process}{'abcdefgh'[number]}"


def remove_leftovers() -> None:
    """Remove the names of labs whose process is gone."""
    found = {
        *re.findall(r"\b(t2m\d+[a-h])\b", run("ip", "-oneline", "link", "show", "type", "bridge")),
        *re.findall(r"^(t2m\d+[a-h])-n\d+", run("ip", "netns", "list"), re.MULTILINE),
    }
    for tag in found:
        if not Path("/proc", tag[3:-1]).exists():
            remove_names(tag)


def remove_names(tag: str) -> None:
    """Remove a lab's network; the ends of its cables go with the hosts' own networks."""
    for space in re.findall(rf"^({tag}-n\d+)", run("ip", "netns", "list"), re.MULTILINE):
        run("ip", "netns", "delete", space, check=False)
        shutil.rmtree(Path("/etc/netns", space), ignore_errors=True)
    run("ip", "link", "delete", tag, check=False)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@dataclass
class SlurmLab:
    """Hosts n1 to nN with a controller here; their GPUs are declared, not there."""

    folder: Path
    num_hosts: int = 2
    cpus: int = 2
    gpus: int = 0
    tag: str = field(default_factory=lambda: make_tag(os.getpid(), next(COUNT)))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def subnet(self) -> str:
        """The first three parts of the lab's addresses, by process and lab."""
        process, letter = int(self.tag[3:-1]), "abcdefgh".index(self.tag[-1])
        return f"10.{64 + process // 32 % 128}.{process % 32 * 8 + letter}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        remove_leftovers()
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
            f"mount -t tmpfs -o size=1g tmpfs {HOSTS_OWN};"
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
        self._switch_cable(number, "up")
        self._spawn(f"n{number}", "ip", "netns", "exec", f"{self.tag}-n{number}", *inside)

    def power_off(self, number: int) -> None:
        """Take a host's power: every process of it is gone at once, and none says goodbye to the others."""
        self._switch_cable(number, "down")
        process = self.processes.pop(f"n{number}")
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _switch_cable(self, number: int, way: str) -> None:
        run("ip", "link", "set", f"{self.tag}{number}", way)

    def block_ray(self, number: int, head: int) -> None:
        """Drop what Ray on the host `head` answers to another host, as a firewall would."""
        selector = ["to", f"{self.subnet}.{10 + number}", "ipproto", "tcp", "sport", "20000-29999"]
        run("ip", "-n", f"{self.tag}-n{head}", "rule", "add", *selector, "blackhole")

    def list_processes(self, number: int) -> list[str]:
        """Return the command lines of what runs on a host."""
        pids = run("ip", "netns", "pids", f"{self.tag}-n{number}").split()
        return run("ps", "-ww", "-o", "args=", "-p", ",".join(pids), check=False).splitlines() if pids else []

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
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGKILL)
            process.wait()
        remove_names(self.tag)

    def _spawn(self, name: str, *command: object) -> None:
        """Start a process that dies with this one."""
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *(str(part) for part in command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def _start_munge(self) -> None:
        """One munged of this lab serves all hosts, whose mounts share its socket."""
        run("mungekey", "--create", f"--keyfile={self.folder}/munge.key")
        names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log"}
        options = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._spawn("munged", "munged", "--foreground", "--force", f"--seed-file={self.folder}/munge.seed", *options)
        for _ in range(100):
            if subprocess.run(["munge", "-n", "-S", self.folder / "munge.sock"], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("munged does not answer")

    def _make_network(self) -> None:
        run("ip", "link", "add", self.tag, "type", "bridge")
        run("ip", "address", "add", f"{self.subnet}.1/24", "dev", self.tag)
        run("ip", "link", "set", self.tag, "up")
        names = [f"{self.subnet}.{10 + number} n{number}" for number in range(1, self.num_hosts + 1)]
        hosts = "\n".join(["127.0.0.1 localhost", f"{self.subnet}.1 {os.uname().nodename}", *names, ""])
        for number in range(1, self.num_hosts + 1):
            space, cable = f"{self.tag}-n{number}", f"{self.tag}{number}"
            run("ip", "netns", "add", space)
            own = Path("/etc/netns") / space
            own.mkdir(parents=True, exist_ok=True)
            (own / "hosts").write_text(hosts)
            run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", cable, "master", self.tag, "up")
            run("ip", "-n", space, "address", "add", f"{self.subnet}.{10 + number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                run("ip", "-n", space, "link", "set", device, "up")

    def _write_configuration(self) -> None:
        here = os.uname().nodename
        lines = [
            "ClusterName=t2m",
            f"SlurmctldHost={here}({self.subnet}.1)",
            f"SlurmctldPort={find_free_port()}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            # a requeued job waits until its credential expires, by default 120 s
            f"AuthInfo=socket={self.folder}/munge.sock,cred_expire=5",
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
            f"NodeName=DEFAULT State=UNKNOWN CPUs={self.cpus} CoresPerSocket={self.cpus} RealMemory=8000",
        ]
        if self.gpus:
            lines[-1] += f" Gres=gpu:{self.gpus}"
            lines.insert(0, "GresTypes=gpu")
            self._declare_gpus()
        lines += [f"NodeName=n{number} NodeAddr={self.subnet}.{10 + number}" for number in range(1, self.num_hosts + 1)]
        lines += ["PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP", ""]
        (self.folder / "slurm.conf").write_text("\n".join(lines))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")  # a new /sys has none

    def _declare_gpus(self) -> None:
        """Slurm counts files of devices; these stand for /dev/null."""
        for number in range(self.gpus):
            run("mknod", self.folder / f"gpu{number}", "c", 1, 3)
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{self.gpus - 1}]\n")

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
def slurm_lab(folder: Path, num_hosts: int, gpus: int = 0) -> Iterator[SlurmLab]:
    """Run a lab in a folder."""
    lab = SlurmLab(folder, num_hosts, gpus=gpus)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
