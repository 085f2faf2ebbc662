"""Optuna's samplers, seeded trial by trial, so that a study that was stopped goes on as it would have."""

import warnings
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
                trial._suggest(name, self._distributions[name])
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
        """Return the values that a trial had or was to have, should the process have died while it was asked.

        Other samplers fill in what lacks when the trial is asked again; a grid knows its points by the first asking
        alone.
        None: it was not yet given one, so the point is free.
        """
        given: dict[str, Any] = trial.system_attrs.get("fixed_params", {}) | trial.params
        lacking = self._distributions.keys() - given.keys()
        if self._sweep.sampler.kind != "grid" or not lacking:
            return given
        if "grid_id" not in trial.system_attrs:
            return None
        grid = self._build_sampler(0)
        return given | {
            name: grid.sample_independent(study, trial, name, self._distributions[name]) for name in lacking
        }

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
