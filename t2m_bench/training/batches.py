"""Which cases, sentences and boxes a step sees: a function of seed, epoch and step alone, never of the ranks."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.shards.reader import EmbeddedBatch

RowsOf = Mapping[str, Mapping[str, tuple[int, ...]]]


class CaseSource(Protocol):
    """Where embedded cases come from; `ShardReader` is one. It may return them in the memory of `into`."""

    def read(self, case_ids: Sequence[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch: ...


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

    def count_homes(self) -> dict[str, tuple[int, int]]:
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
        """Return a table with one one-hot vector a value of each field in place of sentences, for the arm `label`."""
        numbers = itertools.count()
        rows = {name: {value: (next(numbers),) for value in by_value} for name, by_value in self.rows.items()}
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


@dataclass(frozen=True)
class MicroBatch:
    """Some cases of a global batch on one rank.

    Attributes:
        positions: (B,) of the cases in the global batch.
        image_embedding: (B, D, h, w); text_embedding: (B, E); text_class: (B,).
        mask_low_res: (B, 4h, 4w) in [0, 1]; box_xyxy: (B, 4) in pixels of the encoder's square input.
    """

    positions: Tensor
    image_embedding: Tensor
    text_embedding: Tensor
    text_class: Tensor
    mask_low_res: Tensor
    box_xyxy: Tensor

    def pin_memory(self) -> "MicroBatch":
        """Return the batch in memory that a GPU copies from while the processor goes on."""
        return MicroBatch(*(value.pin_memory() for value in vars(self).values()))

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the batch on a device."""
        return MicroBatch(*(value.to(device, non_blocking=True) for value in vars(self).values()))


def order_cases(case_ids: Sequence[str], seed: int, epoch: int) -> list[str]:
    """Return the cases in the order of an epoch."""
    rng = np.random.default_rng([seed, epoch])
    return [case_ids[position] for position in rng.permutation(len(case_ids))]


def count_steps(num_cases: int, global_batch_size: int) -> int:
    """Return the steps of an epoch; the last may be short, no case is dropped or repeated."""
    return -(-num_cases // global_batch_size)


def share_positions(num_cases: int, rank: int, world_size: int) -> range:
    """Return the positions of a global batch that a rank computes: contiguous, sizes differing by at most one."""
    return range(num_cases * rank // world_size, num_cases * (rank + 1) // world_size)


@dataclass(frozen=True)
class BatchMaker:
    """Makes the micro-batches of any step."""

    source: CaseSource
    texts: TextTable
    case_ids: tuple[str, ...]
    seed: int
    global_batch_size: int
    micro_batch_size: int
    text_dropout: float
    box_jitter: float
    input_size: int
    _order: dict[int, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of the current epoch: drawing it takes longer than a step where there are a million cases."""
    _memory: list[EmbeddedBatch] = field(default_factory=list, init=False, repr=False, compare=False)
    """What was read before, to read into: nothing of a micro-batch lies there, and new memory costs time."""

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return count_steps(len(self.case_ids), self.global_batch_size)

    def count_cases(self, step: int) -> int:
        """Return the cases in the global batch of a step."""
        return min(self.global_batch_size, len(self.case_ids) - step * self.global_batch_size)

    def make(self, epoch: int, step: int, rank: int, world_size: int) -> Iterator[MicroBatch]:
        """Yield the micro-batches of one rank for a step of an epoch."""
        start = step * self.global_batch_size
        if epoch not in self._order:
            self._order.clear()
            self._order[epoch] = order_cases(self.case_ids, self.seed, epoch)
        batch = self._order[epoch][start : start + self.global_batch_size]
        share = share_positions(len(batch), rank, world_size)
        for first in range(share.start, share.stop, self.micro_batch_size):
            positions = range(first, min(first + self.micro_batch_size, share.stop))
            yield self._make_one([batch[position] for position in positions], positions, epoch, start)

    def _make_one(self, case_ids: list[str], positions: range, epoch: int, start: int) -> MicroBatch:
        stored = self._read(case_ids)
        texts, classes, boxes = [], [], []
        for row, (case_id, position) in enumerate(zip(case_ids, positions, strict=True)):
            rng = np.random.default_rng([self.seed, epoch, start + position, 1])  # the same on any rank
            values = dict(self.texts.fields_of[case_id])
            if rng.random() < self.text_dropout:
                values = dict.fromkeys(values, UNKNOWN)
            texts.append(self.texts.embed(values, rng))
            classes.append(self.texts.class_index(values))
            boxes.append(jitter_box(stored.box_xyxy[row], self.box_jitter, self.input_size, rng))
        return MicroBatch(
            torch.tensor(list(positions)),
            torch.from_numpy(stored.image_embedding).to(torch.float32, memory_format=torch.channels_last),
            torch.stack(texts),
            torch.tensor(classes),
            torch.from_numpy(stored.mask_low_res).float() / 255.0,
            torch.from_numpy(np.stack(boxes)),
        )

    def _read(self, case_ids: list[str]) -> EmbeddedBatch:
        if self._memory and len(self._memory[0].box_xyxy) >= len(case_ids):
            return self.source.read(case_ids, self._memory[0])
        self._memory[:] = [self.source.read(case_ids)]
        return self._memory[0]


def jitter_box(
    box_xyxy: NDArray[np.float32], share: float, input_size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Move each side of a box (4,) by up to a share of the box's width or height, in or out, inside the image."""
    x0, y0, x1, y1 = box_xyxy
    size = np.array([x1 - x0, y1 - y0] * 2, dtype=np.float32)
    moved = box_xyxy + size * rng.uniform(-share, share, 4).astype(np.float32)
    inside: NDArray[np.float32] = np.clip(moved, 0, input_size).astype(np.float32)
    return inside
