"""Reads embeddings back, in any order, after checking that the files are what the index says."""

import json
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import h5py
import numpy as np
from numpy.typing import NDArray

from t2m_bench.embedding.shards.schema import (
    HDF5_LOCKING,
    Signature,
    check_signature,
    compute_file_sha256,
    load_index,
    open_case_index,
)
from t2m_bench.errors import ShardError
from t2m_bench.files import write_json

ARRAYS = ("image_embedding", "mask_low_res", "box_xyxy")

MAX_OPEN_FILES = 64
"""A process may open 1,024: thousands of shards are opened in turn."""


@dataclass(frozen=True)
class EmbeddedBatch:
    """B stored cases: image_embedding (B, D, h, w) float16, mask_low_res (B, 4h, 4w) uint8, box_xyxy (B, 4) float32."""

    image_embedding: NDArray[np.float16]
    mask_low_res: NDArray[np.uint8]
    box_xyxy: NDArray[np.float32]


class CaseSource(Protocol):
    """Reads embedded cases, perhaps into the memory of `into`; `ShardReader` does."""

    def read(self, case_ids: Sequence[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch: ...


class ShardReader:
    """Random access to a folder of shards; files are opened lazily, and may be read on after a fork.

    Raises:
        ShardError: the folder is incomplete, of another signature, or a file is truncated or altered.
    """

    def __init__(self, folder: Path, wanted: Signature | None = None) -> None:
        self.folder = folder
        self.index = load_index(folder)
        if wanted is not None:
            check_signature(self.index.signature, wanted, folder)
        self._starts = np.cumsum([0, *(entry.num_cases for entry in self.index.entries)])
        self._opened: dict[int, _OpenFile] = {}
        self._layouts: dict[int, _Layout] = {}
        self._distinct: dict[_Layout, _Layout] = {}  # two or three, however many files
        verify_files(folder)
        self._places = open_case_index(folder, self.index)

    def read(self, case_ids: Sequence[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch:
        """Read the named cases in the order given.

        Args:
            into: a batch of as many cases or more to read into; new memory costs as much as the reading itself.

        Raises:
            ShardError: a case is not in these shards.
        """
        if not case_ids:
            raise ValueError("no case is asked for, so there is no shape to return")
        positions = self._places.find(case_ids)
        if (positions < 0).any():
            lacking = case_ids[int(np.argmax(positions < 0))]
            raise ShardError(f"{self.folder}: case {lacking} is not in these shards. Run `t2m-bench embed` again.")
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        places = list(zip(numbers.tolist(), (positions - self._starts[numbers]).tolist(), strict=True))
        count = len(places)
        if into is None:
            first = self._open(places[0][0]).layout
            into = EmbeddedBatch(*(np.empty((count, *rows.shape[1:]), rows.dtype) for rows in first))
        batch = EmbeddedBatch(*(getattr(into, name)[:count] for name in ARRAYS))
        for position, (number, row) in enumerate(places):
            opened = self._open(number)
            for rows, name in zip(opened.layout, ARRAYS, strict=True):
                opened.read_row(rows, row, getattr(batch, name)[position])
        return batch

    def _open(self, number: int) -> "_OpenFile":
        opened = self._opened.pop(number, None)
        if opened is None:
            if len(self._opened) >= MAX_OPEN_FILES:
                self._opened.pop(next(iter(self._opened))).close()
            path = self.folder / self.index.entries[number].file
            if number not in self._layouts:
                layout = _find_layout(path)
                self._layouts[number] = self._distinct.setdefault(layout, layout)
            opened = _OpenFile(path, self._layouts[number])
        self._opened[number] = opened  # the newest is last
        return opened


@dataclass(frozen=True)
class _Rows:
    """Byte offset of a dataset in its file, and the type and shape of its rows."""

    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


_Layout = tuple[_Rows, ...]
"""Arrays of one shard file, in the order of ARRAYS."""


def _find_layout(path: Path) -> _Layout:
    with h5py.File(path, "r", locking=HDF5_LOCKING) as file:
        return tuple(_find_rows(path, name, file[name]) for name in ARRAYS)


class _OpenFile:
    """A file whose datasets HDF5 has found once; each lies in one piece, so that rows are read from the file itself.

    HDF5 takes longer to select a small row than to read it, and 1 ms and 0.6 MiB to open a file.
    """

    def __init__(self, path: Path, layout: _Layout) -> None:
        self.path, self.layout = path, layout
        self._descriptor = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._descriptor)

    def read_row(self, rows: _Rows, row: int, into: NDArray[Any]) -> None:
        """Read one row of a dataset into a contiguous array of its shape and type."""
        assert (into.dtype, into.shape, into.flags.c_contiguous) == (rows.dtype, rows.shape[1:], True)
        unread = into.reshape(-1).view(np.uint8).data
        offset = rows.offset + row * into.nbytes
        while len(unread):
            count = os.preadv(self._descriptor, [unread], offset)
            if count == 0:
                raise ShardError(
                    f"{self.path}: ends before row {row} of {rows.name}. Remove its folder and embed again."
                )
            unread, offset = unread[count:], offset + count


def _find_rows(path: Path, name: str, dataset: h5py.Dataset) -> _Rows:
    offset = dataset.id.get_offset()
    if offset is None or dataset.chunks is not None or not dataset.dtype.isnative:
        raise ShardError(f"{path}: {name} is not stored in one piece, as these shards are. Embed again.")
    return _Rows(name, offset, dataset.shape, dataset.dtype)


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
    index = load_index(folder)
    entries = (index.cases, *index.entries)
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


def check_hdf5(folder: Path) -> str:
    """Return why HDF5 cannot write and read in this folder, or nothing."""
    path = folder / f".locking-{uuid4().hex[:8]}.h5"
    try:
        with h5py.File(path, "w", locking=HDF5_LOCKING) as file:
            file["number"] = 1
        with h5py.File(path, "r", locking=HDF5_LOCKING) as file:
            return "" if file["number"][()] == 1 else f"{folder}: HDF5 reads other than it wrote"
    except OSError as error:
        return f"{folder}: HDF5 fails ({error}); unset HDF5_USE_FILE_LOCKING, or give --runs a folder on other storage"
    finally:
        path.unlink(missing_ok=True)
