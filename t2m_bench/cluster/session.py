"""A Ray of our own: on loopback, with a token drawn for it, joined by nobody else."""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t2m_bench.errors import RecipeError

OBJECT_STORE_BYTES = 256 * 2**20
"""Tasks pass paths and results, not arrays: Ray's default of 30 % of the node's memory would be wasted."""


@contextmanager
def ray_session(needed_cpus: float) -> Iterator[None]:
    """Start Ray here unless this process has one, and stop it at the end.

    Ray reads its token settings when it is first imported, so `import ray` comes inside this context, never before.

    `address="local"` never joins a cluster that a stranger left running on a shared host. Ray's own files lie in a
    short path of the temporary folder, since a socket's path must stay below 107 bytes.

    Raises:
        RecipeError: more CPUs are asked than this machine has; Ray would wait for them for ever.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    cpus = count_cpus()
    if needed_cpus > cpus:
        raise RecipeError(
            f"the recipe asks for {needed_cpus:g} CPUs at once (workers times cluster.cpus_per_worker) and this "
            f"machine has {cpus}. Lower cluster.num_train_workers, num_embed_workers or cpus_per_worker."
        )
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(Path(tempfile.gettempdir()) / f"t2m-ray-{os.getuid()}"),
    )
    try:
        yield
    finally:
        ray.shutdown()


def count_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
