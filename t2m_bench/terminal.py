"""Shows long work to the user: bars on a terminal, plain lines in a log, sentences wrapped between words."""

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

PLAIN_WIDTH = 100
"""Columns of a report where output goes to a file or a pipe."""

BAR_WIDTH = 16


class Advance(Protocol):
    """Takes how much of the work is done; `note` stands in place of the count where a plain count says too little."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def find_width(stream: IO[str] | None = None) -> int:
    """Return how many columns a stream shows: those of the terminal, or PLAIN_WIDTH where it is none."""
    stream = stream or sys.stdout
    return shutil.get_terminal_size((80, 24)).columns if stream.isatty() else PLAIN_WIDTH


def wrap(sentence: str, width: int, indent: str = "") -> str:
    """Return a sentence in lines of at most `width` columns, broken between words alone; further lines are indented."""
    return textwrap.fill(
        sentence,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_sentence(sentence: str, stream: IO[str] | None = None) -> None:
    """Print a sentence, wrapped between words where a person looks at it; a log keeps it in one line.

    Paths below the working folder are shown as one would type them there.
    """
    stream = stream or sys.stdout
    sentence = _shorten_paths(sentence)
    if stream.isatty():
        sentence = "\n".join(_wrap_line(line, find_width(stream)) for line in sentence.split("\n"))
    print(sentence, file=stream, flush=True)


def _wrap_line(line: str, width: int) -> str:
    """Return a line of a message wrapped, with the indent that it has: lists of failures stay lists."""
    text = line.lstrip(" ")
    return wrap(text, width, line[: len(line) - len(text)])


def _shorten_paths(sentence: str) -> str:
    """Return the sentence with paths below the working folder as one would type them there."""
    try:
        here = Path.cwd()
    except OSError:  # the folder was removed, as a job's scratch is: the message matters more
        return sentence
    if here == Path(here.anchor):
        return sentence
    return re.sub(rf"(?<![^\s\"'`(=]){re.escape(str(here))}/", "", sentence)


class Terminal:
    """Sentences go to standard output, progress to standard error."""

    def say(self, sentence: str) -> None:
        """Print a sentence about what was done."""
        print_sentence(sentence)

    @contextmanager
    def watch(self, what: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """Yield a callback of (done, total) that shows what is counted, how far it is, and the time left.

        Args:
            what: what is counted, in the plural ("training runs").
            total: how many there are; None where that is not known yet, which shows no count until it is.
            done: how many were done before this process began, which the time left does not count.
        """
        if not sys.stderr.isatty():
            yield _PlainLines(what, done).advance
            return
        with _make_progress() as progress:
            task = progress.add_task(_describe(what, done, total, ""), total=total, completed=done)

            def advance(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total, description=_describe(what, done, total, note))

            yield advance


def _describe(what: str, done: int, total: int | None, note: str) -> str:
    """Return what a line of progress says: the note, or the count where it is known."""
    count = note or (f"{done} of {total}" if total is not None else "")
    return f"{what}: {count}" if count else what


def _make_progress() -> Progress:
    """Build bars whose lines fit any terminal: what does not fit of the text is cut at its end."""
    text = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (SpinnerColumn(), text, BarColumn(BAR_WIDTH), _TimeLeft())
    # where standard output goes to a file its lines must go there, not through the console of the bars
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())


class _TimeLeft(ProgressColumn):
    """Shows the time left in words, and nothing before it can be known."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None or task.total is None else f"{show_seconds(left)} left", style="cyan")


def show_seconds(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _PlainLines:
    """A line when a quarter more is done."""

    def __init__(self, what: str, done: int) -> None:
        self._what = what
        self._before = done
        self._start = time.monotonic()
        self._shown = 0

    def advance(self, done: int, total: int, note: str = "") -> None:
        quarter = 4 * done // max(total, 1)
        if quarter > self._shown and done > self._before:
            seconds = max(time.monotonic() - self._start, 1e-9)
            here = done - self._before
            left = seconds * (total - done) / here
            each = f"{here / seconds:.1f}/s" if here > seconds else f"{seconds / here:.1f} s each"
            rate = "" if note else f"{each}, "  # under a note other things are counted than it names
            said = _describe(self._what, done, total, note)
            print(f"{said}; {rate}{show_seconds(left)} left", file=sys.stderr, flush=True)
        self._shown = quarter
