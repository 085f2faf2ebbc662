"""One trial of a sweep: trained for each seed and draw of validation cases in lockstep, judged on validation alone."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from t2m_bench.data.splits import Splits
from t2m_bench.errors import DatasetError, RecipeError, UserError
from t2m_bench.evaluation.conditions import QuestionSet, build_questions
from t2m_bench.models.arm import Arm, count_trainable_parameters
from t2m_bench.recipe.conditions import OTHER_PATIENT, RIGHT, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.recipe.schema import TIGHT, Recipe
from t2m_bench.runs.job import ask_to_validate, make_trainer
from t2m_bench.runs.setup import Frozen, Job, RunContext, load_frozen, set_up
from t2m_bench.training.loop import Trainer
from t2m_bench.training.process_group import ProcessGroup

NOT_HERE = "no-reference"
"""Path that stands for the reference folder of a job without test cases; nothing lies there."""


@dataclass(frozen=True)
class TrialData:
    """Data that all trials of a sweep share.

    Attributes:
        jobs: one for each draw of the validation cases; without test cases, so that no trial can read one.
        seeds: of the training.
    """

    jobs: tuple[Job, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class TrialReport:
    """Values of a trial after an epoch.

    Attributes:
        values: objective -> mean over its members of their values at their best epochs so far.
        members: member -> value of the first objective.
    """

    epoch: int
    finished: bool
    values: Mapping[str, float]
    members: Mapping[str, float]


def hide_test_cases(job: Job) -> Job:
    """Return a job that does not know its test cases, nor where their boxes and predicted classes lie."""
    kept = {*job.data.splits.train, *job.data.splits.val} - {*job.data.splits.test}
    val = tuple(name for name in job.data.splits.val if name in kept)
    train = tuple(name for name in job.data.splits.train if name in kept)
    if not (val and train):
        raise RecipeError(
            "a sweep chooses by validation cases apart from the test cases, of which there are none: set "
            "dataset.validation to apart"
        )
    data = replace(
        job.data,
        cases=tuple(case for case in job.data.cases if case.case_id in kept),
        splits=Splits(train, val, ()),
        texts=replace(job.data.texts, fields_of={name: job.data.texts.fields_of[name] for name in kept}),
        asking=replace(job.data.asking, predicted={}, places={name: job.data.asking.places[name] for name in kept}),
        reference=job.run_folder / NOT_HERE,
    )
    return replace(job, data=data)


class FrozenParts:
    """The frozen model and the shards, loaded once for all trials of a process."""

    def __init__(self, data: TrialData, ranks: ProcessGroup) -> None:
        self._data = data
        self._frozen: Frozen = load_frozen(data.jobs[0], ranks)

    def run_trial(self, recipe: Recipe, folder: Path, ranks: ProcessGroup) -> Iterator[TrialReport]:
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
            if ranks.is_main:
                shutil.rmtree(folder, ignore_errors=True)

    def _make_member(self, job: Job, recipe: Recipe, seed: int, folder: Path, ranks: ProcessGroup) -> "_Member":
        seeded = recipe.model_copy(update={"seed": seed, "dataset": job.recipe.dataset})
        name = f"seed{seed}-split{job.recipe.dataset.split_seed}"
        own = replace(job, arm=seeded.adapter.kind, recipe=seeded, suite=seeded, run_folder=folder / name)
        return _Member(name, set_up(own, ranks, self._frozen), self._data.metrics)


class _Member:
    """One training of a trial."""

    def __init__(self, name: str, bench: RunContext, metrics: Sequence[str]) -> None:
        self.name = name
        self.values: dict[str, float] = {}
        self._bench = bench
        self._validation = ask_to_validate(bench)
        self._reliance = ask_for_reliance(bench) if "val_reliance" in metrics and bench.arm.uses_text else None
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

    def _validate(self, arm: Arm) -> float:
        val_dice = self._bench.evaluator.compute_mean_dice(arm, self._validation)
        self._measured = {
            "val_dice": val_dice,
            "trainable_parameters": float(count_trainable_parameters(arm)),
            "val_reliance": compute_reliance(self._bench, arm, self._reliance) if self._reliance else 0.0,
        }
        return val_dice


def ask_for_reliance(bench: RunContext) -> QuestionSet:
    """Return the right text of each validation case whose text is known, and a wrong one.

    That is the published map's, or with free text, which has no such map, another patient's.
    """
    other = WRONG if bench.texts.free is None else OTHER_PATIENT
    asking = replace(bench.job.data.asking, conditions=(RIGHT, other), boxes=(TIGHT,))
    asked = build_questions(bench.job.data.select(bench.job.data.splits.val), bench.texts, asking)
    wrong = {question.case.case_id for question in asked.questions if question.condition == other}
    kept = (q for q in asked.questions if q.condition in (RIGHT, other) and q.case.case_id in wrong)
    return QuestionSet(tuple(kept), asked.vectors)


def compute_reliance(bench: RunContext, arm: Arm, question_set: QuestionSet) -> float:
    """Return the mean Dice that wrong text costs; 0 where no text is known."""
    if not question_set.questions:
        return 0.0
    dice = bench.evaluator.answer(arm, question_set, dice_alone=True).select(DICE)
    is_right = np.array([question.condition == RIGHT for question in question_set.questions])
    return float(dice[is_right].mean() - dice[~is_right].mean())


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
    if kind == DatasetError.__name__:  # whose message names a file, and its name a case: reports have pseudonyms alone
        first = f"a file of the data set:{first.partition(':')[2]} (`t2m-bench prepare` names it)"
    lacks_memory = kind in ("MemoryError", "OutOfMemoryError") or "allocate memory" in message
    return f"{'out of memory' if lacks_memory else kind}: {first}"
