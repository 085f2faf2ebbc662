"""Turns what a user says of a lesion, a sentence or classes, into the vector that an arm reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from t2m_bench.data.free_text import mask_numbers, normalise
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.errors import UserError
from t2m_bench.models.text import FrozenText, load_text_encoder
from t2m_bench.prediction.run_source import check_text_weights
from t2m_bench.prediction.trained import TrainedAdapter
from t2m_bench.recipe.arms import Texts

Text = str | Sequence[str]
"""One sentence, or several whose mean is given, as training gives one sentence a field."""


@dataclass(frozen=True)
class TextInput:
    """The text side of one trained adapter."""

    trained: TrainedAdapter

    @cached_property
    def _table(self) -> TextTable:
        table = self.trained.vocabulary.table
        return table.as_labels() if self.trained.entry.texts == Texts.LABELS else table

    @cached_property
    def _encoder(self) -> FrozenText:
        """The text encoder, which only sentences outside the prompt file need."""
        section = self.trained.text_encoder
        check_text_weights(section.name, self.trained.text_weights_sha256)
        return load_text_encoder(section.name, section.pooling)

    @property
    def fields(self) -> dict[str, tuple[str, ...]]:
        """Text field -> its classes, as this arm reads them."""
        return {field: tuple(classes) for field, classes in self._table.rows.items()}

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self._table.embeddings.shape[1])

    def embed(self, text: Text | None, fields: Mapping[str, str] | None) -> Tensor:
        """Return (width,): the text's embedding, or the classes' first training sentences averaged over fields.

        A sentence of the prompt file has its stored embedding, so that predictions equal those of the benchmark.

        Raises:
            UserError: both or none are given to an arm that reads text, any to one that reads none; a field or class
                that the prompt file does not have; an empty text, or a text for an arm that reads classes.
            RunFolderError, WeightsError: the text encoder is needed, and is another or absent.
        """
        name, kind = self.trained.name, self.trained.adapter.kind
        if not self.trained.entry.reads_text:
            if text is not None or fields is not None:
                raise UserError(f"{name}: the arm {kind} reads no text. Leave text and fields out.")
            return torch.zeros(self.width)
        if (text is None) == (fields is None):
            given = "neither is" if text is None else "both are"
            raise UserError(
                f"{name}: the arm {kind} reads a text or fields ({', '.join(self._table.rows)}), and {given} given. "
                f"Give one of them; {UNKNOWN} is a class of every field."
            )
        return self._embed_fields(fields) if fields is not None else self._embed_text(text or "")

    def _embed_fields(self, fields: Mapping[str, str]) -> Tensor:
        """Return the vector of classes; a field that is not given is unknown."""
        rows = self._table.rows
        for field, value in fields.items():
            if field not in rows:
                raise UserError(f"{self.trained.name}: there is no field {field}; the fields are {', '.join(rows)}.")
            if value not in rows[field]:
                raise UserError(
                    f"{self.trained.name}: {field} = {value!r} is no class; the classes are {', '.join(rows[field])}."
                )
        return self._table.embed({field: fields.get(field, UNKNOWN) for field in rows})

    def _embed_text(self, text: Text) -> Tensor:
        if self.trained.entry.texts == Texts.LABELS:
            raise UserError(
                f"{self.trained.name}: the arm {self.trained.adapter.kind} reads classes, not sentences. Give fields "
                f"({', '.join(self._table.rows)})."
            )
        free = self.trained.vocabulary.free
        sentences = [normalise(sentence) for sentence in ([text] if isinstance(text, str) else text)]
        if not sentences or not all(sentences):
            raise UserError(f"{self.trained.name}: the text is empty. Give a sentence, or fields.")
        if free is not None and free.strip_numbers:
            sentences = [mask_numbers(sentence) for sentence in sentences]
        return torch.stack([self._encode(sentence) for sentence in sentences]).mean(dim=0)

    def _encode(self, sentence: str) -> Tensor:
        """Return (E,) of one sentence: stored, or encoded as in training."""
        known, free = self.trained.vocabulary.sentences, self.trained.vocabulary.free
        if sentence in known:
            return self._table.embeddings[known.index(sentence)]
        num_tokens = self._encoder.count_tokens(sentence)
        if num_tokens <= self._encoder.max_tokens:
            return self._encoder.encode([sentence])[0].to(self._table.embeddings)
        if free is not None and free.long_text == "average":
            return self._encoder.encode_in_pieces(sentence).to(self._table.embeddings)
        raise UserError(
            f"{self.trained.name}: a text has {num_tokens} tokens, and the text encoder takes "
            f"{self._encoder.max_tokens}. Shorten it."
        )
