"""Standard output and standard error whose loss stops no work: a pipe that is closed, a full disk, a lost terminal."""

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

STANDARD = (0, 1, 2)
"""Descriptors of standard input, output and error."""


class LastingOutput(io.RawIOBase):
    """Writes to a descriptor until that fails, and from then on to nowhere.

    Attributes:
        error: what the first failed write raised; None while the output is read.
    """

    def __init__(self, descriptor: int) -> None:
        self.error: OSError | None = None
        self._descriptor = descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether a person looks at it."""
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        """Write everything; where that cannot be, note why, once."""
        view = memoryview(data).cast("B")
        rest = view
        while rest and self.error is None:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another program that shares the terminal or pipe made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.error = error
                self._silence()
        return len(view)

    def _silence(self) -> None:
        """Let libraries and processes started later write to nowhere, too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._descriptor)
        finally:
            os.close(nowhere)


def keep_outputs() -> None:
    """Have this process's own standard output and error replaced by such that fail nothing.

    A stream that somebody put in their place, as tests do, stays. Descriptors that the caller closed are opened, so
    that no data file gets their numbers.
    """
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            is_own = stream is getattr(sys, f"__{name}__")
            setattr(sys, name, _wrap(stream) if is_own else _replace_foreign_characters(stream))


def find_loss(stream: TextIO) -> OSError | None:
    """Return why a part of a stream's text was not written; None where all was, or where its reader wanted no more."""
    with suppress(OSError, ValueError):  # of a stream that is none of ours
        stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    error = raw.error if isinstance(raw, LastingOutput) else None
    return None if isinstance(error, BrokenPipeError) else error


def _wrap(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(LastingOutput(stream.fileno())),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


def _replace_foreign_characters(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Have characters that the output's encoding lacks replaced: what prints after the work must not fail it."""
    stream.reconfigure(errors="replace")
    return stream
