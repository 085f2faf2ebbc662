"""Messages between driver and workers through Ray: a stop request, and bad input that a worker met.

A file would do on one host; on shared storage another may see it half a minute late.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

POLL_SECONDS = 0.5
ANSWER_SECONDS = 2.0

STOP_SECONDS = 120.0
"""Seconds that stopped workers get to save; Slurm's scripts send the request 300 s ahead of a time limit."""


START_SECONDS = 5.0
"""Seconds that workers get which have not begun: they wait for each other, or for room, and have nothing to save."""


class _Flag:
    """Remembers that work began, that someone asked to stop, and the first failure that no other attempt would mend."""

    def __init__(self) -> None:
        self._is_set = False
        self._has_begun = False
        self._failure: tuple[str, str] | None = None

    def begin(self) -> None:
        self._has_begun = True

    def has_begun(self) -> bool:
        return self._has_begun

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def fail(self, kind: str, message: str) -> None:
        self._failure = self._failure or (kind, message)

    def get_failure(self) -> tuple[str, str] | None:
        return self._failure


def make_stop_flag() -> Any:
    """Return a handle of an actor with the methods of `_Flag`, on this node, that takes no CPU."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(_Flag).options(scheduling_strategy=here).remote()


class StopCall:
    """The driver's side of a stop flag: asks the workers to stop, and knows when they had time enough.

    Workers save at their next step. Where they only evaluate, which nothing interrupts and which is done again, they
    are left: whoever sent a signal ahead of a time limit waits some minutes.
    """

    def __init__(self, flag: Any) -> None:
        self._flag = flag
        self._asked: float | None = None

    def ask(self) -> None:
        self._asked = self._asked or time.monotonic()
        self._flag.set.remote()

    def is_overdue(self) -> bool:
        """Return whether workers were asked STOP_SECONDS ago, or START_SECONDS ago and none has begun its work."""
        if self._asked is None:
            return False
        waited = time.monotonic() - self._asked
        return waited > STOP_SECONDS or (waited > START_SECONDS and not self._has_begun())

    def _has_begun(self) -> bool:
        import ray

        try:
            return bool(ray.get(self._flag.has_begun.remote(), timeout=ANSWER_SECONDS))
        except ray.exceptions.RayError:  # the cluster does not answer: whoever waits for it must not
            return False


@contextmanager
def poll_stop_flag(flag: Any) -> Iterator[Callable[[], bool]]:
    """Note that work began; yield a cheap question, kept up to date by a thread that asks the actor twice a second."""
    import ray

    flag.begin.remote()
    ended, asked = threading.Event(), threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_SECONDS):
            try:
                if ray.get(flag.is_set.remote(), timeout=10 * POLL_SECONDS):
                    asked.set()
                    return
            except ray.exceptions.RayError:  # the driver's node is going; the next timed checkpoint serves
                continue

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield asked.is_set
    finally:
        ended.set()
