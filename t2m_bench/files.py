"""Files that are whole or not there, their names, and the locks of those who write them."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from t2m_bench.errors import RunFolderError

SUFFIX = ".partial"

SAVED_VARIABLE = "T2M_SAVED"
"""Names the file that slurm/ray.sh looks at; absent where no such script waits."""

EXPERIMENT_NAME = "experiment.json"


def escape_name(name: str) -> str:
    """Return a file's name as text that can be written anywhere; bytes that are not UTF-8 are shown as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def write_atomically(path: Path, private: bool = False) -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` at the end, or is removed where the writing fails.

    Args:
        private: only the owner may read the file, from its first byte.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}{SUFFIX}")  # a process id is not one on shared storage
    try:
        if private:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have a file's bytes on the disk before its name is: else a host that loses power leaves a name without them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Write a text file so that a reader sees the old file or the whole new one."""
    with write_atomically(path, private) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, private: bool = False) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(content, indent=1) + "\n", private)


def load_json(path: Path, command: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunFolderError: it is absent or no such object; names the command that makes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path}: absent. {command}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as JSON ({error}). {command}") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: holds no JSON object. {command}")
    return content


def clear_partial(folder: Path) -> None:
    """Remove what killed writers left; call it only where nobody else writes in the folder."""
    for partial in folder.glob(f".*{SUFFIX}"):
        partial.unlink(missing_ok=True)


@contextmanager
def wait_for_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file, waiting for whoever holds it; the lock ends with the process, however it ends.

    Args:
        on_wait: is called once where there is somebody to wait for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def tell_saved() -> None:
    """Touch the job's file, by which its script knows a loss after saved work; work never fails for it."""
    if path := os.environ.get(SAVED_VARIABLE):
        with suppress(OSError):
            Path(path).touch()
