"""What a user sees of long work: bars on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Advance(Protocol):
    """Told how much of the work is done, and in words what was found so far."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Terminal:
    """Sentences go to standard output, progress to standard error."""

    def say(self, sentence: str) -> None:
        """Print a sentence about what was done."""
        print(sentence, flush=True)

    @contextmanager
    def watch(self, what: str, done: int = 0) -> Iterator[Advance]:
        """Yield a callback of (done, total) that shows how far it is and the time left.

        Args:
            done: how much was done earlier, in no time of this process.
        """
        if not sys.stderr.isatty():
            yield _PlainLines(what, done).advance
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=None, completed=done)

            def advance(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total, description=f"{what} {note}".strip())

            yield advance


class _PlainLines:
    """A line when a quarter more is done."""

    def __init__(self, what: str, done: int) -> None:
        self._what = what
        self._before = done
        self._start = time.monotonic()
        self._told = 0

    def advance(self, done: int, total: int, note: str = "") -> None:
        quarter = 4 * done // max(total, 1)
        if quarter > self._told and done > self._before:
            seconds = max(time.monotonic() - self._start, 1e-9)
            here = done - self._before
            left = seconds * (total - done) / here
            rate = f"{here / seconds:.1f}/s" if here > seconds else f"{seconds / here:.1f} s each"
            found = f", {note}" if note else ""
            line = f"{self._what}: {done}/{total}, {rate}, {left:.0f} s left{found}"
            print(line, file=sys.stderr, flush=True)
        self._told = quarter
