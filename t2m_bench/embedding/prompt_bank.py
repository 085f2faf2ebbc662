"""The prompt bank: every distinct sentence with its embedding, encoded once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from t2m_bench.embedding.shards.schema import HDF5_LOCKING
from t2m_bench.errors import ShardError
from t2m_bench.files import write_atomically
from t2m_bench.recipe.defaults import keep_decisive, list_dataclass, load_defaults


@dataclass(frozen=True)
class BankSignature:
    """All that decides the embeddings of a bank."""

    text_encoder: str
    weights_sha256: str
    pooling: str
    prompts_sha256: str

    def compute_hash(self) -> str:
        """Return 12 hex digits that name a bank."""
        decisive = keep_decisive(list_dataclass(self, asdict(self)), load_defaults("prompt_bank"))
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class PromptBank:
    """Sentences and their embeddings, (S, E) float32, row for row."""

    sentences: tuple[str, ...]
    text_embedding: NDArray[np.float32]

    def find_rows(self, sentences: Sequence[str]) -> tuple[int, ...]:
        """Return the rows of the given sentences."""
        return tuple(self.sentences.index(sentence) for sentence in sentences)


def write_bank(path: Path, bank: PromptBank, signature: BankSignature) -> None:
    """Write a bank by atomic rename."""
    with write_atomically(path) as partial, h5py.File(partial, "w", locking=HDF5_LOCKING) as file:
        file["text_embedding"] = bank.text_embedding
        file.attrs["sentences"] = json.dumps(bank.sentences)
        file.attrs["signature"] = json.dumps(asdict(signature))


def load_bank(path: Path, wanted: BankSignature) -> PromptBank:
    """Read a bank.

    Raises:
        ShardError: it cannot be read, or is of another encoder or prompt file.
    """
    try:
        with h5py.File(path, "r", locking=HDF5_LOCKING) as file:
            found = BankSignature(**json.loads(file.attrs["signature"]))
            bank = PromptBank(tuple(json.loads(file.attrs["sentences"])), file["text_embedding"][()])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: not a prompt bank ({error}). Remove it and embed again.") from None
    for field in fields(BankSignature):
        was, needed = getattr(found, field.name), getattr(wanted, field.name)
        if was != needed:
            raise ShardError(f"{path}: made with {field.name} = {was}, but the recipe needs {needed}. Embed again.")
    return bank
