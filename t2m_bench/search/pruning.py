"""Optuna's pruners, which judge a trial by what its study holds, so that a sweep goes on as it would have."""

from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial

from t2m_bench.search.study import is_interrupted
from t2m_bench.search.sweep import SchedulerSection

LEAST_COMPLETE = 3
"""Complete trials that a median is taken of at least."""


def build_pruner(section: SchedulerSection) -> BasePruner:
    """Build the pruner that a sweep's `scheduler` names; its steps are epochs, the first of which is 1."""
    if section.kind == "asha":
        return SuccessiveHalvingPruner(min_resource=section.grace_epochs, reduction_factor=int(section.reduction))
    if section.kind == "median":
        return MedianPruner(LEAST_COMPLETE, n_warmup_steps=section.grace_epochs, n_min_trials=LEAST_COMPLETE)
    return NopPruner()


class Pruning:
    """Judges running trials. It remembers nothing: whoever opens the study next judges alike."""

    def __init__(self, section: SchedulerSection) -> None:
        self._pruner = build_pruner(section)

    def is_poor(self, study: optuna.Study, number: int) -> bool:
        """Return whether a running trial should end after the epoch that it reported last; ask once per epoch."""
        others: Any = _WithoutInterrupted(study)
        return self._pruner.prune(others, study.get_trials(deepcopy=False)[number])


class _WithoutInterrupted:
    """Presents a study to a pruner without interrupted trials, which run again and would compete with themselves."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        return [trial for trial in self._study.get_trials(*args, **options) if not is_interrupted(trial)]
