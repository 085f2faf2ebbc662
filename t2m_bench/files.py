"""Files that are whole or not there, and their names."""

import json
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from t2m_bench.errors import RunFolderError, UserError

SUFFIX = ".partial"

SAVED_VARIABLE = "T2M_SAVED"
"""Names the file that slurm/ray.sh looks at; absent where no such script waits."""

EXPERIMENT_NAME = "experiment.json"
STRATA_NAME = "strata.json"
PROMPTS_NAME = "prompts.yaml"
"""The prompt file of an experiment as it was read, so that its runs can be applied after the file has changed."""


def expand_home(text: str) -> str:
    """Return a path as a user means it: `~` and `~NAME` at its start are home folders.

    Called once, where a path enters. A folder that is itself named `~`, written `./~`, becomes absolute, so that no
    later reader takes it for the home folder.

    Raises:
        UserError: nobody of that name has a home folder here.
    """
    if not text.startswith("~"):
        is_named_so = text.startswith("./") and Path(text).parts[:1] and Path(text).parts[0].startswith("~")
        return str(Path(text).absolute()) if is_named_so else text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = Path(text).parts[0]
        raise UserError(
            f"{text}: {name} is not the home folder of a user here; write ./{text} for a folder of that name"
        )
    return expanded


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


def explain(error: OSError) -> str:
    """Return what an error of the system says; of a refused file also whose it is and the way out."""
    if not isinstance(error, PermissionError) or not isinstance(error.filename, str | bytes):
        return str(error)
    path = Path(os.fsdecode(error.filename)).absolute()
    for place in (path, *path.parents):
        with suppress(OSError):
            owner = place.lstat().st_uid
            if not os.access(place, os.R_OK | os.W_OK):
                return (
                    f"{path}: {error.strerror}; {place} belongs to {_name_user(owner)} and you are "
                    f"{_name_user(os.getuid())}. Give a folder of your own (--runs for what is made), or "
                    f"have {_name_user(owner)} let you read and write there"
                )
    return str(error)


def _name_user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def touch_saved_marker() -> None:
    """Touch the job's file, by which its script knows a loss after saved work; work never fails for it."""
    if path := os.environ.get(SAVED_VARIABLE):
        with suppress(OSError):
            Path(path).touch()
