"""Keeps runs at a URL (s3://, gs://): work happens in a local folder, which is mirrored to the URL meanwhile.

HDF5 and the workers of a cluster need paths, so embeddings and the manifest stay in that folder. The runs and the key
of their pseudonyms are copied to the URL, so that any other machine can continue from there.
"""

import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pyarrow import fs

from t2m_bench.data.pseudonyms import KEY_NAME
from t2m_bench.errors import StorageError, find_first_line
from t2m_bench.files import write_atomically, write_json
from t2m_bench.pipeline.periodic import run_periodically
from t2m_bench.terminal import Terminal

MEMORY_NAME = ".mirrored.json"
KINDS = ("s3://", "gs://")
PUSH_SECONDS = 1.0
CONNECT_SECONDS = 12.0
TRIES = 20
"""Attempts to read files while training writes them; the next round sends what this one could not."""

Stamp = tuple[int, int]
"""A file's bytes and its time of change in ns."""

Result = TypeVar("Result")


def is_url(where: str) -> bool:
    """Return whether runs lie at a URL."""
    return where.startswith(KINDS)


def locate(what: str, runs: str | None, levels: int) -> tuple[str, Path]:
    """Return the folder or URL of all output, and the path below it of a run (2 levels) or an experiment (1).

    Args:
        what: its folder, or its URL: s3://b/x/exp/run?q -> s3://b/x?q and exp/run.
        runs: said by the user; a folder's path may be anywhere then.

    Raises:
        StorageError: the URL is too short to name one.
    """
    path, mark, query = what.partition("?")
    parts = path.rstrip("/").split("/")
    if is_url(what):
        if len(parts) < len(("s3:", "", "BUCKET")) + levels:
            lacking = "/EXPERIMENT/RUN" if levels == 2 else "/EXPERIMENT"
            raise StorageError(f"{_hide_keys(path)}: names no such place; write s3://BUCKET/...{lacking}.")
        return "/".join(parts[:-levels]) + mark + query, Path(*parts[-levels:])
    if runs is not None and is_url(runs):
        return runs, Path(*parts[-levels:])
    folder = Path(what).resolve()
    return runs or str(folder.parents[levels - 1]), folder


@contextmanager
def open_runs(
    where: str,
    cache: Path,
    prefix: str,
    terminal: Terminal,
    undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Path]:
    """Yield the folder to work in; the content of a URL is fetched first and kept up to date until the end.

    Args:
        where: a folder, which is yielded, or a URL.
        cache: where folders that mirror URLs lie; shared by all nodes of a cluster.
        prefix: of the experiments to bring, "" for all.
        undisturbed: in which what is left is sent at the end: no signal may end the process meanwhile.

    Raises:
        StorageError: the URL cannot be read and written; what was made here stays.
    """
    if not is_url(where):
        yield Path(where)
        return
    mirror = Mirror(where, cache, prefix, terminal)
    mirror.bring()
    try:
        with mirror.follow():
            yield mirror.folder
    except BaseException:
        with undisturbed():
            mirror.try_push()  # what ended the work is what the user must hear of
        raise
    with undisturbed():
        mirror.push()
    terminal.say(f"kept at {mirror.shown}")


class Mirror:
    """A folder here and the same one at a URL.

    What both sides had after the last exchange is remembered, so that a file that only one side changed goes to the
    other. A run that both changed is taken from the URL, and the folder's own is set aside.
    """

    def __init__(self, url: str, cache: Path, prefix: str, terminal: Terminal) -> None:
        self.shown = _hide_keys(url.partition("?")[0])
        self._prefix = prefix
        self._terminal = terminal
        self._remote, self._base = self._within(lambda: _connect(url))  # and a file is written there
        self.folder = cache / re.sub(r"[^A-Za-z0-9.-]+", "-", self._base)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known = _load_memory(self.folder / MEMORY_NAME)
        self._pushing = threading.Lock()

    def bring(self) -> None:
        """Fetch what the URL has and this folder lacks."""
        there, here = self._list_there(), self._list_here()
        fetched = 0
        for group in sorted({_find_run(name) for name in there}):
            names = [name for name in there if _find_run(name) == group]
            moved_there = [name for name in names if name not in here or self._knows(name, "there") != there[name]]
            moved_here = [
                name for name, stamp in here.items() if _find_run(name) == group and self._is_new(name, stamp)
            ]
            if moved_there and moved_here and not all(self._is_same(name) for name in names):
                self._set_aside(group)
                moved_there = names
            for name in moved_there:
                self._fetch(name, there[name])
                fetched += 1
        self._remember()
        self._terminal.say(
            f"working in {self.folder}, kept at {self.shown} ({fetched} files fetched). Nothing there can be locked: "
            "let no other machine write the same runs meanwhile"
        )

    def push(self) -> None:
        """Send what is new here, older files first, so that a run there is always one that a resume can take.

        Raises:
            StorageError: the URL cannot be written.
        """
        with self._pushing:
            for name, content, stamp in self._read_new():
                try:
                    there = self._send(name, content)
                except OSError as error:
                    raise StorageError(
                        f"{self.shown}: cannot be written ({find_first_line(error)}). Everything is kept in "
                        f"{self.folder}; run the same command again to send it and continue."
                    ) from None
                self._known[name] = {"here": list(stamp), "there": list(there)}
                self._remember()

    def try_push(self) -> bool:
        """Send new files, or report why they cannot be sent."""
        try:
            self.push()
        except StorageError as error:
            print(f"t2m-bench: {error}", file=sys.stderr, flush=True)
            return False
        return True

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Send what is new every PUSH_SECONDS; a network that fails is told once and tried again."""
        well = True

        def send() -> None:
            nonlocal well
            try:
                self.push()
                well = True
            except (StorageError, OSError) as error:
                if well:
                    print(f"t2m-bench: {error} Trying again meanwhile.", file=sys.stderr, flush=True)
                well = False

        with run_periodically(send, PUSH_SECONDS):
            yield

    def _within(self, work: Callable[[], Result]) -> Result:
        """Do work with the URL that must not hang: a store that does not answer retries for minutes."""
        done: list[Result] = []
        failed: list[Exception] = []

        def run() -> None:
            try:
                done.append(work())
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(CONNECT_SECONDS)
        if done:
            return done[0]
        reason = find_first_line(failed[0]) if failed else f"no answer within {CONNECT_SECONDS:.0f} s"
        raise StorageError(
            f"{self.shown}: cannot be read and written ({reason}). Does the bucket exist, and are the credentials in "
            "the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)?"
        )

    def _list_here(self) -> dict[str, Stamp]:
        """Return the files that belong at the URL: experiments and the key, nothing hidden or half-written."""
        places = [path.parent for path in self.folder.glob(f"{self._prefix}*/experiment.json")]
        files = [path for place in places for path in place.rglob("*")] + [self.folder / KEY_NAME]
        found = {}
        for path in files:
            name = path.relative_to(self.folder).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found[name] = (status.st_size, status.st_mtime_ns)
        return found

    def _list_there(self) -> dict[str, Stamp]:
        """Return the files at the URL."""
        top = self._remote.get_file_info(fs.FileSelector(self._base, allow_not_found=True))
        found = [info for info in top if info.is_file and info.base_name == KEY_NAME]
        for info in top:
            if info.type == fs.FileType.Directory and info.base_name.startswith(self._prefix):
                found += self._remote.get_file_info(fs.FileSelector(info.path, recursive=True))
        return {_relate(info.path, self._base): _stamp(info) for info in found if info.is_file}

    def _read_new(self) -> list[tuple[str, bytes, Stamp]]:
        """Return the new files as they were at one moment, oldest first; none when they never stood still.

        Raises:
            OSError: a file cannot be read, and not because it was just replaced.
        """
        failed: OSError | None = None
        for _ in range(TRIES):
            before = self._list_here()
            new = {name: stamp for name, stamp in before.items() if self._is_new(name, stamp)}
            try:
                contents = {name: (self.folder / name).read_bytes() for name in new}
            except FileNotFoundError:
                continue
            except OSError as error:  # replaced by another host meanwhile, or to last
                failed = error
                continue
            if self._list_here() == before:
                return [(name, contents[name], new[name]) for name in sorted(new, key=lambda name: new[name][1])]
        if failed is not None:
            raise failed
        return []

    def _is_new(self, name: str, stamp: Stamp) -> bool:
        return self._knows(name, "here") != stamp

    def _knows(self, name: str, side: str) -> Stamp | None:
        known = self._known.get(name)
        return (known[side][0], known[side][1]) if known else None

    def _send(self, name: str, content: bytes) -> Stamp:
        path = f"{self._base}/{name}"
        with self._remote.open_output_stream(path) as stream:
            stream.write(content)
        return _stamp(self._remote.get_file_info(path))

    def _is_same(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and path.read_bytes() == self._read(name)

    def _read(self, name: str) -> bytes:
        try:
            with self._remote.open_input_stream(f"{self._base}/{name}") as stream:
                return bytes(stream.read())
        except OSError as error:
            raise StorageError(f"{self.shown}/{name}: cannot be read ({find_first_line(error)}).") from None

    def _fetch(self, name: str, there: Stamp) -> None:
        path, content = self.folder / name, self._read(name)
        with write_atomically(path, private=name == KEY_NAME) as partial:
            partial.write_bytes(content)
            os.utime(partial, ns=(there[1], there[1]))  # so that the newest results there are the newest here
        status = path.stat()
        self._known[name] = {"here": [status.st_size, status.st_mtime_ns], "there": list(there)}

    def _set_aside(self, group: str) -> None:
        aside = self.folder / f".aside-{secrets.token_hex(4)}" / group
        aside.parent.mkdir(parents=True)
        (self.folder / group).rename(aside)
        self._terminal.say(f"{self.shown}/{group} went on elsewhere and is taken; what was here lies in {aside}")

    def _remember(self) -> None:
        write_json(self.folder / MEMORY_NAME, self._known)


def _hide_keys(url: str) -> str:
    """Leave out what a URL may hold before the bucket, s3://KEY:SECRET@BUCKET."""
    return re.sub(r"//[^/]*@", "//", url)


def _connect(url: str) -> tuple[fs.FileSystem, str]:
    """Return the store and the path in it, after writing a file there: some stores list what they let nobody write."""
    remote, path = fs.FileSystem.from_uri(url)
    base = path.rstrip("/")
    probe = f"{base}/.probe-{secrets.token_hex(8)}"
    with remote.open_output_stream(probe) as stream:
        stream.write(b"t2m-bench")
    remote.delete_file(probe)
    return remote, base


def _find_run(name: str) -> str:
    """Return the run's folder of a file, or the file itself where it lies beside runs: those change as one."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:2])


def _relate(path: str, base: str) -> str:
    return PurePosixPath(path).relative_to(base).as_posix()


def _stamp(info: fs.FileInfo) -> Stamp:
    return int(info.size), int(info.mtime_ns)


def _load_memory(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
