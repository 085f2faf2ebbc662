"""What Tune is given, without a cluster."""

import os
from pathlib import Path
from typing import Any

import optuna
import pytest

from t2m_bench.search.study import complete, open_study
from t2m_bench.search.sweep import Sweep
from t2m_bench.typed_yaml import validate

os.environ.setdefault("RAY_AUTH_MODE", "token")  # ray reads them when it is first imported; cluster/session.py too
os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 64)

GATE = "adapter.fine.gate_init"


def make_sweep(kind: str) -> Sweep:
    raw = {"name": "trial", "recipe": "unread.yaml", "space": {GATE: {"low": 0.1, "high": 0.9}}}
    return validate(Sweep, raw | {"scheduler": {"kind": kind, "reduction": 2}}, "sweep", "test")


def decide(scheduler: Any, name: str, values: list[float]) -> str:
    """Return the decision on the last of a trial's values."""
    scheduler.on_trial_add(None, _Trial(name))
    decisions = [
        scheduler.on_trial_result(None, _Trial(name), {"epoch": epoch, "val_dice": value})
        for epoch, value in enumerate(values, start=1)
    ]
    return str(decisions[-1])


class _Trial(str):
    @property
    def trial_id(self) -> str:
        return str(self)


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_fresh_scheduler_is_told_what_earlier_trials_reached(tmp_path: Path, kind: str) -> None:
    from t2m_bench.cluster.tune_parts import build_scheduler

    sweep = make_sweep(kind)
    study = open_study(tmp_path, sweep, "s")
    assert decide(build_scheduler(sweep, 4, study), "first", [0.1]) == "CONTINUE"
    for place in range(5):
        trial = study.ask()
        trial.suggest_float(GATE, 0.1, 0.9)
        for epoch in (1, 2):
            trial.report(0.80 + 0.01 * place + 0.01 * epoch, epoch)
        complete(study, trial.number, [0.82 + 0.01 * place], {})
    assert decide(build_scheduler(sweep, 4, study), "poor", [0.5]) == "STOP"
    assert decide(build_scheduler(sweep, 4, study), "good", [0.9]) == "CONTINUE"


def test_several_objectives_have_no_scheduler(tmp_path: Path) -> None:
    from t2m_bench.cluster.tune_parts import build_scheduler

    sweep = make_sweep("none")
    assert decide(build_scheduler(sweep, 4, optuna.create_study()), "any", [0.0]) == "CONTINUE"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Traceback\n  x\nValueError: no such thing\n", "ValueError: no such thing"),
        (
            "ray.exceptions.ActorDiedError: The actor died unexpectedly.\n\tclass_name: X\n",
            "ActorDiedError: The actor died",
        ),
        ("a\nray.exceptions.OutOfMemoryError: Task was killed\n", "out of memory: Task was killed"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory\n", "out of memory: [enforce fail]"),
        ("", "without a word"),
    ],
)
def test_the_last_exception_is_the_reason(text: str, reason: str) -> None:
    from t2m_bench.cluster.tune_parts import find_reason

    assert reason in find_reason(text)
