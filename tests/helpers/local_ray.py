"""A Ray cluster of several nodes on this machine, without a Slurm: each node a `ray start` of this process."""

import contextlib
import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from real_runs import find_descendants
from slurm_lab import find_free_port

SETTINGS = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": "120",
}


class LocalRay:
    """A head and further nodes, one CPU each; none listens without the token."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="t2m-", dir="/tmp"))  # short: it holds sockets
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._environment = {**os.environ, **token, **SETTINGS}
        self._numbers = itertools.count(1)
        self._num_started = 0
        self.nodes: list[subprocess.Popen[str]] = []
        ports = [f"--port={find_free_port()}", f"--ray-client-server-port={find_free_port()}"]
        self._start("--head", *ports, "--include-dashboard=false", f"--temp-dir={self.folder}")
        printed = self._wait_for(r"--address='([\d.]+:\d+)'")
        self.environment = {**token, "RAY_ADDRESS": printed, "T2M_LOST_SECONDS": "3"}

    def _start(self, *options: str) -> None:
        common = [
            "--block",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            "--num-cpus=1",
            "--num-gpus=0",
            "--dashboard-agent-listen-port=0",
        ]
        common += ["--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
        log = self.folder / f"node-{len(self.nodes)}.log"
        with log.open("w") as stream:
            command = [Path(sys.executable).with_name("ray"), "start", *common, *options]
            self.nodes.append(subprocess.Popen(command, stdout=stream, stderr=stream, env=self._environment))
        self._num_started += 1

    @property
    def num_lost(self) -> int:
        """Nodes that were there and are not, over this cluster's life, as Ray counts them."""
        return self._num_started - sum(node.poll() is None for node in self.nodes)

    def _wait_for(self, pattern: str) -> str:
        log = self.folder / f"node-{len(self.nodes) - 1}.log"
        for _ in range(1200):
            found = re.search(pattern, log.read_text())
            if found:
                return found[1]
            if self.nodes[-1].poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(log.read_text())

    def set_nodes(self, count: int) -> None:
        """Have so many nodes alive; the head stays."""
        self.nodes = [node for node in self.nodes if node.poll() is None]
        for node in self.nodes[count:]:
            self._end(node)
        while len(self.nodes) < count:
            # an address of its own, so that no driver takes it for the head, which has the machine's
            address = f"--node-ip-address=127.0.1.{next(self._numbers)}"
            self._start(f"--address={self.environment['RAY_ADDRESS']}", address)
            self._wait_for("(runtime started)")
        self.nodes = self.nodes[:count]

    def kill_raylet_beside_head(self) -> None:
        """Kill -9 the raylet of a node that a training worker runs on."""
        for node in self.nodes[1:]:
            if find_descendants(node.pid, "TrainWorker"):
                (raylet,) = find_descendants(node.pid, "raylet/raylet ")
                os.kill(raylet, signal.SIGKILL)
                node.wait(60)
                return
        raise RuntimeError("no node beside the head trains")

    def _end(self, node: subprocess.Popen[str]) -> None:
        for pid in [node.pid, *find_descendants(node.pid, "")]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        for node in reversed(self.nodes):
            self._end(node)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def local_ray() -> Iterator[LocalRay]:
    """Run a Ray, with a head alone at first."""
    ray = LocalRay()
    try:
        yield ray
    finally:
        ray.stop()
