"""What Tune is given, without a cluster."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import check_names

from t2m_bench.recipe.typed_yaml import validate
from t2m_bench.search.study import open_study
from t2m_bench.search.sweep import Sweep

os.environ.setdefault("RAY_AUTH_MODE", "token")  # ray reads them when it is first imported; cluster/session.py too
os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 64)

GATE = "adapter.fine.gate_init"


def make_sweep(kind: str) -> Sweep:
    raw = {"name": "trial", "recipe": "unread.yaml", "space": {GATE: {"low": 0.1, "high": 0.9}}}
    return validate(Sweep, raw | {"scheduler": {"kind": kind, "reduction": 2}}, "sweep", "test")


class _Trial(str):
    @property
    def trial_id(self) -> str:
        return str(self)


def test_tune_stops_what_the_study_finds_poor_and_never_a_finished_trial(tmp_path: Path) -> None:
    from t2m_bench.cluster.tune_parts import StudyScheduler, StudySearcher

    sweep = make_sweep("asha")
    study = open_study(tmp_path, sweep, "s")
    searcher = StudySearcher(study, sweep, lambda: None, lambda: False)
    scheduler: Any = StudyScheduler(searcher)

    def decide(name: str, epoch: int, value: float) -> str:
        result = {"val_dice": value, "epoch": epoch, "finished": epoch == 3, "members": []}
        return str(scheduler.on_trial_result(None, _Trial(name), result))

    for name in ("good", "poor", "ending"):
        searcher.suggest(name)
    assert [decide("good", epoch, 0.8) for epoch in (1, 2, 3)] == ["CONTINUE"] * 3
    assert decide("poor", 1, 0.5) == "STOP"
    assert decide("ending", 3, 0.4) == "CONTINUE"
    assert [trial.intermediate_values for trial in study.trials] == [{1: 0.8, 2: 0.8, 3: 0.8}, {1: 0.5}, {3: 0.4}]


def test_several_objectives_have_no_pruner(tmp_path: Path) -> None:
    from t2m_bench.cluster.tune_parts import StudySearcher

    raw = {"name": "trial", "recipe": "unread.yaml", "space": {GATE: {"low": 0.1, "high": 0.9}}}
    raw |= {"scheduler": {"kind": "none"}, "objectives": {"val_dice": "maximize", "val_reliance": "minimize"}}
    sweep = validate(Sweep, raw, "sweep", "test")
    searcher = StudySearcher(open_study(tmp_path, sweep, "s"), sweep, lambda: None, lambda: False)
    searcher.suggest("any")
    result = {"val_dice": 0.0, "val_reliance": 1.0, "epoch": 1, "finished": False, "members": []}
    assert not searcher.is_poor("any", result)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Traceback\n  x\nValueError: no thing\n", {"ValueError", "no thing"}),
        (
            "ray.exceptions.ActorDiedError: The actor died unexpectedly.\n\tclass_name: X\n",
            {"ActorDiedError", "actor died"},
        ),
        ("a\nray.exceptions.OutOfMemoryError: Task was killed\n", {"out of", "killed"}),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory\n", {"out of", "[enforce fail]"}),
        ("", {"without"}),
    ],
)
def test_the_last_exception_is_the_reason(text: str, named: set[str]) -> None:
    from t2m_bench.cluster.tune_parts import find_reason

    check_names(find_reason(text), *named)
    assert "\n" not in find_reason(text)


def test_the_study_is_told_how_each_trial_ended(tmp_path: Path) -> None:
    from t2m_bench.cluster.tune_parts import StudySearcher

    sweep, told = make_sweep("asha"), []
    study = open_study(tmp_path, sweep, "s")
    searcher = StudySearcher(study, sweep, lambda: told.append(1), lambda: False)
    asked = {name: searcher.suggest(name) for name in ("whole", "stopped", "bad", "killed", "silent")}
    assert [config["number"] for config in asked.values()] == [0, 1, 2, 3, 4]
    assert asked["whole"]["params"].keys() == {GATE}

    def report(epoch: int, value: float, finished: bool) -> dict[str, Any]:
        return {"val_dice": value, "epoch": epoch, "finished": finished, "members": [["seed0-split0", value]]}

    searcher.is_poor("whole", report(1, 0.7, False))
    searcher.on_trial_complete("whole", report(2, 0.8, True))
    assert searcher.is_poor("stopped", report(1, 0.4, False))
    searcher.on_trial_complete("stopped", report(1, 0.4, False))
    searcher.on_trial_complete("bad", {**report(0, float("nan"), False), "failure": "UserError: nan"})
    searcher.on_trial_complete("killed", error=True)  # Tune tells its callbacks the reason after this
    searcher.tell_crash("killed", "ray.exceptions.ActorDiedError: gone")
    searcher.on_trial_complete("silent", {"training_iteration": 1})
    trials = study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "FAIL"]
    assert [trial.value for trial in trials] == [0.8, 0.4, None, None, None]
    assert [trial.intermediate_values for trial in trials[:2]] == [{1: 0.7, 2: 0.8}, {1: 0.4}]
    assert trials[0].user_attrs == {"members": {"seed0-split0": 0.8}}
    reasons = [trial.user_attrs["reason"] for trial in trials[1:]]
    check_names(reasons[0], "scheduler", "epoch 1")
    assert reasons[1:3] == ["UserError: nan", "ActorDiedError: gone"]
    check_names(reasons[3], "result")
    assert len(told) == 5


def test_a_trial_whose_node_was_lost_is_left_to_be_asked_again(tmp_path: Path) -> None:
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    from t2m_bench.cluster.tune_parts import StudySearcher

    sweep, told, short = make_sweep("asha"), [], [False]
    study = open_study(tmp_path, sweep, "s")
    searcher = StudySearcher(study, sweep, lambda: told.append(1), lambda: short[0])
    unavailable = f"ray.exceptions.ActorUnavailableError: {ActorUnavailableError('no route to host', b'0' * 16)}"
    dead = (
        f"ray.exceptions.ActorDiedError: {ActorDiedError.BASE_ERROR_MSG}\n\tThe actor died because its node has died."
    )
    killed = "ray.exceptions.ActorDiedError: Worker unexpectedly exits with a connection error code 2."
    for name, text in (("unavailable", unavailable), ("dead", dead), ("killed", killed), ("starved", killed)):
        short[0] = name == "starved"  # it waited for nodes that there are no more
        searcher.suggest(name)
        searcher.on_trial_complete(name, error=True)
        searcher.tell_crash(name, text)
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "RUNNING", "FAIL", "RUNNING"]
    assert len(told) == 1


def test_a_shortage_lasts_when_lost_nodes_do_not_come_back() -> None:
    from t2m_bench.cluster.tune_demand import Demand
    from t2m_bench.cluster.tune_job import Shortage

    nodes = [{"CPU": 1.0}, {"CPU": 1.0}]
    patient, hasty = (Shortage(Demand(1, 0, 2), lambda: nodes, seconds) for seconds in (1e9, 0.0))
    assert not patient.is_there()
    assert not hasty.is_there()
    assert not hasty.lasts()
    lost = nodes.pop()
    assert patient.is_there()
    assert hasty.is_there()
    time.sleep(0.01)
    assert hasty.lasts()
    assert not patient.lasts()
    nodes.append(lost)
    assert not hasty.is_there()
    assert not hasty.lasts()


@pytest.mark.parametrize(
    ("demand", "nodes", "fitting"),
    [
        ((1, 0, 0), [{"CPU": 2}, {"CPU": 2}], 4),
        ((3, 0, 0), [{"CPU": 2}, {"CPU": 2}], 0),  # 4 CPUs, but no process lies on two nodes
        ((0.5, 0.25, 0), [{"CPU": 8, "GPU": 1}, {"CPU": 8}], 4),
        ((0.1, 0, 0), [{"CPU": 0.3}], 3),
        ((1, 0, 2), [{"CPU": 3}, {"CPU": 2}], 2),
        ((2, 0, 2), [{"CPU": 3}, {"CPU": 3}], 1),
        ((2, 0, 4), [{"CPU": 5}, {"CPU": 3}], 0),
        ((4, 1, 3), [{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 2}], 2),
    ],
)
def test_trials_beside_each_other_are_as_many_as_the_nodes_hold(
    demand: tuple[float, float, int], nodes: list[dict[str, float]], fitting: int
) -> None:
    from t2m_bench.cluster.tune_demand import Demand

    assert Demand(*demand).count_fitting(nodes) == fitting


def test_one_process_trains_trial_after_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2m_bench.cluster.tune_demand import Demand
    from t2m_bench.cluster.tune_parts import TrialTrainable
    from t2m_bench.pipeline.train import gather
    from t2m_bench.recipe.schema import parse_recipe
    from t2m_bench.runs.setup import load_frozen
    from t2m_bench.runs.trial import TrialData, hide_test_cases
    from t2m_bench.terminal import Terminal

    recipe = parse_recipe(
        {
            "name": "trial",
            "dataset": {"root": str(tmp_path / "data"), "phantom": {"cases": 40, "seed": 3}},
            "text_encoder": {"name": "stand-in"},
            "optim": {"epochs": 1, "warmup_steps": 2},
        },
        "test",
    )
    job = hide_test_cases(gather(recipe, tmp_path, Terminal())[0].make_job("hierarchical", 0))
    shared = {"data": TrialData((job,), (0,), ("val_dice",)), "raw": recipe.model_dump(mode="json")}
    trainable = TrialTrainable.__new__(TrialTrainable)  # without what Tune adds around it, which needs a cluster
    threads = torch.get_num_threads()
    loaded = []

    def load(*given: Any) -> Any:
        loaded.append(given)
        return load_frozen(*given)

    monkeypatch.setattr("t2m_bench.runs.trial.load_frozen", load)
    trainable.setup({"number": 0, "params": {}}, **shared, demand=Demand(1.0, 0.0, 0))
    try:
        first = trainable.step()
        assert first["done"]
        assert first["finished"]
        assert trainable.reset_config({"number": 1, "params": {"optim.learning_rate": 1e30}})
        failed = trainable.step()
        assert failed["done"]
        check_names(failed["failure"], "UserError: seed0-split0", "loss")
        trainable.reset_config({"number": 2, "params": {"adapter.inner_width": 2**40}})  # beyond any address space
        with pytest.raises(RuntimeError, match="allocate memory"):
            trainable.step()
        trainable.reset_config({"number": 3, "params": {}})
        assert trainable.step()["val_dice"] == first["val_dice"]
        assert len(loaded) == 1, "the frozen model is loaded once for all trials of a process"
    finally:
        trainable.cleanup()
        torch.set_num_threads(threads)
