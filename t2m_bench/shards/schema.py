"""What a folder of shards says about itself: a signature, and count, bytes and sha256 of each file."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from t2m_bench.atomic import write_json
from t2m_bench.errors import ShardError

INDEX_NAME = "index.json"
FORMAT = 1


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
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ShardEntry:
    """One file: its name, the cases in it in order, its size in bytes and its sha256."""

    file: str
    case_ids: tuple[str, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """The content of index.json."""

    signature: Signature
    entries: tuple[ShardEntry, ...]

    @property
    def num_cases(self) -> int:
        return sum(len(entry.case_ids) for entry in self.entries)


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
        raw = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(parse_entry(entry) for entry in raw["entries"])
        return ShardIndex(Signature(**raw["signature"]), entries)
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not an index of shards ({error!r}). Remove the folder and embed again.") from None


def parse_entry(raw: dict[str, Any]) -> ShardEntry:
    """Read one file's entry from JSON."""
    return ShardEntry(str(raw["file"]), tuple(raw["case_ids"]), int(raw["bytes"]), str(raw["sha256"]))


def compute_file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
