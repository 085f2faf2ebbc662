"""All arms, folds and seeds of a recipe; finished cells are reused, a failing one does not stop the others."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from t2m_bench.errors import RecipeError, WorkersLostError
from t2m_bench.files import EXPERIMENT_NAME, load_json
from t2m_bench.pipeline.periodic import run_periodically
from t2m_bench.pipeline.preflight import check_setting
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.train import (
    FOLLOW_SECONDS,
    Experiment,
    change_note,
    count_epochs,
    open_experiment,
    run_here,
    write_reference_once,
)
from t2m_bench.recipe.schema import Recipe
from t2m_bench.reporting.completeness import join_suites
from t2m_bench.runs.cell import run_cell
from t2m_bench.runs.finished import is_finished
from t2m_bench.runs.run_folder import RUN_NAME
from t2m_bench.runs.setup import Job
from t2m_bench.terminal import Advance, Terminal, show_seconds


@dataclass(frozen=True)
class Suite:
    """Outcome of a benchmark.

    Attributes:
        summaries: run.json of each finished cell. failures: run -> why it failed.
        num_cells: how many the whole suite has, whichever part of it this command took.
    """

    experiment: Experiment
    summaries: tuple[dict[str, Any], ...]
    failures: dict[str, str]
    num_cells: int

    @property
    def is_complete(self) -> bool:
        """Return whether every cell of the whole suite is finished."""
        return len(self.summaries) == self.num_cells


@dataclass(frozen=True)
class Share:
    """One of `count` parts of a suite, numbered from 1; cells are dealt in turn, so that parts take equally long."""

    number: int = 1
    count: int = 1

    def select(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the cells of this part. Each arm's are dealt in turn: arms differ in cost, so that parts do not."""
        arms = [job.arm for job in jobs]
        by_arm = sorted(range(len(jobs)), key=lambda index: arms.index(arms[index]))
        return [jobs[index] for index in sorted(by_arm[self.number - 1 :: self.count])]


WHOLE = Share()
"""All of a suite."""


def parse_share(text: str) -> Share:
    """Return the part that `I/N` names.

    Raises:
        RecipeError: it is not of this form, or I is not from 1 to N.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise RecipeError(f"--part {text}: write I/N with I from 1 to N, such as 2/16.")
    return Share(int(found[1]), int(found[2]))


def bench(recipe: Recipe, runs: Path, terminal: Terminal, stop: StopRequest, share: Share = WHOLE) -> Suite:
    """Train and evaluate every arm, fold and seed of `bench`, or a share of them beside other processes.

    Raises:
        UserError: as `open_experiment` and `note_suite`; before any training.
        StoppedError: the process was asked to stop; what was finished stays, and running cells are saved.
        WorkersLostError: a process died more often than the recipe allows; the other cells are finished.
    """
    check_setting(recipe, runs, recipe.bench.arms)
    cluster = recipe.cluster
    workers = max(cluster.min_train_workers, cluster.num_embed_workers, cluster.num_bench_workers)
    with _keep_ray(workers, cluster.cpus_per_worker):
        experiment = open_experiment(recipe, runs, terminal, arms=recipe.bench.arms, folds=recipe.folds)
        note_suite(recipe, experiment.folder)
        folds = [experiment.with_fold(fold, runs, terminal) for fold in recipe.folds]
        for fold in folds:
            write_reference_once(fold.make_job(recipe.bench.arms[0], recipe.bench.seeds[0]), terminal)
        jobs = [fold.make_job(arm, seed) for fold in folds for seed in recipe.bench.seeds for arm in recipe.bench.arms]
        mine = share.select(jobs)
        failures = _run_cells([job for job in mine if not is_finished(job)], len(mine), recipe, terminal, stop)
    finished = [load_json(job.run_folder / RUN_NAME, "Run the same command.") for job in jobs if is_finished(job)]
    return Suite(experiment, tuple(finished), failures, len(jobs))


def note_suite(recipe: Recipe, folder: Path) -> None:
    """Add this command's arms, folds and seeds to those that the experiment was asked for before.

    Raises:
        RecipeError: the margin is another one than the experiment's: it is fixed before any result is seen.
    """
    asked = {"arms": recipe.bench.arms, "folds": recipe.folds, "seeds": recipe.bench.seeds}
    with change_note(folder) as noted:
        margin = noted["recipe"].get("bench", {}).get("margin", recipe.bench.margin)
        if margin != recipe.bench.margin:
            raise RecipeError(
                f"bench.margin = {recipe.bench.margin:g}, but {folder / EXPERIMENT_NAME} fixed {margin:g} before its "
                f"results. Set bench.margin={margin:g}, or give the recipe another name."
            )
        noted["suite"] = join_suites([noted.get("suite", {}), asked])


def _run_cells(
    todo: Sequence[Job], num_cells: int, recipe: Recipe, terminal: Terminal, stop: StopRequest
) -> dict[str, str]:
    """Run the cells, side by side or one after the other; return run -> why it failed."""
    told = _Told(len(todo), num_cells, terminal)
    if len(todo) < num_cells:
        terminal.say(f"reused {num_cells - len(todo)} of {num_cells} training runs: finished")
    if not todo:
        return {}
    lost: list[Job] = []
    epochs = sum(job.recipe.optim.epochs - count_epochs(job.run_folder) for job in todo)
    with terminal.watch("training runs", epochs) as advance, _follow(todo, told, advance):
        if recipe.cluster.num_bench_workers > 0:
            from t2m_bench.cluster.bench_job import run_cells_with_ray

            lost = run_cells_with_ray(todo, recipe.cluster, told.end_cell, stop.tell, stop.is_set)
            if stop.is_set():
                raise stop.make_error()
        else:
            for job in todo:
                if stop.is_set():  # by a signal that the cell before was too far to heed
                    raise stop.make_error()
                told.end_cell(job, run_cell(job, partial(run_here, job, stop)))
    if lost:
        names = ", ".join(job.run_folder.name for job in lost)
        raise WorkersLostError(f"processes died more than {recipe.cluster.max_failures} times: {names}")
    return told.failures


@dataclass
class _Told:
    """State of the messages about a suite."""

    num_todo: int
    num_cells: int
    terminal: Terminal
    failures: dict[str, str] = field(default_factory=dict)
    ended: int = 0
    left_s: float | None = None

    def end_cell(self, job: Job, failure: str | None) -> None:
        """Tell how a cell ended, how many are done, and how long the rest will take."""
        self.ended += 1
        name = job.run_folder.name
        done = f"{self.num_cells - self.num_todo + self.ended} of {self.num_cells}"
        left = "" if self.left_s is None or self.ended == self.num_todo else f", {show_seconds(self.left_s)} left"
        if failure is not None:
            self.failures[name] = failure
            self.terminal.say(f"FAILED {name} ({done}{left}): {failure}")
        elif (job.run_folder / RUN_NAME).is_file():
            dice = load_json(job.run_folder / RUN_NAME, "Run the same command.")["test_dice"]
            self.terminal.say(f"trained {name}: test Dice {dice:.4f} ({done}{left})")


@contextmanager
def _follow(jobs: Sequence[Job], told: _Told, advance: Advance) -> Iterator[None]:
    """Tell how many epochs of all cells are done, from their histories, wherever they run."""
    before = {job.run_folder: count_epochs(job.run_folder) for job in jobs}
    total = sum(job.recipe.optim.epochs - before[job.run_folder] for job in jobs)
    start = time.monotonic()
    finished: set[Path] = set()
    last = 0

    def count(job: Job) -> int:
        if job.run_folder not in finished and is_finished(job):
            finished.add(job.run_folder)
        # one stopped early counts as whole: nothing of it is left
        epochs = job.recipe.optim.epochs if job.run_folder in finished else count_epochs(job.run_folder)
        return epochs - before[job.run_folder]

    def describe() -> str:
        """Say where the run stands that trains, or how many epochs are done where several train at once."""
        finished_runs = told.num_cells - told.num_todo + told.ended
        if jobs[0].recipe.cluster.num_bench_workers > 0:
            return f"{finished_runs} of {told.num_cells} finished, {last} of {total} epochs"
        job = jobs[min(told.ended, len(jobs) - 1)]
        epoch = f"epoch {count_epochs(job.run_folder)} of {job.recipe.optim.epochs}"
        return f"{min(finished_runs + 1, told.num_cells)} of {told.num_cells}, {epoch}"

    def tell() -> None:
        nonlocal last
        done = sum(map(count, jobs))
        if done > last:
            told.left_s = (time.monotonic() - start) * (total - done) / done
            last = done
            advance(done, total, describe())

    advance(0, total, describe())
    with run_periodically(tell, FOLLOW_SECONDS):
        yield


def _keep_ray(workers: int, cpus_per_worker: float) -> Any:
    """Keep one Ray through all stages: starting it takes seconds."""
    if workers == 0:
        return nullcontext()
    from t2m_bench.cluster.session import ray_session

    return ray_session(workers, cpus_per_worker)
