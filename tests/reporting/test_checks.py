"""Tables that are no comparison are refused, each with one message."""

import json
import shutil
from pathlib import Path

import pandas as pd
from messages import is_named, raises_naming

from t2m_bench.commit import NO_COMMIT
from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.results import write_results
from t2m_bench.reporting.provenance import count_commits, list_warnings
from t2m_bench.reporting.results import load_experiment

RUN = "hierarchical-fold1-seed1-00000000"


def rewrite(path: Path, keep: pd.Series | None = None, **columns: object) -> None:
    table = pd.read_parquet(path).assign(**columns)
    table = table if keep is None else table[keep]
    write_results(path, table.to_dict("records"))


def test_a_missing_case_is_refused_naming_the_run_and_the_cell(experiment: Path) -> None:
    path = experiment / RUN / "cases.parquet"
    table = pd.read_parquet(path)
    case = table["case"].iloc[0]
    lost = (table["case"] == case) & (table["condition"] == "right") & (table["box"] == "tight")
    rewrite(path, ~lost)
    cell = ("arm hierarchical", "seed 1", "fold 1", "condition right", "box tight")
    with raises_naming(RunFolderError, experiment / RUN, *cell, f"1 of {table['case'].nunique()}", case):
        load_experiment(experiment)


def test_a_case_missing_from_another_condition_is_refused_too(experiment: Path) -> None:
    path = experiment / RUN / "cases.parquet"
    table = pd.read_parquet(path)
    lost = (table["case"] == table["case"].iloc[0]) & (table["condition"] == "wrong") & (table["box"] == "loose_20")
    rewrite(path, ~lost)
    with raises_naming(RunFolderError, experiment / RUN, "condition wrong", "box loose_20", table["case"].iloc[0]):
        load_experiment(experiment)


def test_a_case_that_every_arm_lacks_in_a_condition_is_no_error(experiment: Path) -> None:
    """Cases without a class have no wrong text; floors may have one all the same."""
    for path in experiment.glob("*-fold1-seed*/cases.parquet"):
        table = pd.read_parquet(path)
        rewrite(path, ~((table["case"] == table["case"].iloc[0]) & (table["condition"] == "wrong")))
    assert len(load_experiment(experiment).arms) == 8


def test_a_case_that_no_table_of_its_fold_has_is_missed_too(experiment: Path) -> None:
    case = pd.read_parquet(experiment / RUN / "cases.parquet")["case"].iloc[0]
    for path in experiment.glob("*fold1*/cases.parquet"):
        rewrite(path, pd.read_parquet(path)["case"] != case)
    with raises_naming(RunFolderError, experiment, "fold 1", 15, 16):
        load_experiment(experiment)


def test_a_run_that_stands_twice_is_refused_naming_both(experiment: Path) -> None:
    shutil.copytree(experiment / RUN, experiment / "hierarchical-fold1-seed1-11111111")
    with raises_naming(RunFolderError, RUN, "hierarchical-fold1-seed1-11111111"):
        load_experiment(experiment)


def change_recipe(experiment: Path, runs: str = RUN, **note: object) -> None:
    for path in experiment.glob(f"{runs}/run.json"):
        summary = json.loads(path.read_text())
        summary["recipe"]["optim"]["learning_rate"] = 0.01
        path.write_text(json.dumps(summary | note))


def test_two_recipes_in_one_table_are_refused_naming_the_field(experiment: Path) -> None:
    change_recipe(experiment)
    with raises_naming(RunFolderError, experiment / RUN, "optim.learning_rate", 0.01, 0.001):
        load_experiment(experiment)


def change_section(experiment: Path, run: str, **values: object) -> None:
    path = experiment / run / "run.json"
    summary = json.loads(path.read_text())
    summary["recipe"]["dataset"]["ct"] = values
    path.write_text(json.dumps(summary))


def test_a_field_of_an_inner_section_that_came_later_is_no_difference(experiment: Path) -> None:
    others = [path.parent.name for path in experiment.glob("hierarchical-*/run.json") if path.parent.name != RUN]
    for run in others:
        change_section(experiment, run, window="lung")
    change_section(experiment, RUN, window="lung", thickness=1)
    assert "hierarchical" in load_experiment(experiment).arms
    change_section(experiment, RUN, window="mediastinal", thickness=1)
    with raises_naming(RunFolderError, RUN, "dataset.ct.window", "mediastinal"):
        load_experiment(experiment)


def test_an_arm_that_says_it_is_differently_tuned_is_let_in(experiment: Path) -> None:
    change_recipe(experiment, "hierarchical-*", differently_tuned=True)
    results = load_experiment(experiment)
    assert "hierarchical" in results.arms
    (warning,) = [text for text in list_warnings(results) if is_named(text, "tuned")]
    assert [arm for arm in results.arms if is_named(warning, arm)] == ["hierarchical"]


def test_two_tunings_are_no_two_runs_of_one_arm(experiment: Path) -> None:
    change_recipe(experiment, differently_tuned=True)
    with raises_naming(RunFolderError, experiment / RUN, "optim.learning_rate", 0.01, 0.001, "arm hierarchical"):
        load_experiment(experiment)


def test_two_adapters_are_no_two_runs_of_one_arm(experiment: Path) -> None:
    path = experiment / RUN / "run.json"
    path.write_text(path.read_text().replace('"kind": "hierarchical"', '"kind": "hierarchical", "inner_width": 16'))
    others = (file for file in experiment.glob("hierarchical-*/run.json") if file != path)
    for other in others:
        content = other.read_text().replace('"kind": "hierarchical"', '"kind": "hierarchical", "inner_width": 256')
        other.write_text(content)
    with raises_naming(RunFolderError, experiment / RUN, "adapter.inner_width", 16, 256, "arm hierarchical"):
        load_experiment(experiment)


def test_where_the_data_lies_and_whether_it_is_refused_makes_no_other_recipe(experiment: Path) -> None:
    """What the experiment's folder does not depend on, no run may be refused for."""
    path = experiment / RUN / "run.json"
    summary = json.loads(path.read_text())
    elsewhere = {"root": "elsewhere", "clinical": "table.csv", "strict": True}
    note = json.loads((experiment / "experiment.json").read_text())
    note["recipe"]["dataset"] |= {"clinical": None, "strict": False}
    (experiment / "experiment.json").write_text(json.dumps(note))
    summary["recipe"]["dataset"] |= elsewhere
    path.write_text(json.dumps(summary))
    results = load_experiment(experiment)
    assert not any(is_named(text, "tuned") for text in list_warnings(results))


def test_names_that_are_no_pseudonyms_are_refused_and_not_repeated(experiment: Path) -> None:
    rewrite(experiment / RUN / "cases.parquet", patient="R01-003")
    with raises_naming(RunFolderError, experiment, "column patient", "pseudonyms") as caught:
        load_experiment(experiment)
    assert "R01-003" not in str(caught.value)


def test_runs_of_two_commits_are_reported_together_on_demand_alone(experiment: Path) -> None:
    others = [path for path in sorted(experiment.glob("*/run.json")) if path.parent.name != RUN]
    for path in others:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0123abc"}))
    with raises_naming(RunFolderError, RUN, "0123abc", NO_COMMIT, "--mixed"):
        load_experiment(experiment)
    mixed = load_experiment(experiment, mixed=True)
    assert count_commits(mixed) == {"0123abc": len(others), NO_COMMIT: 1}
    assert any("0123abc" in warning for warning in list_warnings(mixed))
    (experiment / RUN / "run.json").write_text(
        json.dumps(json.loads((experiment / RUN / "run.json").read_text()) | {"commit": "0123abc"})
    )
    assert not any("0123abc" in warning for warning in list_warnings(load_experiment(experiment)))
