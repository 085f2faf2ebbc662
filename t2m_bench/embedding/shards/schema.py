"""Describes a folder of shards: its signature, count, bytes and sha256 of each file, and the position of each case.

The names of the cases stand apart from index.json, sorted, in an array that is mapped and not read: a case costs four
bytes and the longest name's length of page cache, once a host, where strings in a dict took 200 bytes of every process.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2m_bench.errors import ShardError
from t2m_bench.files import write_atomically, write_json
from t2m_bench.recipe.defaults import keep_decisive, list_dataclass, load_defaults

INDEX_NAME = "index.json"
CASES_NAME = "cases.npy"
FORMAT = 2

HDF5_LOCKING = False
"""Files have their final name once they are whole, and folders one writer: HDF5's own locks would only fail where there
are none."""


@dataclass(frozen=True)
class Signature:
    """All that decides the bytes of the embeddings; shards of another signature are refused."""

    image_encoder: str
    weights_sha256: str
    preprocessing_id: str
    manifest_sha256: str
    dtype: str = "float16"
    format: int = FORMAT

    def compute_hash(self) -> str:
        """Return 12 hex digits that name a folder of shards."""
        decisive = keep_decisive(list_dataclass(self, asdict(self)), load_defaults("shards"))
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One file: its name, the number of cases in it, its size in bytes and its sha256."""

    file: str
    num_cases: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """The content of index.json: `entries` in the order of the cases, and the file that says which cases those are."""

    signature: Signature
    cases: ShardEntry
    entries: tuple[ShardEntry, ...]

    @property
    def num_cases(self) -> int:
        return sum(entry.num_cases for entry in self.entries)


class CaseIndex:
    """Position of each case in the order of the files, sorted by name.

    Attributes:
        names: (C,) bytes, UTF-8, sorted. positions: (C,) uint32.
    """

    def __init__(self, names: NDArray[np.bytes_], positions: NDArray[np.uint32]) -> None:
        self.names, self.positions = names, positions

    def find(self, case_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the position (B,) of each case, -1 where there is none of that name."""
        width = self.names.dtype.itemsize
        encoded = [case_id.encode() for case_id in case_ids]
        # cut to the width: a longer dtype would have numpy copy all names at every search
        wanted = np.array(encoded, dtype=self.names.dtype)
        nearest = np.minimum(np.searchsorted(self.names, wanted), len(self.names) - 1)
        fits = np.array([len(name) <= width for name in encoded])
        found: NDArray[np.int64] = np.where(
            fits & (self.names[nearest] == wanted), self.positions[nearest].astype(np.int64), -1
        )
        return found


def write_cases(folder: Path, case_ids: Sequence[str]) -> ShardEntry:
    """Write the names of all cases, given in the order of the files; return the entry of their file.

    Raises:
        ValueError: two cases have one name.
    """
    names = np.array([case_id.encode() for case_id in case_ids], dtype=bytes)
    positions = np.argsort(names, kind="stable").astype(np.uint32)
    table = np.empty(len(names), dtype=[("case_id", names.dtype), ("position", "<u4")])
    table["case_id"], table["position"] = names[positions], positions
    if (table["case_id"][1:] == table["case_id"][:-1]).any():
        raise ValueError("two cases have one name")
    path = folder / CASES_NAME
    with write_atomically(path) as partial:
        with partial.open("wb") as stream:
            np.save(stream, table, allow_pickle=False)
        return ShardEntry(CASES_NAME, len(table), partial.stat().st_size, compute_file_sha256(partial))


def open_case_index(folder: Path, index: ShardIndex) -> CaseIndex:
    """Map the names of the cases into memory; what is searched of them is read, once a host.

    Raises:
        ShardError: the file is not what the index says.
    """
    path = folder / index.cases.file
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        names, positions = np.asarray(table["case_id"]), np.asarray(table["position"])
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise ShardError(f"{path}: not a list of cases ({error}). Remove {folder} and embed again.") from None
    if len(names) != index.num_cases:
        raise ShardError(
            f"{path}: {len(names)} cases, the index says {index.num_cases}. Remove {folder} and embed again."
        )
    return CaseIndex(names, positions)


def check_signature(found: Signature, wanted: Signature, where: Path) -> None:
    """Refuse shards of another encoder, preprocessing or data set.

    Raises:
        ShardError: names the first key that differs and both values.
    """
    for field in fields(Signature):
        was, needed = getattr(found, field.name), getattr(wanted, field.name)
        if was != needed:
            raise ShardError(
                f"{where}: made with {field.name} = {was}, but the recipe asks for {needed}. "
                "Run `t2m-bench embed` for this recipe, or remove the folder."
            )


def write_index(folder: Path, index: ShardIndex) -> None:
    """Write index.json: the folder is complete from now on."""
    write_json(folder / INDEX_NAME, asdict(index))


def load_index(folder: Path) -> ShardIndex:
    """Read index.json.

    Raises:
        ShardError: the folder is incomplete or the file is not an index.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ShardError(f"{path}: absent, so these shards are incomplete. Run `t2m-bench embed`; it continues.")
    try:
        # entries are made as they are read: as dicts, those of ten thousand files would take several times the memory
        raw = json.loads(path.read_text(encoding="utf-8"), object_hook=_make_entry)
        if raw["signature"]["format"] != FORMAT:
            raise ShardError(
                f"{path}: format {raw['signature']['format']}, this version of t2m-bench reads {FORMAT}. "
                f"Remove {folder} and embed again."
            )
        if not all(isinstance(entry, ShardEntry) for entry in (raw["cases"], *raw["entries"])):
            raise TypeError("an entry names no file")
        return ShardIndex(Signature(**raw["signature"]), raw["cases"], tuple(raw["entries"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not an index of shards ({error!r}). Remove the folder and embed again.") from None


def _make_entry(raw: dict[str, Any]) -> dict[str, Any] | ShardEntry:
    return parse_entry(raw) if "num_cases" in raw else raw


def parse_entry(raw: dict[str, Any]) -> ShardEntry:
    """Read one file's entry from JSON."""
    return ShardEntry(str(raw["file"]), int(raw["num_cases"]), int(raw["bytes"]), str(raw["sha256"]))


def compute_file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
