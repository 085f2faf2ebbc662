"""The training of one adapter, from its first step or from where it was stopped."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from t2m_bench.commit import find_commit
from t2m_bench.data.prefetch import prefetch
from t2m_bench.errors import UserError
from t2m_bench.models.arm import Arm, Segmenter
from t2m_bench.recipe.schema import Recipe
from t2m_bench.training.batches import BatchMaker, MicroBatch
from t2m_bench.training.checkpoint import Progress, check_state, load_state, save_adapter, save_state
from t2m_bench.training.optim import compute_learning_rate
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.step import StepLosses, accumulate_gradients
from t2m_bench.training.updater import Updater, build_updater

Validate = Callable[[Arm], float]
OnEpoch = Callable[[list[dict[str, Any]]], None]
OnStep = Callable[[int, int], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Trainer:
    """All that one training needs; every rank holds the same.

    Attributes:
        validate: mean validation Dice of an adapter, computed over all ranks, equal on each.
        on_epoch: is given the history, a row an epoch, after each epoch, on the first rank.
        on_step: is called with (epoch, step) after each step, on every rank.
        should_stop: asked after each step on every rank; when any rank says yes, all save and return.
    """

    recipe: Recipe
    folder: Path
    adapter: Arm
    segmenter: Segmenter
    batches: BatchMaker
    ranks: ProcessGroup
    validate: Validate
    on_epoch: OnEpoch = lambda history: None
    on_step: OnStep = lambda epoch, step: None
    should_stop: ShouldStop = lambda: False

    def fit(self) -> Progress:
        """Train until the epochs or the patience are used up; the best epoch by validation Dice is kept.

        Returns:
            The progress; it is not `finished` when the training was asked to stop.

        Raises:
            UserError: the loss is not finite.
        """
        for progress in self.run_epochs():
            found = progress
        return found

    def run_epochs(self) -> Iterator[Progress]:
        """Do what `fit` does, yielding the progress as it was found and again after each epoch."""
        updater = build_updater(self.adapter, self.recipe.optim, self.ranks)
        progress = self._restore(updater)
        clock = _Clock(progress.seconds, self.recipe.cluster.checkpoint_minutes * 60)
        yield progress
        while not progress.finished:
            if self._run_epoch(updater, progress, clock):
                break
            self._close_epoch(updater, progress, clock)
            self._save(updater, progress, clock)
            yield progress

    def _restore(self, updater: Updater) -> Progress:
        run_hash = self.recipe.compute_run_hash()
        found = load_state(self.folder, run_hash)
        progress = Progress(run_hash)
        if found is not None:
            tensors, progress = found
            check_state(self.folder, tensors, self.adapter)
            updater.set_state(tensors)
        if not progress.finished and find_commit() not in progress.commits:
            progress.commits.append(find_commit())
        if progress.scaler:
            self.ranks.scaler.load_state_dict(progress.scaler)
        self.ranks.barrier()
        return progress

    def _run_epoch(self, updater: Updater, progress: Progress, clock: "_Clock") -> bool:
        """Run what is left of the epoch; return whether it was stopped."""
        steps = range(progress.step, self.batches.num_steps)
        for step, micro_batches in zip(steps, prefetch(partial(self._make, progress.epoch), steps), strict=True):
            progress.sums.append(self._run_step(updater, progress.epoch, step, micro_batches))
            progress.step = step + 1
            wishes = [float(self.ranks.is_main and clock.is_due()), float(self.should_stop())]
            due, stop = self.ranks.sum(torch.tensor(wishes, device=self.ranks.device)).tolist()
            if due or stop:
                self._save(updater, progress, clock)
            self.on_step(progress.epoch, step)
            if stop:
                return True
        return False

    def _make(self, epoch: int, step: int) -> list[MicroBatch]:
        made = self.batches.make(epoch, step, self.ranks.rank, self.ranks.world_size)
        return [batch.pin_memory() if self.ranks.device.type == "cuda" else batch for batch in made]

    def _run_step(self, updater: Updater, epoch: int, step: int, made: list[MicroBatch]) -> list[float]:
        optim = self.recipe.optim
        num_steps = self.batches.num_steps
        micro_batches = [batch.to(self.ranks.device) for batch in made]
        num_cases = self.batches.count_cases(step)
        losses = accumulate_gradients(
            self.adapter, self.segmenter, micro_batches, num_cases, self.recipe.loss, self.ranks
        )
        total = losses.total(self.recipe.loss)
        if not math.isfinite(total):
            raise UserError(
                f"{self.folder}: the loss is {total} at epoch {epoch}, step {step}. Lower optim.learning_rate, "
                "or use mixed_precision bf16 or no; the last checkpoint is kept."
            )
        updater.update(compute_learning_rate(epoch * num_steps + step, optim.epochs * num_steps, optim))
        return [losses.dice_loss * num_cases, losses.bce_loss * num_cases, losses.contrastive_loss * num_cases]

    def _close_epoch(self, updater: Updater, progress: Progress, clock: "_Clock") -> None:
        val_dice = self.validate(self.adapter)
        num_cases = len(self.batches.case_ids)
        dice, bce, contrastive = (sum(column) / num_cases for column in zip(*progress.sums, strict=True))
        row = {
            "epoch": progress.epoch,
            "step": (progress.epoch + 1) * self.batches.num_steps,
            "loss": StepLosses(dice, bce, contrastive).total(self.recipe.loss),
            "dice_loss": dice,
            "bce_loss": bce,
            "contrastive_loss": contrastive,
            "val_dice": val_dice,
            "gates": self.adapter.gates(),
            "updater": updater.name,
            "seconds": clock.seconds,
        }
        progress.history.append(row)
        if val_dice > progress.best_val_dice:
            progress.best_val_dice, progress.best_epoch = val_dice, progress.epoch
            if self.ranks.is_main:
                save_adapter(self.folder, self.adapter, {"run_hash": progress.run_hash, "epoch": progress.epoch})
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, []
        stale = progress.epoch - 1 - progress.best_epoch
        progress.finished = progress.epoch >= self.recipe.optim.epochs or stale >= self.recipe.optim.patience
        if self.ranks.is_main:
            self.on_epoch(progress.history)

    def _save(self, updater: Updater, progress: Progress, clock: "_Clock") -> None:
        progress.seconds = clock.seconds
        progress.scaler = self.ranks.scaler.state_dict()
        tensors = updater.get_state()  # gathered from every rank
        if self.ranks.is_main:
            save_state(self.folder, tensors, progress)
        clock.restart()
        self.ranks.barrier()


class _Clock:
    """Seconds of training over all attempts, and whether a timed checkpoint is due."""

    def __init__(self, seconds_before: float, interval: float) -> None:
        self._start = time.monotonic() - seconds_before
        self._interval = interval
        self.restart()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self._interval

    def restart(self) -> None:
        self._last = time.monotonic()
