"""Runs the command on a real pseudo-terminal, as a person does."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CTRL_C = b"\x03"
SCREEN_LINES = 400
"""More than any output here has, so that nothing scrolls away."""


@dataclass(frozen=True)
class Shown:
    """What stood on the terminal at the end.

    Attributes:
        code: the exit code. raw: every character, with control sequences. columns: of the terminal.
    """

    code: int
    raw: str
    columns: int

    @property
    def lines(self) -> list[str]:
        """The lines that a person has on the screen at the end, as a terminal lays them out."""
        screen = pyte.Screen(self.columns, SCREEN_LINES)
        pyte.Stream(screen).feed(self.raw)
        return [line.rstrip() for line in screen.display if line.strip()]

    @property
    def drawn(self) -> list[str]:
        """Every state of every line, also of those that were drawn over."""
        return re.split(r"[\r\n]+", CONTROL.sub("", self.raw))


def run_on_pty(
    arguments: Sequence[object], folder: Path, columns: int, interrupt_at: str = "", seconds: float = 300.0
) -> Shown:
    """Run t2m-bench in a folder to its end.

    Args:
        interrupt_at: a pattern that, once it is shown, is answered by Ctrl-C.
    """
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", *map(str, arguments)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.pop("COLUMNS", None)
        os.environ.pop("LINES", None)
        os.environ["TERM"] = "xterm-256color"
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    shown, deadline = b"", time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # the other side is closed: the command has ended
                break
            if not piece:
                break
            shown += piece
            if interrupt_at and re.search(interrupt_at, CONTROL.sub("", shown.decode(errors="replace"))):
                os.write(terminal, CTRL_C)
                interrupt_at = ""
        else:
            os.kill(pid, 9)
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    return Shown(os.waitstatus_to_exitcode(status), shown.decode(errors="replace"), columns)
