"""Stop requests: what a signal does to work in progress.

Slurm sends USR1 ahead of a time limit and TERM on preemption, a user Ctrl-C. Training saves at its next step and ends;
other stages end at once, since what they finished is on disk already.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from t2m_bench.errors import StoppedError

STOPPED_EXIT_CODE = 85
"""Tells a job script to requeue: the work is saved, not done."""

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

DEAF_SECONDS = 5.0
"""Seconds that the main thread gets to take a signal: it may wait in C code (for a store, a cluster, a disk) for ever.
"""

HEARD_LATE_SECONDS = 1.0
"""The two threads may take a signal in this far apart."""

OnStop = Callable[[], None]


class StopRequest:
    """Holds a stop request, and the functions to call when it comes."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._listener: OnStop | None = None
        self._taken_at = -math.inf
        self._closed = threading.Event()

    def is_set(self) -> bool:
        """Return whether a signal came."""
        return self.number is not None

    @contextmanager
    def tell(self, listener: OnStop) -> Iterator[None]:
        """Inside this context a signal calls the listener, from another thread, instead of ending the program.

        A signal that came before, when another listener was told, calls this one at once.
        """
        self._listener = listener
        if self.is_set():
            listener()
        try:
            yield
        finally:
            self._listener = None

    def hold_off(self) -> AbstractContextManager[None]:
        """Return a context in which a signal is noted and ends nothing: the last files are on their way."""
        return self.tell(lambda: None)

    def make_error(self) -> StoppedError:
        """Return the error that ends the program."""
        name = signal.Signals(self.number or signal.SIGTERM).name
        code = 128 + signal.SIGINT if self.number == signal.SIGINT else STOPPED_EXIT_CODE
        return StoppedError(f"stopped by {name}; finished work is saved, run the same command again to continue", code)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread."""
        self.number = number
        self._taken_at = time.monotonic()
        if self._listener is None:
            raise self.make_error()

    def close(self) -> None:
        """Let no thread end the process any more."""
        self._closed.set()

    def notify(self) -> None:
        """Tell the listener, from the thread that hears of signals first."""
        if self._listener is not None:
            self._listener()
        else:
            threading.Thread(target=self._end_if_deaf, daemon=True).start()

    def _end_if_deaf(self) -> None:
        """End the process where the main thread does not: whatever it waits for, what is finished is on disk."""
        heard_at = time.monotonic()
        is_closed = self._closed.wait(DEAF_SECONDS)
        if not is_closed and self._listener is None and self._taken_at < heard_at - HEARD_LATE_SECONDS:
            error = self.make_error()
            print(f"t2m-bench: {error}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Turn SIGNALS into a stop request while inside; the handlers from before are put back.

    The main thread may sit in C code that waits for workers, where Python runs no handler. So a second thread hears of
    signals through a pipe that Python's C-level handler writes to at once.
    """
    request = StopRequest()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, request.handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer)

    def listen() -> None:
        while received := os.read(reader, 1):
            if received[0] in SIGNALS:
                request.number = received[0]
                request.notify()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield request
    finally:
        request.close()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)
