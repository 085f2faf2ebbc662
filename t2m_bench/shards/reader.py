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
        self._files: dict[int, h5py.File] = {}
        self._process = os.getpid()
        verify_files(folder)

    @property
    def case_ids(self) -> tuple[str, ...]:
        return tuple(self._place)

    def read(self, case_ids: Sequence[str]) -> EmbeddedBatch:
        """Read the named cases in the order given.

        Raises:
            ShardError: a case is not in these shards.
        """
        rows = [self._read_case(case_id) for case_id in case_ids]
        return EmbeddedBatch(*(np.stack(column) for column in zip(*rows, strict=True)))

    def _read_case(self, case_id: str) -> tuple[NDArray[Any], ...]:
        if case_id not in self._place:
            raise ShardError(f"{self.folder}: case {case_id} is not in these shards. Run `t2m-bench embed` again.")
        number, row = self._place[case_id]
        file = self._open(number)
        arrays = []
        for name in ("image_embedding", "mask_low_res", "box_xyxy"):
            dataset = file[name]
            array = np.empty(dataset.shape[1:], dataset.dtype)
            dataset.read_direct(array, np.s_[row])
            arrays.append(array)
        return tuple(arrays)

    def _open(self, number: int) -> h5py.File:
        if self._process != os.getpid():  # HDF5 handles do not survive a fork
            self._files, self._process = {}, os.getpid()
        if number not in self._files:
            self._files[number] = h5py.File(self.folder / self.index.entries[number].file, "r")
        return self._files[number]


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
