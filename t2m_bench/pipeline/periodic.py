"""Repeats an action beside long work: reporting its progress, or sending its files."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def run_periodically(work: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do `work` in a thread every so many seconds until the block ends; a round that has begun is waited for."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
