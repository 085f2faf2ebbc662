"""Waits inside Ray that were given up: nothing interrupts them, and Ray's shutdown frees the memory that they read."""

import os
import sys
import threading
from collections.abc import Callable

END_SECONDS = 1.0
"""Seconds that a wait whose work is done may take to return."""

_waits: list[threading.Thread] = []


def start_wait(wait: Callable[[], None]) -> None:
    """Run a call that waits inside Ray in a thread of its own."""
    thread = threading.Thread(target=wait, daemon=True)
    _waits[:] = [earlier for earlier in _waits if earlier.is_alive()] + [thread]
    thread.start()


def is_waiting() -> bool:
    """Return whether a thread still waits inside Ray, so that Ray must be left as it is until the process ends."""
    for thread in _waits:
        thread.join(END_SECONDS)
    return any(thread.is_alive() for thread in _waits)


def end_process(exit_code: int) -> None:
    """End at once, without what Python does at its end: Ray's part of that frees what the waits read.

    Ray itself ends what belongs to a driver that is gone.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(exit_code)
