"""Locks of folders that one process at a time writes, on storage with `flock` and without.

Network storage may refuse `flock` (NFS without its lock service, Lustre mounted without `-o flock`, some FUSE). There
an exclusive file stands for the lock: it names host and process, whose heartbeat renews its time. A file of a dead
process, or without a heartbeat for STALE_SECONDS, is taken over.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from t2m_bench.errors import RunFolderError
from t2m_bench.files import explain

UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Error numbers of `flock` on storage that has no locks."""

OWNER_SUFFIX = ".owner"
POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 5.0
NOBODY = "nobody"
"""Token of an owner file that names none."""

STALE_SECONDS = 60.0
LOST_EXIT_CODE = 2


@contextmanager
def hold_lock(
    path: Path, patience_s: float | None = None, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a lock file for this process; the lock ends with the process, however it ends.

    Args:
        patience_s: how long to wait for whoever holds it; None waits as long as it takes.
        on_wait: is called once where there is somebody to wait for.

    Raises:
        RunFolderError: another process holds it, or the folder takes no lock; names file, holder and remedy.
    """
    with _refuse_storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    with stream:
        owner = _Owner(path.with_name(path.name + OWNER_SUFFIX))
        if patience_s and owner.is_held_elsewhere():
            patience_s += STALE_SECONDS + HEARTBEAT_SECONDS  # if its process is dead, the lock is free by then
        if not _wait(lambda: _take(stream, owner, path), patience_s, on_wait):
            raise RunFolderError(
                f"{path.parent}: another process is writing here ({_find_holder(stream, owner)}; lock {path}). Wait "
                "for it, or give another --runs."
            )
        try:
            yield
        finally:
            owner.release()


def check_locking(folder: Path) -> "Locking":
    """Take and leave a lock in a folder, as work there will."""
    path = folder / f".locking-{uuid4().hex[:8]}"
    try:
        with hold_lock(path, patience_s=0.0):
            has_flock = not path.with_name(path.name + OWNER_SUFFIX).exists()
            return Locking("flock" if has_flock else "owner files, as flock is not supported there")
    except RunFolderError as error:
        return Locking("", str(error))
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Locking:
    """Return how folders are locked in a place, or why they cannot be."""

    way: str
    problem: str = ""


def _wait(take: Callable[[], bool], patience_s: float | None, on_wait: Callable[[], None]) -> bool:
    """Try to take a lock until it is taken or the patience is over; signals are heard meanwhile."""
    end = None if patience_s is None else time.monotonic() + patience_s
    is_told = False
    while not take():
        if end is not None and time.monotonic() >= end:
            return False
        if not is_told:
            on_wait()
            is_told = True
        time.sleep(POLL_SECONDS)
    return True


def _take(stream: IO[str], owner: "_Owner", path: Path) -> bool:
    """Take the lock once; return whether it is ours."""
    with _refuse_storage(path):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return owner.take()
        if owner.is_held():  # by another host, on which this storage has no flock
            fcntl.flock(stream, fcntl.LOCK_UN)
            return False
        stream.truncate(0)
        stream.write(_describe_self())
        stream.flush()
    return True


@contextmanager
def _refuse_storage(path: Path) -> Iterator[None]:
    """Say which file cannot be locked and what to do."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be locked ({explain(error)}), so that two processes could write the same files. "
            "Give --runs a folder on other storage that you may write (a local disk, or NFS with its lock service)."
        ) from None


def _find_holder(stream: IO[str], owner: "_Owner") -> str:
    said = owner.describe()
    if not said:
        stream.seek(0)
        said = stream.read().strip()
    return said or "of an unknown name"


def _describe_self() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


class _Owner:
    """The file that stands for a lock where there is no flock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = uuid4().hex
        self._released = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def take(self) -> bool:
        """Make the file ours, if it is nobody's; return whether it is."""
        content = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _find_start(os.getpid()),
                "processes": _name_processes(),
                "token": self._token,
            }
        )
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            if self.is_held() or not self._take_over(content):
                return False
        else:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(content)
        if self._read().get("token") != self._token:
            return False
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._heartbeat.start()
        return True

    def is_held(self) -> bool:
        """Return whether a process that lives holds the lock."""
        age = self._find_age()
        if age is None:
            return False
        noted = self._read()
        if self._is_of_ours(noted) and noted.get("started"):
            return _find_start(noted.get("pid", 0)) == noted["started"]
        return age < STALE_SECONDS

    def is_held_elsewhere(self) -> bool:
        """Return whether a process holds the lock of which only its heartbeat tells that it lives."""
        return self.is_held() and not self._is_of_ours(self._read())

    def describe(self) -> str:
        """Return who holds the lock; nothing where there is no such file."""
        age, noted = self._find_age(), self._read()
        if age is None or not noted:
            return ""
        return (
            f"process {noted.get('pid')} on {noted.get('host')}, last heard of {max(age, 0):.0f} s ago; if it is dead, "
            f"its lock is free {STALE_SECONDS:.0f} s after that"
        )

    def _is_of_ours(self, noted: dict[str, object]) -> bool:
        """Return whether the holder's process is one that can be looked at here."""
        return noted.get("host") == socket.gethostname() and noted.get("processes") == _name_processes()

    def release(self) -> None:
        """Remove the file, if this process made it."""
        self._released.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
            self._heartbeat = None
            if self._read().get("token") == self._token:
                self._path.unlink(missing_ok=True)

    def _take_over(self, content: str) -> bool:
        """Replace a dead process's file; of several who try, the one that makes the claim does."""
        dead = self._read().get("token", NOBODY)
        claim = self._path.with_name(f"{self._path.name}.{dead}")
        try:
            os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            if (self._find_age(claim) or 0.0) > STALE_SECONDS:  # who made it died before it was done
                claim.unlink(missing_ok=True)
            return False
        own = self._path.with_name(f"{self._path.name}.{self._token}")
        try:
            if self._read().get("token", NOBODY) != dead or self.is_held():
                return False
            own.write_text(content, encoding="utf-8")
            os.replace(own, self._path)
        finally:
            own.unlink(missing_ok=True)
            claim.unlink(missing_ok=True)
        return True

    def _beat(self) -> None:
        """Renew the file's time; a process that lost its lock while it was stopped must not write on."""
        while not self._released.wait(HEARTBEAT_SECONDS):
            if self._read().get("token", self._token) != self._token:
                print(f"t2m-bench: {self._path}: another process took this lock over; this one ends.", file=sys.stderr)
                sys.stderr.flush()
                os._exit(LOST_EXIT_CODE)
            with suppress(OSError):
                os.utime(self._path)

    def _read(self) -> dict[str, object]:
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _find_age(self, path: Path | None = None) -> float | None:
        """Return the seconds since a file was renewed, by the storage's own clock; None where it is absent."""
        path = path or self._path
        probe = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        try:
            renewed = path.stat().st_mtime
            probe.touch()
            return probe.stat().st_mtime - renewed
        except FileNotFoundError:
            return None
        finally:
            probe.unlink(missing_ok=True)


def _name_processes() -> str:
    """Return the name of the set of processes that is seen here: containers of one host name have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _find_start(pid: object) -> str:
    """Return when a process of this host began, which tells it from a later one of its number; "" where it is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
