"""Reads embeddings back, in any order, after checking that the files are what the index says."""

import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from t2m_bench.atomic import write_json
from t2m_bench.errors import ShardError
from t2m_bench.shards.schema import Signature, check_signature, compute_file_sha256, load_index

ARRAYS = ("image_embedding", "mask_low_res", "box_xyxy")

MAX_OPEN_FILES = 64
"""HDF5 keeps some hundred KiB an open file, and a process may open 1,024: thousands of shards are opened in turn."""


@dataclass(frozen=True)
class EmbeddedBatch:
    """B stored cases: image_embedding (B, D, h, w) float16, mask_low_res (B, 4h, 4w) uint8, box_xyxy (B, 4) float32."""

    image_embedding: NDArray[np.float16]
    mask_low_res: NDArray[np.uint8]
    box_xyxy: NDArray[np.float32]


class ShardReader:
    """Random access to a folder of shards; files are opened lazily, once per process.

    Raises:
        ShardError: the folder is incomplete, of another signature, or a file is truncated or altered.
    """

    def __init__(self, folder: Path, wanted: Signature | None = None) -> None:
        self.folder = folder
        self.index = load_index(folder)
        if wanted is not None:
            check_signature(self.index.signature, wanted, folder)
        self._place = {
            case_id: (number, row)
            for number, entry in enumerate(self.index.entries)
            for row, case_id in enumerate(entry.case_ids)
        }
        self._opened: dict[int, _OpenFile] = {}
        self._process = os.getpid()
        verify_files(folder)

    @property
    def case_ids(self) -> tuple[str, ...]:
        return tuple(self._place)

    def read(self, case_ids: Sequence[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch:
        """Read the named cases in the order given.

        Args:
            into: a batch of as many cases or more to read into; new memory costs as much as the reading itself.

        Raises:
            ShardError: a case is not in these shards.
        """
        lacking = [case_id for case_id in case_ids if case_id not in self._place]
        if lacking:
            raise ShardError(f"{self.folder}: case {lacking[0]} is not in these shards. Run `t2m-bench embed` again.")
        if not case_ids:
            raise ValueError("no case is asked for, so there is no shape to return")
        places = [self._place[case_id] for case_id in case_ids]
        count = len(places)
        if into is None:
            first = self._open(places[0][0]).rows
            into = EmbeddedBatch(*(np.empty((count, *first[name].shape[1:]), first[name].dtype) for name in ARRAYS))
        batch = EmbeddedBatch(*(getattr(into, name)[:count] for name in ARRAYS))
        for position, (number, row) in enumerate(places):
            opened = self._open(number)
            for name in ARRAYS:
                opened.rows[name].read_row(row, getattr(batch, name)[position])
        return batch

    def _open(self, number: int) -> "_OpenFile":
        if self._process != os.getpid():  # HDF5 handles do not survive a fork
            self._opened, self._process = {}, os.getpid()
        opened = self._opened.pop(number, None)
        if opened is None:
            if len(self._opened) >= MAX_OPEN_FILES:
                oldest = next(iter(self._opened))
                self._opened.pop(oldest).file.close()
            opened = _OpenFile(self.folder / self.index.entries[number].file)
        self._opened[number] = opened  # the newest is last
        return opened


class _OpenFile:
    """A file with its three datasets looked up, which takes HDF5 longer than reading a small row."""

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path, "r")
        self.rows = {name: _Rows(self.file[name]) for name in ARRAYS}


class _Rows:
    """One dataset, read a row at a time through HDF5's own calls: h5py's indexing takes longer than a small row."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._dataset = dataset
        self._start = (0,) * len(self.shape[1:])
        self._count = (1, *self.shape[1:])
        self._in_memory = h5py.h5s.create_simple(self.shape[1:])
        self._in_file = dataset.id.get_space()

    def read_row(self, row: int, into: NDArray[Any]) -> None:
        """Read one row into an array of its shape and type."""
        self._in_file.select_hyperslab((row, *self._start), self._count)
        self._dataset.id.read(self._in_memory, self._in_file, into)


def verify_files(
    folder: Path, always: bool = False, on_file: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Check each file's size, and its sha256 once a file and host (or always).

    Args:
        on_file: is told (done, total) after each file.

    Raises:
        ShardError: names the file and both values.
    """
    memory = folder / f".verified-{socket.gethostname()}.json"
    known = {} if always else _load_memory(memory)
    verified = {}
    entries = load_index(folder).entries
    for number, entry in enumerate(entries, start=1):
        path = folder / entry.file
        size = path.stat().st_size if path.is_file() else -1
        if size != entry.bytes:
            found = "absent" if size < 0 else f"{size} bytes"
            raise ShardError(f"{path}: {found}, the index says {entry.bytes} bytes. Remove {folder} and embed again.")
        stamp = [size, path.stat().st_mtime_ns, entry.sha256]
        if known.get(entry.file) != stamp and compute_file_sha256(path) != entry.sha256:
            raise ShardError(f"{path}: altered, its sha256 is not the index's {entry.sha256[:12]}. Embed again.")
        verified[entry.file] = stamp
        on_file(number, len(entries))
    if verified != known and os.access(folder, os.W_OK):
        write_json(memory, verified)


def _load_memory(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def check_locking(folder: Path) -> str:
    """Return why HDF5 cannot write and read in this folder, or nothing; some shared file systems refuse locks."""
    path = folder / f".locking-{socket.gethostname()}-{os.getpid()}.h5"
    try:
        with h5py.File(path, "w") as file:
            file["number"] = 1
        with h5py.File(path, "r") as file:
            return "" if file["number"][()] == 1 else f"{folder}: HDF5 reads other than it wrote"
    except OSError as error:
        return f"{folder}: HDF5 fails ({error}); set HDF5_USE_FILE_LOCKING=FALSE or use another folder"
    finally:
        path.unlink(missing_ok=True)
