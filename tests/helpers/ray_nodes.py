"""Ray clusters of several nodes on this machine, each node a process of its own; ends what it started, by id."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ranks_bench import find_port

RAY = Path(sys.executable).with_name("ray")
TOKEN = "0" * 64
OPTIONS = (
    "--block",
    "--disable-usage-stats",
    "--num-cpus=1",
    "--object-store-memory=100000000",
    "--min-worker-port=0",
    "--max-worker-port=0",
)


@contextlib.contextmanager
def ray_nodes(*before: Sequence[str]) -> Iterator[dict[str, str]]:
    """Start a head and a node for each further command that `ray start` is given to; yield the driver's environment.

    Args:
        before: what comes before `ray start` on each node, such as ("unshare", "-m"); the first is the head's.
    """
    ip = _find_ip()
    address = f"{ip}:{find_port()}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**os.environ, **token}
    with tempfile.TemporaryDirectory(prefix="t2m-", ignore_cleanup_errors=True) as folder:
        head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false", f"--temp-dir={folder}"]
        started = []
        try:
            for number, prefix in enumerate(before):
                role = head if number == 0 else [f"--address={address}"]
                command = [*prefix, str(RAY), "start", *role, *OPTIONS, f"--node-ip-address={ip}"]
                log = (Path(folder) / f"node{number}.log").open("wb")
                started.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
            waiting = [sys.executable, "-m", "t2m_bench.cluster.nodes", str(len(before))]
            joined = subprocess.run(
                waiting, env={**environment, "RAY_ADDRESS": address}, capture_output=True, text=True, timeout=90
            )
            assert joined.returncode == 0, joined.stderr + "".join(map(_read, sorted(Path(folder).glob("*.log"))))
            yield {**environment, "RAY_ADDRESS": address}
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _find_ip() -> str:
    """Return this host's address; Ray takes it for 127.0.0.1 whatever it is told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _read(log: Path) -> str:
    return f"\n{log.name}:\n{log.read_text(errors='replace')[-1500:]}"
