"""The frozen text encoder: a Hugging Face model by name or folder, or the small stand-in shipped with the package."""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from t2m_bench.errors import WeightsError, find_first_line
from t2m_bench.models.torchvision_ops import declare_missing_operators
from t2m_bench.recipe.schema import PUBMEDBERT, STAND_IN

STAND_IN_FOLDER = Path(__file__).parent / "weights" / "stand-in-text"
BATCH_SIZE = 64

Pooling = Literal["cls", "mean"]

UNREADABLE = (
    *(OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError, EOFError, ImportError),
    *(pickle.UnpicklingError, SafetensorError),
)
"""Exceptions that transformers raises for damaged files, or for other content under their names."""

UNUSED_WEIGHTS = "pooler."
"""Prefix of a Hugging Face encoder's head over [CLS], which does not contribute to sentence vectors."""


@dataclass(frozen=True)
class FrozenText:
    """A text encoder in evaluation mode, no parameter of which takes a gradient.

    Attributes:
        name: as the recipe has it. pooling: [CLS] or the mean over tokens.
        width: E of the embeddings. max_tokens: the longest sentence it takes.
        tokenizer, model: of transformers.
    """

    name: str
    pooling: Pooling
    width: int
    max_tokens: int
    tokenizer: Any
    model: Any

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Return (n, E) float32, one row a sentence.

        Raises:
            WeightsError: a sentence is longer than the encoder takes; nothing is cut silently.
        """
        rows = [self._encode(sentences[start : start + BATCH_SIZE]) for start in range(0, len(sentences), BATCH_SIZE)]
        return torch.cat(rows)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text, the encoder's own marks included."""
        return len(self.tokenizer(text)["input_ids"])

    @torch.no_grad()
    def encode_in_pieces(self, text: str) -> Tensor:
        """Return (E,) float32 of a text of any length: the mean over pieces of the encoder's length, without overlap.

        A piece weighs as many tokens as it has.
        """
        tokens = self.tokenizer(
            text,
            truncation=True,
            max_length=self.max_tokens,
            stride=0,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
            padding=True,
            return_tensors="pt",
        )
        own = (1 - tokens["special_tokens_mask"]).sum(dim=1, keepdim=True).float()  # (pieces, 1), marks not counted
        pooled = self._pool({name: tokens[name] for name in ("input_ids", "attention_mask")})
        mean: Tensor = (pooled * own).sum(dim=0) / own.sum()
        return mean

    def _encode(self, sentences: Sequence[str]) -> Tensor:
        for sentence in sentences:
            length = len(self.tokenizer(sentence)["input_ids"])
            if length > self.max_tokens:
                raise WeightsError(
                    f"text encoder {self.name} takes {self.max_tokens} tokens and this sentence has {length}: "
                    f"{sentence[:60]!r}... Shorten it in the prompt file."
                )
        return self._pool(self.tokenizer(list(sentences), padding=True, return_tensors="pt"))

    def _pool(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return (n, E) of tokens (n, T)."""
        hidden: Tensor = self.model(**tokens).last_hidden_state.float()  # (n, tokens, E)
        if self.pooling == "cls":
            return hidden[:, 0]
        real: Tensor = tokens["attention_mask"].unsqueeze(-1).float()
        return (hidden * real).sum(dim=1) / real.sum(dim=1)


def load_text_encoder(name: str, pooling: Pooling) -> FrozenText:
    """Load a frozen text encoder.

    Args:
        name: "stand-in", a folder in Hugging Face's layout, or a name on its hub (fetched once, then cached).
        pooling: what stands for a sentence.

    Raises:
        WeightsError: it cannot be found or read, or holds code.
    """
    folder = find_text_folder(name)
    declare_missing_operators()
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # a missing pooling head is told as a warning, and [CLS] is read before it
    logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        # safetensors, or a .bin that transformers reads with weights_only: neither can run code
        model, loading = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    except UNREADABLE as error:
        reason = find_first_line(error)
        raise WeightsError(f"{folder}: cannot be read as a text encoder ({reason}). Fetch {name} again.") from None
    _check_complete(folder, name, loading)
    model.eval().requires_grad_(False)
    max_tokens = min(int(getattr(model.config, "max_position_embeddings", 512)), int(tokenizer.model_max_length))
    return FrozenText(name, pooling, int(model.config.hidden_size), max_tokens, tokenizer, model)


def _check_complete(folder: Path, name: str, loading: Mapping[str, Any]) -> None:
    """Refuse weights that lack a parameter: transformers fills it with random numbers and goes on.

    Args:
        loading: what `from_pretrained` says of the keys.
    """
    missing = [key for key in sorted(loading["missing_keys"]) if not key.startswith(UNUSED_WEIGHTS)]
    mismatched = [key for key, *_ in loading["mismatched_keys"] if not key.startswith(UNUSED_WEIGHTS)]
    for keys, what in ((missing, "are not in its weights"), (mismatched, "are of another shape in its weights")):
        if keys:
            raise WeightsError(
                f"{folder}: {len(keys)} parameters of the encoder that config.json describes {what}, first {keys[0]}. "
                f"Fetch {name} again."
            )


def compute_text_sha256(name: str) -> str:
    """Return one sha256 over the encoder's weights and tokenizer files.

    Raises:
        WeightsError: as `find_text_folder`.
    """
    digest = hashlib.sha256()
    for path in sorted(find_text_folder(name).iterdir()):
        if path.suffix in {".safetensors", ".bin", ".json", ".txt"}:
            with path.open("rb") as stream:
                digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def find_text_folder(name: str) -> Path:
    """Return the folder of an encoder's files, fetched from the hub when it is a name and not cached yet.

    Raises:
        WeightsError: it is no folder and cannot be fetched; says what to fetch and where to put it.
    """
    if name == STAND_IN:
        if not (STAND_IN_FOLDER / "model.safetensors").is_file():
            raise WeightsError(f"{STAND_IN_FOLDER} is missing from the installed package; install t2m-bench again.")
        return STAND_IN_FOLDER
    if Path(name).is_dir():
        return Path(name)
    return _fetch(name)


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    by_hand = (
        f"Fetch config.json, the tokenizer files and model.safetensors (or pytorch_model.bin) of {name} where there is "
        "a network, put them into one folder and name it in text_encoder.name"
    )
    by_verb = "Run `t2m-bench fetch pubmedbert DIR` where there is a network, and set text_encoder.name=DIR"
    way_out = f"{by_verb if name == PUBMEDBERT else by_hand}; or set text_encoder.name=stand-in for trials offline."
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "pytorch_model*.bin"]))
    except HFValidationError:
        raise WeightsError(f"text_encoder.name = {name}: neither a folder here nor a name on the hub.") from None
    except Exception as error:  # the hub's client raises errors of three libraries
        reason = find_first_line(error)
        raise WeightsError(
            f"text encoder {name} is not cached here and cannot be fetched ({reason}). {way_out}"
        ) from None
    if not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        raise WeightsError(f"{folder}: holds no weights. {way_out}")
    return folder
