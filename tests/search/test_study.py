import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from messages import check_names, raises_naming
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from t2m_bench.errors import RecipeError, RunFolderError
from t2m_bench.search.samplers import Sampling
from t2m_bench.search.study import (
    JOURNAL_NAME,
    REASON,
    complete,
    count_states,
    fail,
    find_best,
    list_counted,
    load_studies,
    open_storage,
    open_study,
    prune,
)
from t2m_bench.search.sweep import Sweep

GATE, RATE = "adapter.fine.gate_init", "optim.learning_rate"


def planted(params: dict[str, Any]) -> float:
    """The objective: at most 1, where the opening is 0.7 and the rate 1e-3."""
    return 1 - (params[GATE] - 0.7) ** 2 - 0.1 * (math.log10(params[RATE]) + 3) ** 2


def run(study: optuna.Study, sweep: Sweep, trials: int, sampling: Sampling | None = None) -> list[dict[str, Any]]:
    sampling = sampling or Sampling(sweep)
    asked = []
    for _ in range(trials):
        trial = sampling.ask(study)
        asked.append(trial.params)
        complete(study, trial.number, [planted(trial.params)], {"seed0": planted(trial.params)})
    return asked


def test_the_sampler_finds_a_planted_optimum_better_than_random_search(make_sweep: Callable[..., Sweep]) -> None:
    best: dict[str, list[float]] = {name: [] for name in ("tpe", "random")}
    for seed in range(3):
        for name, found in best.items():
            sweep = make_sweep(sampler={"kind": name, "seed": seed, "startup_trials": 8})
            study = optuna.create_study(direction="maximize")  # in memory: the file is not what is tried here
            run(study, sweep, 40)
            found.append(1 - study.best_value)
    assert sum(best["tpe"]) < 0.5 * sum(best["random"])


@pytest.mark.parametrize("kind", ["tpe", "random", "nsga2"])
def test_a_study_that_was_stopped_goes_on_as_it_would_have(
    make_sweep: Callable[..., Sweep], tmp_path: Path, kind: str
) -> None:
    sweep = make_sweep(sampler={"kind": kind, "seed": 3, "startup_trials": 4})
    for name in "abc":
        (tmp_path / name).mkdir()
    whole = run(open_study(tmp_path / "a", sweep, "s"), sweep, 14)
    parts = [run(open_study(tmp_path / "b", sweep, "s"), sweep, number) for number in (6, 8)]
    assert whole == parts[0] + parts[1]
    other = make_sweep(sampler={"kind": kind, "seed": 4, "startup_trials": 4})
    assert run(open_study(tmp_path / "c", other, "s"), other, 3) != whole[:3]


def test_conditional_axes_exist_only_where_their_condition_holds(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    space = {
        "adapter.kind": {"choices": ["gated", "hierarchical"]},
        GATE: {"low": 0.1, "high": 0.9, "when": {"adapter.kind": "hierarchical"}},
        "adapter.fine.heads": {
            "low": 1,
            "high": 8,
            "integer": True,
            "log": True,
            "when": {"adapter.kind": "hierarchical"},
        },
    }
    sweep = make_sweep(space=space)
    study, sampling = open_study(tmp_path, sweep, "s"), Sampling(sweep)
    kinds = set()
    for _ in range(25):
        trial = sampling.ask(study)
        kinds.add(trial.params["adapter.kind"])
        assert (
            (GATE in trial.params)
            == (trial.params["adapter.kind"] == "hierarchical")
            == ("adapter.fine.heads" in trial.params)
        )
        complete(study, trial.number, [trial.params.get(GATE, 0.5)], {})
    assert kinds == {"gated", "hierarchical"}


def test_a_grid_asks_each_point_once(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    space = {GATE: {"choices": [0.2, 0.4, 0.6]}, "adapter.norm": {"choices": ["branch", "output"]}}
    sweep = make_sweep(space=space, sampler={"kind": "grid"}, trials=6)
    study, sampling = open_study(tmp_path, sweep, "s"), Sampling(sweep)
    points = set()
    for _ in range(6):
        trial = sampling.ask(study)
        points.add(tuple(trial.params.values()))
        complete(study, trial.number, [0.5], {})
    assert len(points) == 6


def test_interrupted_trials_are_failed_and_asked_again_first(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = make_sweep()
    study, sampling = open_study(tmp_path, sweep, "s"), Sampling(sweep)
    run(study, sweep, 2, sampling)
    lost = [sampling.ask(study) for _ in range(2)]  # and then the process died
    again = open_study(tmp_path, sweep, "s")
    assert Sampling(sweep).settle_interrupted(again) == 2
    assert Sampling(sweep).settle_interrupted(again) == 0
    assert len(list_counted(again)) == 2
    asked = run(again, sweep, 3)
    assert asked[:2] == [trial.params for trial in lost]
    assert asked[2] not in asked[:2]
    assert count_states(again) == {"COMPLETE": 5, "PRUNED": 0, "FAIL": 0}
    assert not again.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


class DiedError(BaseException):
    """Stands for the end of a process."""


def die_in(patch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """Let the storage's method of this name do its work so many times, and then never again."""
    work, calls = getattr(JournalStorage, name), itertools.count()

    def work_or_die(*given: Any) -> Any:
        if next(calls) >= after:
            raise DiedError
        return work(*given)

    patch.setattr(JournalStorage, name, work_or_die)


@pytest.mark.parametrize("given", [None, 0, 1, 2])
def test_a_grid_goes_on_wherever_in_the_asking_its_process_died(
    make_sweep: Callable[..., Sweep], tmp_path: Path, given: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {GATE: {"choices": [0.2, 0.4, 0.6]}, "adapter.norm": {"choices": ["branch", "output"]}}
    sweep = make_sweep(space=space, sampler={"kind": "grid"}, trials=6)
    study = open_study(tmp_path, sweep, "s")
    for _ in range(2):
        with monkeypatch.context() as patch:
            die_in(patch, "set_trial_system_attr" if given is None else "set_trial_param", after=given or 0)
            with contextlib.suppress(DiedError):
                Sampling(sweep).ask(study)
        study = open_study(tmp_path, sweep, "s")  # in another process, which dies likewise
        assert Sampling(sweep).settle_interrupted(study) == 1
    sampling, points = Sampling(sweep), []
    while len(list_counted(study)) < sweep.trials:
        trial = sampling.ask(study)
        points.append(tuple(sorted(trial.params.items())))
        complete(study, trial.number, [0.5], {})
    assert len(points) == len(set(points)) == 6


@pytest.mark.parametrize("kind", ["tpe", "random", "nsga2"])
@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_trial_whose_process_died_while_it_was_asked_has_the_values_that_it_would_have_had(
    make_sweep: Callable[..., Sweep], tmp_path: Path, kind: str, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its missing values must come from where they stand in the seed's stream, not from its start."""
    space = {
        "adapter.kind": {"choices": ["gated", "hierarchical"]},
        GATE: {"low": 0.1, "high": 0.9, "when": {"adapter.kind": ["gated", "hierarchical"]}},
        RATE: {"low": 1e-5, "high": 1e-1, "log": True},
    }
    sweep = make_sweep(space=space, sampler={"kind": kind, "startup_trials": 2})
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = run(open_study(tmp_path / "a", sweep, "s"), sweep, 6)
    study = open_study(tmp_path / "b", sweep, "s")
    parts = run(study, sweep, 3)
    with monkeypatch.context() as patch:
        die_in(patch, "set_trial_param", after=given)
        with contextlib.suppress(DiedError):
            Sampling(sweep).ask(study)
    study = open_study(tmp_path / "b", sweep, "s")
    assert [len(trial.params) for trial in study.trials] == [3, 3, 3, given]
    assert Sampling(sweep).settle_interrupted(study) == 1
    assert parts + run(study, sweep, 3) == whole


def test_what_became_of_a_trial_is_told_with_its_reason(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = make_sweep()
    study, sampling = open_study(tmp_path, sweep, "s"), Sampling(sweep)
    complete(study, sampling.ask(study).number, [float("nan")], {})
    stopped = sampling.ask(study)
    stopped.report(0.8, 1)
    prune(study, stopped.number, 1, {"seed0": 0.8})
    fail(study, sampling.ask(study).number, "no room")
    complete(study, sampling.ask(study).number, [0.9], {"seed0": 0.88, "seed1": 0.92})
    # as anybody opens it, without a line of ours
    plain = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL_NAME))))
    told = [(trial.state.name, trial.value) for trial in plain.trials]
    assert told == [("FAIL", None), ("PRUNED", 0.8), ("FAIL", None), ("COMPLETE", 0.9)]
    not_finite, stopped_early, *others = [trial.user_attrs.get(REASON) for trial in plain.trials]
    check_names(not_finite, "objective", "nan")
    check_names(stopped_early, "scheduler", "epoch 1")
    assert others == ["no room", None]
    assert plain.metric_names == ["val_dice"]
    best = find_best(study)
    assert best is not None
    assert best.number == 3


def test_of_several_objectives_the_front_is_kept(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = make_sweep(objectives={"val_dice": "maximize", "val_reliance": "minimize"})
    study, sampling = open_study(tmp_path, sweep, "s"), Sampling(sweep)
    for values in ([0.9, 0.05], [0.88, 0.01], [0.87, 0.04]):
        complete(study, sampling.ask(study).number, values, {})
    assert [trial.number for trial in study.best_trials] == [0, 1]
    best = find_best(study)
    assert best is not None
    assert best.number == 0


def test_a_line_that_a_crash_cut_off_costs_that_line_alone(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = make_sweep()
    run(open_study(tmp_path, sweep, "s"), sweep, 3)
    journal = tmp_path / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 6, "tri')
    assert len(load_studies(tmp_path)["s"].trials) == 3  # a reader beside a writer changes nothing
    assert journal.read_bytes().endswith(b'"tri')
    study = open_study(tmp_path, sweep, "s")
    run(study, sweep, 1)
    assert len(open_study(tmp_path, sweep, "s").trials) == 4
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_the_lock_of_a_study_leads_to_its_file(
    make_sweep: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a symbolic link: to nowhere, a lock that a killed process left would be waited on for ever."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    seen, make_link = [], os.symlink

    def look(source: str, target: str) -> None:
        make_link(source, target)
        seen.append(Path(target).resolve())

    monkeypatch.setattr(os, "symlink", look)
    open_study(Path("runs"), make_sweep(), "s")
    assert set(seen) == {(tmp_path / "runs" / JOURNAL_NAME).resolve()}


ASK = """
import os, signal, sys
from pathlib import Path
from t2m_bench.search.study import load_studies

study = load_studies(Path("runs"))["s"]
make_link = os.symlink
if "die" in sys.argv:
    os.symlink = lambda *given: (make_link(*given), os.kill(os.getpid(), signal.SIGKILL))
study.ask()
"""


@pytest.mark.soak  # Optuna waits half a minute before it takes a lock for left
def test_a_process_killed_with_the_lock_in_its_hand_holds_nobody_up(
    make_sweep: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    open_study(Path("runs"), make_sweep(), "s")
    assert subprocess.run([sys.executable, "-c", ASK, "die"]).returncode == -signal.SIGKILL
    assert any(path.is_symlink() for path in Path("runs").iterdir())
    subprocess.run([sys.executable, "-c", ASK], check=True, timeout=120)


def test_a_file_that_is_no_sqlite_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.sqlite").write_bytes(b"no database at all, and long enough to be read as one" * 40)
    with raises_naming(RunFolderError, tmp_path / "study.sqlite", "study"):
        load_studies(tmp_path)


def test_sqlite_is_for_local_disks_and_neither_for_object_stores(
    make_sweep: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(storage="sqlite")
    run(open_study(tmp_path, sweep, "s"), sweep, 2)
    assert len(optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.sqlite").trials) == 2
    monkeypatch.setattr("t2m_bench.search.study.find_file_system", lambda folder: "nfs4")
    with raises_naming(RecipeError, tmp_path, "nfs4", "sweep.storage=journal"):
        open_storage(tmp_path, "sqlite")
    with raises_naming(RecipeError, "bucket/runs", "object store", "--runs"):
        open_storage(Path("s3://bucket/runs"), "journal")
