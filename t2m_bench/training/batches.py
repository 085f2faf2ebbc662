"""Draws the cases, sentences and boxes of a step: a function of seed, epoch and step alone, never of the ranks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2m_bench.data.boxes import jitter_box
from t2m_bench.data.frame import Frame
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.shards.reader import CaseSource, EmbeddedBatch
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.training.shares import share_positions


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


@dataclass(frozen=True)
class BatchMaker:
    """Makes the micro-batches of any step.

    Attributes:
        frame: how images lie in the encoder's input. sizes: case_id -> (height, width) of its image; training boxes
            stay inside it, as those of the evaluation do.
    """

    source: CaseSource
    texts: TextTable
    case_ids: tuple[str, ...]
    seed: int
    global_batch_size: int
    micro_batch_size: int
    text_dropout: float
    box_jitter: float
    frame: Frame
    sizes: Mapping[str, tuple[int, int]]
    _order: dict[int, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Order of the current epoch; to draw it takes longer than a step where there are a million cases."""
    _memory: list[EmbeddedBatch] = field(default_factory=list, init=False, repr=False, compare=False)
    """Memory of an earlier read, to read into again: no micro-batch uses it, and new memory costs time."""

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
            boxes.append(jitter_box(stored.box_xyxy[row], self.box_jitter, self._find_extent(case_id), rng))
        return MicroBatch(
            torch.tensor(list(positions)),
            torch.from_numpy(stored.image_embedding).to(torch.float32, memory_format=torch.channels_last),
            torch.stack(texts),
            torch.tensor(classes),
            torch.from_numpy(stored.mask_low_res).float() / 255.0,
            torch.from_numpy(np.stack(boxes)),
        )

    def _find_extent(self, case_id: str) -> NDArray[np.float32]:
        height, width = self.sizes[case_id]
        return self.frame.scale_box((0, 0, width, height), height, width)[2:]

    def _read(self, case_ids: list[str]) -> EmbeddedBatch:
        if self._memory and len(self._memory[0].box_xyxy) >= len(case_ids):
            return self.source.read(case_ids, self._memory[0])
        self._memory[:] = [self.source.read(case_ids)]
        return self._memory[0]
