"""Sentences as vectors, and which of them each case may be given."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from t2m_bench.data.prompts import UNKNOWN, PromptBook, Use
from t2m_bench.embedding.prompt_bank import PromptBank

RowsOf = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class TextTable:
    """The prompt bank and which sentences each case may be given.

    Attributes:
        embeddings: (S, E), one row a distinct sentence.
        rows: field -> value -> rows of the training sentences; each field has the value "unknown".
        fields_of: case_id -> field -> value.
        held_out: as rows, of the sentences that training never sees.
    """

    embeddings: Tensor
    rows: RowsOf
    fields_of: Mapping[str, Mapping[str, str]]
    held_out: RowsOf = field(default_factory=dict)

    def pick(self, values: Mapping[str, str], choose: np.random.Generator | None = None) -> tuple[int, ...]:
        """Return the row of one sentence a field, drawn, or the first where nothing is drawn."""
        picked = []
        for name, by_value in self.rows.items():
            candidates = by_value[values[name]]
            picked.append(candidates[0 if choose is None else int(choose.integers(len(candidates)))])
        return tuple(picked)

    def pick_held_out(self, values: Mapping[str, str]) -> tuple[int, ...]:
        """Return the row of the first held-out sentence of each field's value."""
        return tuple(by_value[values[name]][0] for name, by_value in self.held_out.items())

    def count_nearest_in_class(self) -> dict[str, tuple[int, int]]:
        """Return field -> (held-out sentences whose nearest training sentence has their value, all of them).

        By cosine. An encoder that does not put wordings of a class together fails here, before any model is asked.
        """
        counts = {}
        for name, by_value in self.held_out.items():
            known = [(value, row) for value, rows in self.rows[name].items() for row in rows]
            apart = [(value, row) for value, rows in by_value.items() for row in rows]
            one, other = (
                functional.normalize(self.embeddings[[row for _, row in pairs]].float(), dim=1)
                for pairs in (apart, known)
            )
            nearest = (one @ other.T).argmax(dim=1).tolist()
            hits = sum(known[place][0] == value for place, (value, _) in zip(nearest, apart, strict=True))
            counts[name] = (hits, len(apart))
        return counts

    def embed(self, values: Mapping[str, str], choose: np.random.Generator | None = None) -> Tensor:
        """Return (E,): the mean over fields of one sentence each."""
        return self.embeddings[list(self.pick(values, choose))].mean(dim=0)

    def class_index(self, values: Mapping[str, str]) -> int:
        """Return the index of the combination of values, for telling positive from negative pairs."""
        index = 0
        for name, by_value in self.rows.items():
            index = index * len(by_value) + sorted(by_value).index(values[name])
        return index

    def as_labels(self) -> "TextTable":
        """Return a table with one one-hot vector a value of each field in place of sentences, for the arm `label`.

        It stands there as often as there were sentences, so that whoever draws one draws as much: what is drawn next,
        such as boxes, is then the same in all arms.
        """
        numbers = itertools.count()
        rows = {
            name: {value: (next(numbers),) * len(of_value) for value, of_value in by_value.items()}
            for name, by_value in self.rows.items()
        }
        return replace(self, embeddings=torch.eye(next(numbers)), rows=rows, held_out={})

    def shuffle(self, patient_of: Mapping[str, str], rng: np.random.Generator) -> "TextTable":
        """Return a table in which each of these patients has another's text; other cases keep theirs.

        Args:
            patient_of: case_id -> patient_id of the cases to shuffle.
        """
        fields_of: dict[str, Mapping[str, str]] = {}  # of each patient, the first case's
        for case_id, patient in patient_of.items():
            fields_of.setdefault(patient, self.fields_of[case_id])
        donors = [list(fields_of)[position] for position in rng.permutation(len(fields_of))]
        donor_of = dict(zip(fields_of, donors, strict=True))
        shuffled = {case_id: fields_of[donor_of[patient]] for case_id, patient in patient_of.items()}
        return replace(self, fields_of={**self.fields_of, **shuffled})


def list_sentence_rows(book: PromptBook, bank: PromptBank, use: Use) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return field -> value -> rows of the prompt bank of its training or its held-out sentences."""
    return {
        field: {value: bank.find_rows(book.sentences(field, value, use)) for value in (*book.classes(field), UNKNOWN)}
        for field in book.fields
    }
