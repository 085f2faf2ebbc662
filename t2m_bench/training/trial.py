"""One trial of a sweep: trained for each seed and draw of validation cases in lockstep, judged on validation alone."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from t2m_bench.config import Recipe
from t2m_bench.data.case import Case
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.data.splits import Splits
from t2m_bench.errors import UserError
from t2m_bench.models.fusion import FusionAdapter, build_adapter, count_trainable_parameters
from t2m_bench.training.evaluate import Question
from t2m_bench.training.job import Bench, Job, make_trainer, set_up
from t2m_bench.training.loop import Trainer
from t2m_bench.training.ranks import Ranks


@dataclass(frozen=True)
class TrialData:
    """What all trials of a sweep share.

    Attributes:
        jobs: one for each draw of the validation cases; without test cases, so that no trial can read one.
        seeds: of the training.
    """

    jobs: tuple[Job, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class TrialReport:
    """How good a trial is after an epoch.

    Attributes:
        values: objective -> mean over its members of their values at their best epochs so far.
        members: member -> value of the first objective.
    """

    epoch: int
    finished: bool
    values: Mapping[str, float]
    members: Mapping[str, float]


def hide_test_cases(job: Job) -> Job:
    """Return a job that does not know its test cases."""
    kept = {*job.splits.train, *job.splits.val}
    texts = replace(job.texts, fields_of={name: job.texts.fields_of[name] for name in kept})
    cases = tuple(case for case in job.cases if case.case_id in kept)
    return replace(job, cases=cases, splits=Splits(job.splits.train, job.splits.val, ()), texts=texts)


class FrozenParts:
    """The frozen model and the shards, loaded once for all trials of a process."""

    def __init__(self, data: TrialData, ranks: Ranks) -> None:
        self._data = data
        self._loaded = set_up(data.jobs[0], ranks)

    def run_trial(self, recipe: Recipe, folder: Path, ranks: Ranks) -> Iterator[TrialReport]:
        """Train a recipe for each seed and draw, an epoch of each in turn, and report after each round.

        Args:
            folder: for checkpoints, which nobody needs after the trial; it is removed then.

        Raises:
            UserError: a loss is not finite, or a file cannot be read.
        """
        members = [
            self._make_member(job, recipe, seed, folder, ranks) for job in self._data.jobs for seed in self._data.seeds
        ]
        try:
            epoch = 0
            while not all(member.finished for member in members):
                for member in members:
                    member.advance()
                epoch += 1
                yield _summarise(members, epoch, self._data.metrics)
        except UserError as error:  # name the member, not a folder that will be gone
            raise type(error)(str(error).replace(f"{folder}/", "")) from None
        finally:
            if ranks.is_first:
                shutil.rmtree(folder, ignore_errors=True)

    def _make_member(self, job: Job, recipe: Recipe, seed: int, folder: Path, ranks: Ranks) -> "_Member":
        seeded = recipe.model_copy(update={"seed": seed, "dataset": job.recipe.dataset})
        name = f"seed{seed}-split{job.recipe.dataset.split_seed}"
        own = replace(job, recipe=seeded, run_folder=folder / name)
        generator = torch.Generator().manual_seed(seed)
        adapter = build_adapter(seeded.adapter, job.texts.embeddings.shape[1], generator).to(ranks.device)
        evaluator = replace(self._loaded.evaluator, texts=own.texts, ranks=ranks)
        bench = replace(self._loaded, job=own, adapter=adapter, evaluator=evaluator, ranks=ranks)
        return _Member(name, bench, self._data.metrics)


class _Member:
    """One training of a trial."""

    def __init__(self, name: str, bench: Bench, metrics: Sequence[str]) -> None:
        self.name = name
        self.values: dict[str, float] = {}
        self._bench = bench
        self._metrics = metrics
        self._cases = bench.job.select(bench.job.splits.val)
        self._measured: dict[str, float] = {}
        trainer: Trainer = make_trainer(bench, self._validate, lambda history: None, lambda: False)
        self._epochs = trainer.run_epochs()
        self._progress = next(self._epochs)

    @property
    def finished(self) -> bool:
        return self._progress.finished

    def advance(self) -> None:
        """Train one epoch more; what was measured counts where it is the best so far by validation Dice."""
        if self.finished:
            return
        self._progress = next(self._epochs)
        if self._progress.best_epoch == self._progress.epoch - 1:
            self.values = dict(self._measured)

    def _validate(self, adapter: FusionAdapter) -> float:
        val_dice = self._bench.evaluator.compute_mean_dice(adapter, self._cases)
        self._measured = {"val_dice": val_dice, "trainable_parameters": float(count_trainable_parameters(adapter))}
        if "val_reliance" in self._metrics:
            self._measured["val_reliance"] = compute_reliance(self._bench, adapter, self._cases)
        return val_dice


def compute_reliance(bench: Bench, adapter: FusionAdapter, cases: Sequence[Case]) -> float:
    """Return the mean Dice lost by wrong text (the published map) over cases whose text is known; 0 without text."""
    wrong = bench.job.wrong
    if not adapter.uses_text:
        return 0.0
    known = [case for case in cases if all(case.text_fields[field] != UNKNOWN for field in wrong)]
    right = [Question(case, "right", case.text_fields) for case in known]
    replaced = [Question(case, "wrong", {f: wrong[f][case.text_fields[f]] for f in wrong}) for case in known]
    scores = bench.evaluator.answer(adapter, [*right, *replaced]).scores[:, 0]
    return float(scores[: len(known)].mean() - scores[len(known) :].mean())


def _summarise(members: Sequence[_Member], epoch: int, metrics: Sequence[str]) -> TrialReport:
    means = {name: sum(member.values[name] for member in members) / len(members) for name in metrics}
    shares = {member.name: member.values[metrics[0]] for member in members}
    return TrialReport(epoch, all(member.finished for member in members), means, shares)


def describe_failure(error: BaseException) -> str:
    """Return a failure's reason in a line."""
    return name_failure(type(error).__name__, str(error))


def name_failure(kind: str, message: str) -> str:
    """Return a reason in a line; lack of memory has many names (torch's allocator raises a RuntimeError)."""
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    lacks_memory = kind in ("MemoryError", "OutOfMemoryError") or "allocate memory" in message
    return f"{'out of memory' if lacks_memory else kind}: {first}"
