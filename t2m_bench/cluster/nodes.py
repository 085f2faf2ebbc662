"""Waits until a Ray cluster has all its nodes: `python -m t2m_bench.cluster.nodes COUNT [SECONDS]`, at RAY_ADDRESS."""

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from t2m_bench.errors import find_first_line

WAIT_SECONDS = 60.0


def wait_for_nodes(count: int, seconds: float = WAIT_SECONDS) -> str:
    """Return an empty string when `count` nodes are alive, else what is missing."""
    import ray

    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    deadline = time.monotonic() + seconds
    alive: list[str] = []
    problem = ""
    while time.monotonic() < deadline:
        try:
            if not ray.is_initialized():
                ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)
            alive = [node["NodeManagerHostname"] for node in list_nodes() if node["Alive"]]
            if len(alive) >= count:
                ray.shutdown()
                return ""
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            problem = find_first_line(error)
        time.sleep(0.5)
    there = ", ".join(sorted(alive)) or f"none ({problem})"
    return f"{len(alive)} of {count} nodes joined Ray within {seconds:.0f} s: {there}."


def main() -> None:
    """Exit with 0 when all nodes are there, else with 1 and a message."""
    count = int(sys.argv[1])
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else WAIT_SECONDS
    missing = wait_for_nodes(count, seconds)
    if missing:
        print(f"t2m-bench: {missing} Is the network interface right (slurm/site.sh)?", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
