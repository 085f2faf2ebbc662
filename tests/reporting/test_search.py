"""The report of a search, from a study made by hand."""

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
from messages import check_names, is_named, raises_naming
from optuna.trial import TrialState
from PIL import Image

from t2m_bench.errors import RecipeError
from t2m_bench.recipe.typed_yaml import validate
from t2m_bench.reporting.report import Report, write_sweep_report
from t2m_bench.reporting.search import (
    FEWEST_TRIALS,
    compute_noise,
    find_search,
    load_best_recipe,
    make_importance_table,
)
from t2m_bench.search.study import REASON, complete, fail, open_study, prune
from t2m_bench.search.sweep import Sweep

KIND, GATE, RATE = "adapter.kind", "adapter.fine.gate_init", "optim.learning_rate"


def make_study(folder: Path, objectives: dict[str, str], seeds: int = 2) -> optuna.Study:
    """Forty trials whose objective depends on the opening alone; each training adds noise of 0.002."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {
        "name": "made",
        "recipe": "unread.yaml",
        "space": {KIND: {"choices": ["gated", "hierarchical"]}, RATE: {"low": 1e-4, "high": 1e-2, "log": True}},
        "objectives": objectives,
        "scheduler": {"kind": "none"},
    }
    study = open_study(folder, validate(Sweep, raw, "sweep", "test"), "made")
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    rng = np.random.default_rng(0)
    for number in range(42):
        trial = study.ask()
        kind = trial.suggest_categorical(KIND, ["gated", "hierarchical"])
        trial.suggest_float(RATE, 1e-4, 1e-2, log=True)
        gate = trial.suggest_float(GATE, 0.1, 0.9) if kind == "hierarchical" else 0.3
        trainings = 0.8 + 0.1 * gate + rng.normal(0, 0.002, seeds)
        members = {f"seed{seed}-split0": float(value) for seed, value in enumerate(trainings)}
        if number == 40:
            fail(study, trial.number, "out of memory: | 3 TB")
        elif number == 41 and len(objectives) == 1:
            trial.report(float(trainings.mean()), 1)
            prune(study, trial.number, 1, members)
        else:
            complete(study, trial.number, [float(trainings.mean()), 0.01 * number][: len(objectives)], members)
    return study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[optuna.Study, Report]:
    folder = tmp_path_factory.mktemp("made")
    return make_study(folder, {"val_dice": "maximize"}), write_sweep_report(folder)


def test_importance_is_told_beside_the_noise_between_seeds(made: tuple[optuna.Study, Report]) -> None:
    study, report = made
    assert compute_noise(study) == pytest.approx(0.002 / np.sqrt(2), rel=0.5)
    table = report.tables[2].numbers
    hierarchical = table[table["group"].str.startswith("hierarchical")].set_index("axis")
    assert set(hierarchical.index) == {GATE, RATE}
    assert hierarchical.loc[GATE, "share"] > 0.8
    assert hierarchical.loc[GATE, "verdict"] == "above noise"
    assert hierarchical["share"].sum() == pytest.approx(1.0)


def test_a_group_of_trials_is_compared_among_itself_and_one_axis_alone_with_nothing(
    made: tuple[optuna.Study, Report],
) -> None:
    study, _ = made
    table = make_importance_table(study).numbers
    (gated,) = [row for _, row in table.iterrows() if row["group"].startswith("gated")]
    values = [t.value for t in study.trials if t.state is TrialState.COMPLETE and t.params[KIND] == "gated"]
    assert (gated["axis"], gated["trials"], gated["verdict"]) == (RATE, len(values), "-")
    assert gated["spread"] == pytest.approx(
        np.std(values)
    )  # the noise of gated trials, which the opening does not move
    assert gated["share"] == pytest.approx(1.0)


def test_trials_whose_only_axis_is_their_kind_make_no_group() -> None:
    study = optuna.create_study()
    for number in range(20):
        study.enqueue_trial({KIND: ["gated", "text_free"][number % 2]})
        trial = study.ask()
        if trial.suggest_categorical(KIND, ["gated", "text_free"]) == "gated":
            trial.suggest_float("adapter.gated.gate_init", 0.1, 0.9)
        complete(study, trial.number, [0.01 * number], {})
    axes = make_importance_table(study).numbers
    assert list(axes["axis"]) == [KIND, "adapter.gated.gate_init"]
    assert next(iter(axes["trials"])) == 20


NORM = "adapter.norm"


def make_conditional_study(effect: float) -> optuna.Study:
    """Sixty trials; the norm moves the objective by `effect`, in trials of the hierarchical adapter the gate hardly."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        trial = study.ask()
        kind = trial.suggest_categorical(KIND, ["gated", "hierarchical"])
        norm = trial.suggest_categorical(NORM, ["branch", "output"])
        gate = trial.suggest_float(GATE, 0.1, 0.9) if kind == "hierarchical" else 0.0
        complete(study, trial.number, [0.8 + effect * (norm == "output") + 0.001 * effect * gate], {})
    return study


def test_an_axis_that_varies_within_a_group_is_weighed_there_too() -> None:
    table = make_importance_table(make_conditional_study(0.1)).numbers
    group = table[table["group"].str.startswith("hierarchical with")].set_index("axis")
    assert set(group.index) == {NORM, GATE}
    assert group.loc[NORM, "share"] > 0.9


def test_where_nothing_tells_trials_apart_the_table_says_so() -> None:
    """Of one axis one value came through; not few trials, but no variation, is why nothing can be said."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(40):
        trial = study.ask()
        if trial.suggest_categorical("adapter.fine.heads", [1, 2]) == 2:
            fail(study, trial.number, "out of memory")
        else:
            complete(study, trial.number, [0.5 + 0.01 * number], {})
    table = make_importance_table(study)
    assert not table.rows
    check_names(table.note, "several values")
    assert not is_named(table.note, f"{FEWEST_TRIALS} complete")


def test_an_axis_that_took_one_value_in_a_group_is_left_out_there() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(40):
        trial = study.ask()
        kind = trial.suggest_categorical(KIND, ["gated", "hierarchical"])
        heads = trial.suggest_categorical("adapter.fine.heads", [1, 2]) if kind == "hierarchical" else 0
        if heads == 2:
            fail(study, trial.number, "out of memory")
        else:
            complete(study, trial.number, [0.8 + 0.01 * number if kind == "gated" else 0.5 + 0.01 * number], {})
    table = make_importance_table(study).numbers
    assert "adapter.fine.heads" not in set(table["axis"])


def test_with_one_training_a_trial_the_noise_is_not_known(tmp_path: Path) -> None:
    table = make_importance_table(make_study(tmp_path, {"val_dice": "maximize"}, seeds=1))
    check_names(table.note, "one training", "noise")
    assert set(table.numbers["verdict"]) == {"-"}


def test_the_report_holds_optunas_plots_and_every_reason(made: tuple[optuna.Study, Report]) -> None:
    study, report = made
    figures = list((report.paths["html"].parent / "figures").glob("*.png"))
    names = {path.stem for path in figures}
    assert {"sweep_history", "sweep_parallel", "sweep_slices", "sweep_epochs", "sweep_importance_0"} <= names
    assert all(min(Image.open(path).size) > 200 for path in figures)
    reasons = {trial.user_attrs[REASON] for trial in study.trials if REASON in trial.user_attrs}
    assert len(reasons) >= 2
    for text in (report.paths["md"].read_text(), report.paths["html"].read_text()):
        assert all(reason.split(":")[0] in text for reason in reasons)


def test_several_objectives_show_their_front(tmp_path: Path) -> None:
    make_study(tmp_path, {"val_dice": "maximize", "val_reliance": "minimize"})
    write_sweep_report(tmp_path)
    figures = {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert {"sweep_history", "sweep_pareto", "sweep_importance_0"} <= figures


def test_a_study_too_young_for_plots_is_reported_too(tmp_path: Path) -> None:
    raw = {"name": "young", "recipe": "unread.yaml", "space": {GATE: {"low": 0.1, "high": 0.9}}}
    open_study(tmp_path, validate(Sweep, raw, "sweep", "test"), "young")
    report = write_sweep_report(tmp_path)
    check_names(report.paths["md"].read_text(), f"{FEWEST_TRIALS} complete")


def test_a_refit_finds_its_search(tmp_path: Path) -> None:
    make_study(tmp_path / "sweeps" / "made", {"val_dice": "maximize"})
    experiment = tmp_path / "made-refit-12345678"
    experiment.mkdir()
    assert find_search(experiment) is None
    (experiment / "sweep.json").write_text(json.dumps({"folder": "../sweeps/made", "studies": {"gated": "made"}}))
    search = find_search(experiment)
    assert search is not None
    assert search.arms == {"gated": "made"}


@pytest.mark.parametrize("text", ["name: [", "name: 2024-13-45", "[1]", "\x00"])
def test_a_damaged_winning_recipe_is_named(tmp_path: Path, text: str) -> None:
    assert load_best_recipe(tmp_path) == {}
    (tmp_path / "best.yaml").write_text(text)
    with raises_naming(RecipeError, tmp_path / "best.yaml"):
        load_best_recipe(tmp_path)
