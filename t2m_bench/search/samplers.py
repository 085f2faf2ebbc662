"""Optuna's samplers, seeded trial by trial, so that a study that was stopped goes on as it would have."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from t2m_bench.search.space import Axis
from t2m_bench.search.study import INTERRUPTED, count_asked, fail
from t2m_bench.search.sweep import Sweep

SEED_STEP = 1_000_003
"""A prime between the seeds of sweeps, so that no two share the seeds of their trials."""


def build_distribution(axis: Axis) -> BaseDistribution:
    """Return Optuna's form of an axis."""
    if axis.choices is not None:
        return CategoricalDistribution(axis.choices)
    assert axis.low is not None
    assert axis.high is not None
    if axis.integer:
        return IntDistribution(int(axis.low), int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(float(axis.low), float(axis.high), axis.log, axis.step)


def suggest(trial: optuna.Trial, name: str, wanted: BaseDistribution) -> Any:
    """Return the value that a trial's sampler proposes for an axis."""
    if isinstance(wanted, CategoricalDistribution):
        return trial.suggest_categorical(name, wanted.choices)
    if isinstance(wanted, IntDistribution):
        return trial.suggest_int(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    assert isinstance(wanted, FloatDistribution)
    return trial.suggest_float(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)


class Sampling:
    """Asks a study for trials of a sweep's space."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._distributions = {name: build_distribution(axis) for name, axis in sweep.space.items()}

    def ask(self, study: optuna.Study) -> optuna.Trial:
        """Return a new trial with a value for each axis that exists under the others' values."""
        study.sampler = self._build_sampler(count_asked(study))
        trial = study.ask()
        for name, axis in self._sweep.space.items():
            if all(trial.params.get(other) in axis.allows(other) for other in axis.when):
                suggest(trial, name, self._distributions[name])
        study.sampler = RandomSampler()  # to be told: the grid's would stop a loop that there is not
        return trial

    def settle_interrupted(self, study: optuna.Study) -> int:
        """Tell trials that nobody runs any more as failed and put their values first in the queue; return how many.

        Only for who holds the folder's lock: to others a running trial is none of theirs.
        """
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            values = self._list_given(study, trial)
            fail(study, trial.number, INTERRUPTED)
            if values is not None:
                study.enqueue_trial(values, user_attrs={"again": trial.number})
        return len(running)

    def _list_given(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any] | None:
        """Return the values that a trial had or was to have.

        A process may die while a trial is asked, before it has a value for each axis. A grid knows the missing ones by
        the first asking alone. The seed of other samplers draws the whole trial again; beside values given in advance
        it would draw others, since each draw moves its stream of random numbers on.

        Returns:
            None where the next trial that is asked has these values anyhow.
        """
        given: dict[str, Any] = trial.system_attrs.get("fixed_params", {}) | trial.params
        missing = [name for name in self._list_axes(given) if name not in given]
        if not missing:
            return given
        if "grid_id" not in trial.system_attrs:
            return None
        grid = self._build_sampler(0)
        return given | {
            name: grid.sample_independent(study, trial, name, self._distributions[name]) for name in missing
        }

    def _list_axes(self, params: Mapping[str, Any]) -> list[str]:
        """Return the axes that exist under the values that are known, in the order in which they are asked."""
        space = self._sweep.space.items()
        return [name for name, axis in space if all(params.get(other) in axis.allows(other) for other in axis.when)]

    def _build_sampler(self, number: int) -> BaseSampler:
        section = self._sweep.sampler
        seed = (section.seed * SEED_STEP + number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if section.kind == "tpe":
                return TPESampler(
                    seed=seed,
                    multivariate=True,
                    group=True,  # so that conditional axes are searched together too
                    constant_liar=True,
                    n_startup_trials=section.startup_trials,
                )
            if section.kind == "random":
                return RandomSampler(seed=seed)
            if section.kind == "grid":
                grid = {name: axis.list_values() or [] for name, axis in self._sweep.space.items()}
                return GridSampler(grid, seed=section.seed)
            return NSGAIISampler(seed=seed, population_size=section.startup_trials)
