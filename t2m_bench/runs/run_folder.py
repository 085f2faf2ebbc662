"""A run's folder: one writer at a time, every file whole or not there."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from t2m_bench.errors import RunFolderError
from t2m_bench.files import write_text

RUN_NAME = "run.json"
HISTORY_NAME = "history.jsonl"
LOCK_NAME = ".lock"
LOCK_POLL_SECONDS = 0.2


@contextmanager
def lock_run(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the folder for this process; the lock ends with the process, however it ends.

    Args:
        patience_s: how long to wait for another process that may be ending.

    Raises:
        RunFolderError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+", encoding="utf-8") as stream:
        if not _take(stream, patience_s):
            stream.seek(0)
            holder = stream.read().strip() or "of an unknown name"
            raise RunFolderError(
                f"{folder}: another process is writing this run ({holder}). Wait for it, or give another --runs."
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


def _take(stream: IO[str], patience_s: float) -> bool:
    """Lock the file within a time; return whether it is locked."""
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(LOCK_POLL_SECONDS)
        else:
            return True


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole history, a JSON line an epoch."""
    write_text(folder / HISTORY_NAME, "".join(json.dumps(row) + "\n" for row in history))
