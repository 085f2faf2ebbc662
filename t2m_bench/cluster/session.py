"""The Ray that the verbs work on: the cluster that RAY_ADDRESS names, else one of our own on this machine.

A Ray of our own listens on loopback only, with a token drawn for it, and nobody else joins it.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2m_bench.cluster.unfinished import is_waiting
from t2m_bench.errors import ClusterError, StoppedError, WorkersLostError, find_first_line
from t2m_bench.training.launcher_variables import hide_launchers

OBJECT_STORE_BYTES = 256 * 2**20
"""Tasks pass paths and results, not arrays: Ray's default of 30 % of the node's memory would be wasted."""

CONNECT_SECONDS = 10.0

RAY_FOLDER = "r"

LONGEST_SOCKET_PATH = 107
"""Bytes; the kernel takes no longer path for a socket."""

START_ATTEMPTS = 2
"""Ray gives a node 30 s to start, which one on a busy machine can miss."""


@contextmanager
def ray_session(processes: int, cpus: float, gpus: float = 0) -> Iterator[None]:
    """Use the Ray of this process, or connect or start one and leave it at the end.

    Ray reads its token settings when it is first imported, so `import ray` comes inside this context, never before.

    Args:
        processes: how many the work needs at once.
        cpus, gpus: of each of them.

    Raises:
        ClusterError: the cluster cannot be reached or started, or has no room for them; Ray would wait for ever.
        WorkersLostError: it has no room since nodes were lost.
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not address:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's own 15 they starve beside anything else on the machine
    import ray

    if ray.is_initialized():
        _check_room(processes, cpus, gpus)
        yield
        return
    terminate = signal.getsignal(signal.SIGTERM)
    if address:
        _connect(address)
    else:
        _start()
    with contextlib.suppress(ValueError):  # not the main thread: Ray set no handler either
        signal.signal(signal.SIGTERM, terminate)  # Ray's own would end the process without a checkpoint
    try:
        _check_room(processes, cpus, gpus)
        yield
    finally:
        if not is_waiting():
            ray.shutdown()


def _start() -> None:
    """Start a Ray of our own.

    `address="local"` never joins what a stranger left running on a shared host. Its files lie in a short path of the
    temporary folder, since a socket's path must stay below 107 bytes.

    Raises:
        ClusterError: Ray did not start, however often it was tried.
    """
    import ray

    check_socket_path()
    folder = make_private_folder() / RAY_FOLDER
    for _ in range(START_ATTEMPTS):
        try:
            with hide_launchers():
                ray.init(
                    address="local",
                    num_cpus=count_cpus(),
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                )
            return
        except StoppedError:
            ray.shutdown()
            raise
        except Exception as error:  # Ray has no class of its own for a node that is late
            ray.shutdown()
            reason = find_first_line(error)
    raise ClusterError(
        f"Ray did not start on this machine ({reason}). Is it very busy or short of memory? Ray's files are in "
        f"{folder}; TMPDIR names another place. Run the same command again."
    )


def has_cluster() -> bool:
    """Return whether RAY_ADDRESS names a cluster, so that none of our own is started."""
    return bool(os.environ.get("RAY_ADDRESS"))


def check_socket_path() -> None:
    """See that the paths of Ray's sockets are short enough; Ray itself would not say what is wrong.

    Raises:
        ClusterError: the folder of temporary files has too long a name; says how long it may be.
    """
    below = (
        f"/{_name_private_folder()}/{RAY_FOLDER}/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    )
    temporary = tempfile.gettempdir()
    room, length = LONGEST_SOCKET_PATH - len(below), len(os.fsencode(temporary))
    if length > room:
        raise ClusterError(
            f"TMPDIR = {temporary}: its name of {length} bytes is too long for the paths of Ray's sockets, which lie "
            f"below it. Set TMPDIR to a folder with a name of at most {room} bytes, such as TMPDIR=/tmp."
        )


def _name_private_folder() -> str:
    return f"t2m-ray-{os.getuid()}"


def make_private_folder() -> Path:
    """Make a folder that we alone may enter: Ray lets everybody write in its own.

    Raises:
        ClusterError: somebody else's lies there.
    """
    folder = Path(tempfile.gettempdir()) / _name_private_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ClusterError(
            f"{folder}: belongs to another user, and Ray would write its files there. Set TMPDIR to a folder of your "
            "own."
        )
    folder.chmod(0o700)
    return folder


def _connect(address: str) -> None:
    """Connect to a running cluster; look first whether anything listens there, for Ray itself retries long."""
    import ray

    host, separator, port = address.rpartition(":")
    if address.startswith("ray://") or not separator or not port.isdigit():
        raise ClusterError(f"RAY_ADDRESS = {address}: write it as HOST:PORT of the cluster's head, or unset it.")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"RAY_ADDRESS = {address}: nothing answers there ({error}). Start Ray there, or unset RAY_ADDRESS to work "
            "on this machine."
        ) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"RAY_ADDRESS = {address}: this process cannot join ({find_first_line(error)}). Is RAY_AUTH_TOKEN the "
            "cluster's, and is this one of its nodes?"
        ) from None


def list_node_resources() -> list[dict[str, float]]:
    """Return what each node that is alive has, by Ray's names."""
    import ray

    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [node["Resources"] for node in list_nodes() if node["Alive"]]


def count_lost_nodes() -> int:
    """Return how many nodes the cluster had and has no more."""
    import ray

    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return sum(not node["Alive"] for node in list_nodes())


def count_room(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Return how many processes of so many CPUs and GPUs each the nodes hold; a process lies on one node."""
    parts = [(name, part) for name, part in (("CPU", cpus), ("GPU", gpus)) if part]
    return sum(int(min(node.get(name, 0.0) / part for name, part in parts) + 1e-9) for node in nodes)


def _check_room(processes: int, cpus: float, gpus: float) -> None:
    nodes = list_node_resources()
    room = count_room(nodes, cpus, gpus)
    if room < processes:
        there = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
        short = (
            f"the work takes {processes} processes of {cpus:g} CPUs and {gpus:g} GPUs, each on one node, and the nodes "
            f"have {there}: room for {room}"
        )
        if lost := count_lost_nodes():
            raise WorkersLostError(f"{short}; nodes lost: {lost}. Run the same command again to continue.")
        raise ClusterError(
            f"{short}. Lower cluster.num_train_workers, num_embed_workers or cpus_per_worker (of a sweep: resources), "
            "or ask for more or larger nodes."
        )


def count_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
