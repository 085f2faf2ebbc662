"""Which trials are stopped early, in one go and after a process was killed."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from messages import raises_naming

from t2m_bench.errors import RecipeError
from t2m_bench.search.pruning import Pruning
from t2m_bench.search.samplers import Sampling
from t2m_bench.search.study import complete, list_counted, open_study, prune
from t2m_bench.search.sweep import Sweep

EPOCHS = 9
KILLED = (0, 4, 9, 12)


def draw_curves(trials: int) -> list[list[float]]:
    """Return curves that rise, cross each other and differ in how far they come."""
    rng = np.random.default_rng(5)
    return [
        [
            float(rng.uniform(0.3, 0.9)) * (1 - math.exp(-epoch / 3)) + 0.05 * float(rng.random())
            for epoch in range(1, 10)
        ]
        for _ in range(trials)
    ]


def train(study: optuna.Study, sweep: Sweep, curve: Sequence[float], killed_after: int = 0) -> bool:
    """Let a trial report a curve until it is stopped, or return that its process was killed."""
    trial, pruning = Sampling(sweep).ask(study), Pruning(sweep.scheduler)
    for epoch, value in enumerate(curve, start=1):
        trial.report(value, epoch)
        is_poor = pruning.is_poor(study, trial.number)
        if epoch == killed_after:
            return True
        if is_poor and epoch < len(curve):
            prune(study, trial.number, epoch, {})
            return False
    complete(study, trial.number, [curve[-1]], {})
    return False


def list_ends(study: optuna.Study) -> list[tuple[str, int | None, float | None]]:
    return [(trial.state.name, trial.last_step, trial.value) for trial in list_counted(study)]


@pytest.mark.parametrize("kind", ["asha", "median"])
@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_a_resumed_study_stops_the_trials_that_an_uninterrupted_one_stops(
    make_sweep: Callable[..., Sweep], tmp_path: Path, kind: str, killed_after: int
) -> None:
    sweep = make_sweep(sampler={"kind": "random"}, scheduler={"kind": kind, "reduction": 2})
    curves = draw_curves(16)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = open_study(tmp_path / "whole", sweep, "s")
    for curve in curves:
        train(whole, sweep, curve)
    killed = 0
    for number, curve in enumerate(curves):
        study = open_study(tmp_path / "killed", sweep, "s")  # read from disk by each trial's process
        if number in KILLED and not train(study, sweep, curve, killed_after):
            continue  # it was stopped before
        if number in KILLED:
            study = open_study(tmp_path / "killed", sweep, "s")
            killed += Sampling(sweep).settle_interrupted(study)
        train(study, sweep, curve)
    assert killed > 0
    ends = list_ends(whole)
    assert list_ends(open_study(tmp_path / "killed", sweep, "s")) == ends
    assert {state for state, *_ in ends} == {"COMPLETE", "PRUNED"}


def test_successive_halving_keeps_the_best_in_so_many(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = make_sweep(scheduler={"kind": "asha", "grace_epochs": 2, "reduction": 2})
    study = open_study(tmp_path, sweep, "s")
    for level in (0.5, 0.4, 0.6, 0.55, 0.3):
        train(study, sweep, [level] * EPOCHS)
    # at epoch 2 the best of two, of three, the better two of four, of five; at epoch 4 the fourth meets 0.5 and 0.6
    assert [last for _, last, _ in list_ends(study)] == [9, 2, 9, 4, 2]


def test_below_the_median_of_three_complete_trials_a_trial_is_stopped(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = make_sweep(scheduler={"kind": "median", "grace_epochs": 3})
    study = open_study(tmp_path, sweep, "s")
    for level in (0.5, 0.3, 0.4, 0.39, 0.41):
        train(study, sweep, [level] * EPOCHS)
    assert [last for _, last, _ in list_ends(study)] == [9, 9, 9, 3, 9]


def test_a_less_is_better_objective_and_no_pruner(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    for kind, last in (("asha", 1), ("none", 9)):
        (tmp_path / kind).mkdir()
        sweep = make_sweep(objectives={"val_reliance": "minimize"}, scheduler={"kind": kind})
        study = open_study(tmp_path / kind, sweep, "s")
        train(study, sweep, [0.1] * EPOCHS)
        train(study, sweep, [0.2] * EPOCHS)
        assert [end[1] for end in list_ends(study)] == [9, last]


def test_a_share_that_halving_cannot_keep_is_refused(make_sweep: Callable[..., Sweep]) -> None:
    for wrong in (2.5, 1):
        with raises_naming(RecipeError, "scheduler.reduction", wrong):
            make_sweep(scheduler={"kind": "asha", "reduction": wrong})
