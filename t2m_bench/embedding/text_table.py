"""Sentences as vectors, and which of them each case may be given."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from t2m_bench.data.prompts import UNKNOWN, PromptBook, Use
from t2m_bench.embedding.prompt_bank import PromptBank

RowsOf = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class FreeTexts:
    """Names that tell free texts apart, where each case has its own.

    Attributes:
        text_field: the text field whose values name texts.
        class_field: the text field of the classes; empty where there are none.
        class_names: its classes, without "unknown".
        directions: value -> (E,) float64 of length 1: its embedding less the mean of the training texts'.
    """

    text_field: str
    class_field: str
    class_names: tuple[str, ...]
    directions: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class TextTable:
    """The prompt bank and which sentences each case may be given.

    Attributes:
        embeddings: (S, E), one row a distinct sentence.
        rows: field -> value -> rows of the training sentences; each field has the value "unknown".
        fields_of: case_id -> field -> value.
        held_out: as rows, of the sentences that training never sees; of free texts, those that have another wording.
        free: what tells free texts apart; None where classes have sentences. is_labels: whether rows are classes'
            vectors, not sentences'.
    """

    embeddings: Tensor
    rows: RowsOf
    fields_of: Mapping[str, Mapping[str, str]]
    held_out: RowsOf = field(default_factory=dict)
    free: FreeTexts | None = None
    is_labels: bool = False

    @property
    def has_sentences(self) -> bool:
        """Return whether sentences stand for a case, not a class's vector."""
        return bool(self.held_out) or (self.free is not None and not self.is_labels)

    def pick(self, values: Mapping[str, str], choose: np.random.Generator | None = None) -> tuple[int, ...]:
        """Return the row of one sentence a field, drawn, or the first where nothing is drawn."""
        picked = []
        for name, by_value in self.rows.items():
            candidates = by_value[values[name]]
            picked.append(candidates[0 if choose is None else int(choose.integers(len(candidates)))])
        return tuple(picked)

    @property
    def num_wordings(self) -> int:
        """Held-out sentences that every value of every field has; 0 where the table has none."""
        return min((len(rows) for by_value in self.held_out.values() for rows in by_value.values()), default=0)

    def pick_held_out(self, values: Mapping[str, str], wording: int) -> tuple[int, ...]:
        """Return the row of each field's held-out sentence number `wording`, from 0, for its value."""
        return tuple(by_value[values[name]][wording] for name, by_value in self.held_out.items())

    def has_held_out(self, values: Mapping[str, str]) -> bool:
        """Return whether each field's value has a held-out sentence; free texts may lack one."""
        return bool(self.held_out) and all(values[name] in by_value for name, by_value in self.held_out.items())

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
        """Return the index of the combination of values, for telling positive from negative pairs.

        Free texts are positive pairs where their class is the same, or the text itself where no class is known; texts
        that say unknown are one class.
        """
        if self.free is not None:
            return self._index_free(self.free, values)
        index = 0
        for name, by_value in self.rows.items():
            index = index * len(by_value) + sorted(by_value).index(values[name])
        return index

    def _index_free(self, free: FreeTexts, values: Mapping[str, str]) -> int:
        names = free.class_names
        if free.class_field and values[free.class_field] in names:
            return 1 + names.index(values[free.class_field])
        number = self._text_index.get(values[free.text_field], 0)
        return len(names) + number if number and not self.is_labels else 0

    @cached_property
    def _text_index(self) -> Mapping[str, int]:
        """Value of a free text -> its number from 1."""
        assert self.free is not None
        return {value: number for number, value in enumerate(sorted(self.free.directions), start=1)}

    def as_labels(self) -> "TextTable":
        """Return a table with one one-hot vector a value of each field in place of sentences, for the arm `label`.

        Of free texts the values are those of the field of classes.

        It stands there as often as there were sentences, so that whoever draws one draws as much: what is drawn next,
        such as boxes, is then the same in all arms.
        """
        numbers = itertools.count()
        said: RowsOf = self.rows
        if self.free is not None:
            said = {self.free.class_field: dict.fromkeys((*self.free.class_names, UNKNOWN), (0,))}
        rows = {
            name: {value: (next(numbers),) * len(of_value) for value, of_value in by_value.items()}
            for name, by_value in said.items()
        }
        return replace(self, embeddings=torch.eye(next(numbers)), rows=rows, held_out={}, is_labels=True)

    def shuffle(self, patient_of: Mapping[str, str], rng: np.random.Generator) -> "TextTable":
        """Return a table in which each of these patients has another's text; other cases keep theirs.

        Args:
            patient_of: case_id -> patient_id of the cases to shuffle.
        """
        fields_of: dict[str, Mapping[str, str]] = {}  # of each patient, the first case's
        for case_id, patient in patient_of.items():
            fields_of.setdefault(patient, self.fields_of[case_id])
        donors = [list(fields_of)[position] for position in rng.permutation(len(fields_of))]
        if self.free is None:
            donor_of = dict(zip(fields_of, donors, strict=True))
        else:  # in a ring, so that no patient keeps their own text
            donor_of = dict(zip(donors, [*donors[1:], donors[0]], strict=True))
        shuffled = {case_id: fields_of[donor_of[patient]] for case_id, patient in patient_of.items()}
        return replace(self, fields_of={**self.fields_of, **shuffled})


def list_sentence_rows(book: PromptBook, bank: PromptBank, use: Use) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return field -> value -> rows of the prompt bank of its training or its held-out sentences."""
    return {
        field: {value: bank.find_rows(book.sentences(field, value, use)) for value in (*book.classes(field), UNKNOWN)}
        for field in book.fields
    }
