"""What the tables of a report say of a suite whose effects were planted."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages import check_names, is_named
from plugins import install
from simulated_suite import COST, GAIN

from t2m_bench.metrics.results import write_results
from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.counterfactuals import make_counterfactual_table
from t2m_bench.reporting.distances import make_measures_table
from t2m_bench.reporting.failures import make_failure_table
from t2m_bench.reporting.figures import draw_boxes
from t2m_bench.reporting.headline import make_headline_table
from t2m_bench.reporting.page_one import make_page_one
from t2m_bench.reporting.provenance import list_warnings
from t2m_bench.reporting.report import write_report
from t2m_bench.reporting.results import load_experiment
from t2m_bench.reporting.sections import ReportSection, make_sections
from t2m_bench.reporting.subgroups import make_arm_box_table, make_box_table, make_class_table, make_harm_table
from t2m_bench.reporting.table import LACKING_MEAN
from t2m_bench.reporting.training_cost import make_cost_table, make_runs_table
from t2m_bench.reporting.verdicts import make_verdicts


@pytest.fixture(scope="session")
def parts(whole_suite: Path) -> dict[str, ReportSection]:
    results = load_experiment(whole_suite)
    comparisons = make_comparisons(results)
    page = make_page_one(results, make_verdicts(results, comparisons))
    return {part.key: part for part in make_sections(results, comparisons, page)}


def find_table(parts: dict[str, ReportSection], name: str) -> pd.DataFrame:
    (table,) = [table for part in parts.values() for table in part.tables if table.name == name]
    return table.numbers


def test_a_field_that_no_probe_predicts_is_said_to_be_given_as_unknown(experiment: Path) -> None:
    for path in experiment.glob("reference-*/probe.json"):
        path.write_text(path.read_text().replace('"birads"', '"another"'))
    table = make_counterfactual_table(load_experiment(experiment))
    assert table is not None
    shown = zip(table.numbers["condition"], table.rows, strict=True)
    (label,) = {row[1] for condition, row in shown if condition == "predicted"}
    check_names(label, "birads", "unknown")


def test_the_headline_says_what_was_planted(parts: dict[str, ReportSection]) -> None:
    numbers = find_table(parts, "arms")
    published = numbers[numbers["published"]].set_index("arm")["dice"]
    assert published.to_dict() == {"baseline": 0.7945, "gated": 0.8951, "hierarchical": 0.9131}
    numbers = numbers[~numbers["published"]].set_index("arm")
    assert list(numbers.index)[:3] == ["floor_ellipse", "floor_class_mask", "baseline"]
    assert numbers.loc["hierarchical", "help"] == pytest.approx(GAIN["hierarchical"] - GAIN["text_free"], abs=0.004)
    assert numbers.loc["hierarchical", "cost_of_wrong"] == pytest.approx(COST["wrong"], abs=0.001)
    floor = GAIN["hierarchical"] - GAIN["floor_class_mask"]
    assert numbers.loc["hierarchical", "over_floor"] == pytest.approx(floor, abs=0.004)
    assert np.isnan(numbers.loc["baseline", "help"])
    assert np.isnan(numbers.loc["text_free", "cost_of_wrong"])
    assert numbers.loc["gated", "seeds"] == 3
    assert LACKING_MEAN not in next(table.note for table in parts["headline"].tables if table.name == "arms")
    assert numbers.loc["gated", "dice_low"] < numbers.loc["gated", "dice"] < numbers.loc["gated", "dice_high"]


def test_the_counterfactual_table_says_what_each_text_costs(parts: dict[str, ReportSection]) -> None:
    numbers = find_table(parts, "counterfactual").set_index(["arm", "condition"])
    for condition, cost in COST.items():
        assert numbers.loc[("hierarchical", condition), "cost"] == pytest.approx(cost, abs=0.001)
    wrong = numbers.loc[("hierarchical", "wrong")]
    assert wrong["cost_low"] < wrong["cost"] < wrong["cost_high"]
    assert wrong["relative"] == pytest.approx(0.06 / 0.905, abs=0.003)
    (table,) = parts["counterfactuals"].tables
    check_names(table.note, "birads 0.78", 0.85, "29 %")


def test_unknown_text_is_marked_where_it_was_never_trained(experiment: Path) -> None:
    for path in (experiment / "experiment.json", *experiment.glob("*/run.json")):
        content = path.read_text().replace('"text_dropout": 0.1', '"text_dropout": 0.0')
        path.write_text(content)
    table = make_counterfactual_table(load_experiment(experiment))
    assert table is not None
    (label,) = {row[1] for row in table.rows if is_named(row[1], "unknown")}
    check_names(label, "untrained")


def test_the_swap_matrix_is_whole_and_hides_p_of_few_patients(parts: dict[str, ReportSection]) -> None:
    numbers = find_table(parts, "swaps")
    assert len(numbers) == 4 * 3
    assert set(numbers["patients"]) == {8}
    assert numbers["cost"].tolist() == pytest.approx([COST["other"]] * 12, abs=0.001)
    assert (numbers["training_cases"] > 0).all()
    (table,) = parts["swaps"].tables
    assert {row[table.columns.index("p")] for row in table.rows} == {"-"}
    assert numbers["cost_p"].isna().all(), "what the table hides the spreadsheet does not tell"
    check_names(table.note, "not adjusted")


def test_one_rule_of_p_in_every_table(parts: dict[str, ReportSection], whole_suite: Path) -> None:
    """The primary contrast's own, Holm's in the family, none else; the ladder has all."""
    ladder = find_table(parts, "ladder").set_index("comparison")
    assert ladder["difference_p"].notna().tolist() == (ladder["role"] != "interval only").tolist()
    assert np.isnan(ladder.loc["baseline - floor_class_mask", "seeds"]), "neither is trained"
    arms, boxes = find_table(parts, "arms").set_index("arm"), find_table(parts, "boxes").set_index("box")
    assert arms.loc["hierarchical", "help_p"].iloc[0] == ladder.loc["hierarchical - text_free", "difference_p"]
    assert arms.loc[["label", "gated"], "help_p"].isna().all(), "gated has one level, text_free two"
    assert arms[["over_floor_p", "over_baseline_p"]].isna().all(axis=None)
    assert boxes.loc["loose_20", "help_p"] == ladder.loc["hierarchical - text_free (loose_20)", "difference_p"]
    assert boxes.loc["tight", "cost_of_wrong_p"] == ladder.loc["hierarchical: right - wrong", "difference_p"]
    assert np.isnan(boxes.loc["loose_20", "cost_of_wrong_p"])
    (table,) = [table for table in parts["headline"].tables if table.name == "arms"]
    assert [row[0] for row in table.rows if ", p " in row[5]] == ["hierarchical"]
    assert not any(", p " in row[6] for row in table.rows)


def test_seconds_are_medians(experiment: Path) -> None:
    path = experiment / "gated-fold1-seed0-00000000" / "run.json"
    summary = json.loads(path.read_text())
    summary["evaluation"]["seconds"] = 9000.0
    path.write_text(json.dumps(summary | {"seconds": 33000.0}))
    results = load_experiment(experiment)
    cost = make_cost_table(results)
    assert cost is not None
    assert make_runs_table(results).numbers.set_index("arm").loc["gated", "seconds"] == 33.0
    assert cost.numbers.set_index("arm").loc["gated", "seconds"] == 9.0


def test_boxes_and_texts_cross(parts: dict[str, ReportSection]) -> None:
    numbers = find_table(parts, "boxes").set_index("box")
    lost = numbers.loc["tight", "right"] - numbers.loc["loose_20", "right"]
    assert lost == pytest.approx(0.05, abs=0.001)
    assert numbers.loc["loose_20", "cost_of_wrong"] == pytest.approx(COST["wrong"], abs=0.001)
    assert numbers.loc["loose_20", "none"] < numbers.loc["loose_20", "right"]


def test_every_arm_is_seen_with_every_box(parts: dict[str, ReportSection], experiment: Path) -> None:
    arms, boxes = find_table(parts, "arm_boxes").set_index("arm"), find_table(parts, "boxes").set_index("box")
    for box in ("tight", "loose_20"):
        assert arms.loc["hierarchical", box] == pytest.approx(boxes.loc[box, "right"])
        assert arms.loc["text_free", box] == pytest.approx(boxes.loc[box, "none"])
    lost = arms.loc["label", "tight"] - arms.loc["label", "loose_20"]
    assert lost == pytest.approx(0.05, abs=0.001)
    for folder in experiment.glob("label-fold2-*"):
        shutil.rmtree(folder)
    halved = make_arm_box_table(load_experiment(experiment))
    assert halved is not None
    assert "(16 of 32 patients)" in dict(zip(halved.numbers["arm"], halved.rows, strict=True))["label"][0]
    assert LACKING_MEAN in halved.note


def test_classes_are_averaged_equally(parts: dict[str, ReportSection]) -> None:
    numbers = find_table(parts, "classes").set_index("arm")
    assert numbers.loc["baseline", "macro"] == pytest.approx(numbers.loc["baseline", ["2", "3", "4", "5"]].mean())


def test_failures_are_counted_in_cases_and_patients(experiment: Path) -> None:
    """Two cases of one fold are given 0.1 and 0.69 for every seed, all others 0.7 or more."""
    for number, path in enumerate(sorted(experiment.glob("gated-fold1-*/cases.parquet"))):
        table = pd.read_parquet(path)
        table["dice"] = table["dice"].clip(lower=0.7)
        names = sorted(table["case"].unique())
        for name, value in ((names[0], 0.1), (names[1], 0.69)):
            # of seed 0 alone the second case is no failure, which its mean over seeds decides
            table.loc[table["case"] == name, "dice"] = value if number or value < 0.5 else 0.68
        write_results(path, table.to_dict("records"))
    numbers = make_failure_table(load_experiment(experiment)).numbers.set_index("arm")
    results = load_experiment(experiment)
    dice = results.select_main("gated").groupby("case")["dice"].mean()
    assert numbers.loc["gated", "failed"] == 2
    assert numbers.loc["gated", "dice_least"] == pytest.approx(0.1)
    assert numbers.loc["gated", "dice_p5"] == pytest.approx(np.percentile(dice, 5))
    assert numbers.loc["gated", "cases"] == dice.size
    assert numbers.loc["floor_ellipse", "failed"] == sum(results.select_main("floor_ellipse")["dice"] < 0.7)


def test_harm_is_counted(experiment: Path) -> None:
    for path in experiment.glob("hierarchical-*/cases.parquet"):
        table = pd.read_parquet(path)
        first = (table["case"] == table["case"].iloc[0]) & (table["condition"] == "wrong")
        table.loc[first, "dice"] = 0.2
        write_results(path, table.to_dict("records"))
    table_of_harm = make_harm_table(load_experiment(experiment))
    assert table_of_harm is not None
    numbers = table_of_harm.numbers.set_index("arm")
    assert numbers.loc["hierarchical", "wrong_text_harmed"] == 2  # one a fold
    assert numbers.loc["hierarchical", "wrong_text_worst"] > 0.6
    assert numbers.loc["gated", "wrong_text_harmed"] == 0
    assert numbers.loc["gated", "wrong_text_margin"] == numbers.loc["gated", "wrong_text_cases"], "all lose some 0.06"
    assert numbers.loc["hierarchical", "right_text_at_all"] >= numbers.loc["hierarchical", "right_text_margin"]


def test_means_over_fewer_patients_are_marked(experiment: Path) -> None:
    for run in experiment.glob("gated-fold2-*"):
        (run / "cases.parquet").unlink()
    results = load_experiment(experiment)
    arms, classes = make_headline_table(results, []), make_class_table(results, "birads")
    assert [row[0] for row in arms.rows if row[2].endswith("] (16 of 32 patients)")] == ["gated"]
    (label,) = [row[0] for row in classes.rows if "patients" in row[0]]
    check_names(label, "gated", "16 of 32")
    for table in (arms, classes):
        assert LACKING_MEAN in table.note


def test_a_patient_of_unknown_class_is_no_class_and_no_cost(experiment: Path) -> None:
    """Right text is compared over the cases that have a wrong one."""
    for path in experiment.glob("*/cases.parquet"):
        table = pd.read_parquet(path)
        unknown = table["patient"] == "patient-00000000"
        table.loc[unknown, "text_class"] = "unknown"
        table.loc[unknown & (table["fold"] == 1), "dice"] = 0.2
        write_results(path, table[~(unknown & (table["condition"] == "wrong"))].to_dict("records"))
    results = load_experiment(experiment)
    classes = make_class_table(results, "birads").numbers.set_index("arm")
    assert classes.loc["gated", "unknown"] == pytest.approx(0.2)
    assert classes.loc["gated", "macro"] == pytest.approx(classes.loc["gated", ["2", "3", "4", "5"]].mean())
    boxes, costs = make_box_table(results, "hierarchical", []), make_counterfactual_table(results)
    assert boxes is not None
    assert costs is not None
    tight = boxes.numbers.set_index("box").loc["tight"]
    assert tight["right"] - tight["wrong"] == pytest.approx(tight["cost_of_wrong"], abs=1e-9)
    assert tight["right"] - tight["none"] == pytest.approx(GAIN["hierarchical"] - GAIN["text_free"], abs=0.004)
    wrong = costs.numbers.set_index(["arm", "condition"]).loc[("hierarchical", "wrong")]
    assert wrong["relative"] == pytest.approx(wrong["cost"] / tight["right"], abs=1e-9)
    svg = draw_boxes(boxes, "hierarchical").svg
    assert all(label in svg for label in ("right text", "wrong text", "baseline"))


def test_a_box_table_of_a_half_finished_suite_compares_the_same_cases(experiment: Path) -> None:
    for folder in experiment.glob("text_free-fold2-*"):
        shutil.rmtree(folder)
    boxes = make_box_table(load_experiment(experiment), "hierarchical", [])
    assert boxes is not None
    tight = boxes.numbers.set_index("box").loc["tight"]
    assert tight["right"] - tight["none"] == pytest.approx(tight["help"], abs=1e-9)


def test_distances_of_two_units_are_not_averaged(experiment: Path) -> None:
    for path in experiment.glob("*/cases.parquet"):
        table = pd.read_parquet(path)
        table.loc[table["patient"] == "patient-00000000", ["distance_unit", "hd95"]] = ["mm", 1e6]
        write_results(path, table.to_dict("records"))
    table = make_measures_table(load_experiment(experiment))
    assert table is not None
    assert (table.numbers["hd95"] < 1e3).all()
    check_names(table.note, "1 cases", "mm")


MINE = """
from t2m_bench.recipe.conditions import ConditionEntry
from t2m_bench.recipe.measures import MeasureEntry

MINE = ConditionEntry("mine", "mine:draw", label="my own texts", row=ROW, pattern="mine:[ab]")
VOLUME = MeasureEntry("volume", "mine:get", "Volume", unit="ml", better="lower", high=float("inf"))
"""

MINE_POINTS = {"t2m_bench.conditions": "mine = mine:MINE", "t2m_bench.measures": "volume = mine:VOLUME"}


def ask_mine(experiment: Path) -> None:
    """Add to the runs of two arms two conditions, which cost 0.1 and 0.3 Dice, and a measure of 7 everywhere."""
    for path in (path for arm in ("gated", "hierarchical") for path in experiment.glob(f"{arm}-*/cases.parquet")):
        table = pd.read_parquet(path)
        right = table[(table["condition"] == "right") & (table["box"] == "tight")]
        added = [right.assign(condition=f"mine:{name}", dice=right["dice"] - cost) for name, cost in COSTS_OF_MINE]
        pd.concat([table, *added]).assign(volume=7.0).to_parquet(path)


COSTS_OF_MINE = (("a", 0.1), ("b", 0.3))


@pytest.mark.parametrize(
    ("row", "costs"),
    [
        ("mine_mean", {("mine_mean", "my own texts"): 0.2}),
        ("", {("mine:a", "my own texts (mine:a)"): 0.1, ("mine:b", "my own texts (mine:b)"): 0.3}),
    ],
)
def test_another_packages_condition_has_its_row_or_one_for_each_name(
    experiment: Path, tmp_path: Path, row: str, costs: dict[tuple[str, str], float]
) -> None:
    ask_mine(experiment)
    with install(tmp_path, "mine", f"ROW = {row!r}\n{MINE}", MINE_POINTS):
        table = make_counterfactual_table(load_experiment(experiment))
    assert table is not None
    labels = [cells[1] for cells in table.rows]
    found = table.numbers.assign(label=labels).set_index(["arm", "condition", "label"])["cost"]
    for (name, label), cost in costs.items():
        assert found["gated", name, label] == pytest.approx(cost)
    assert len(found["gated"]) == len(found["label"]) + len(costs)


def test_another_packages_measure_has_its_column_under_its_label(experiment: Path, tmp_path: Path) -> None:
    before = make_measures_table(load_experiment(experiment))
    ask_mine(experiment)
    with install(tmp_path, "mine", f"ROW = 'mean'\n{MINE}", MINE_POINTS):
        table = make_measures_table(load_experiment(experiment))
    assert before is not None
    assert table is not None
    assert table.columns == (*before.columns[:-1], "Volume, ml", before.columns[-1])
    numbers = table.numbers.set_index("arm")
    assert (numbers.loc["gated", "volume"], table.rows[-1][-2]) == (7.0, "7.000")
    assert np.isnan(numbers.loc["label", "volume"])
    pd.testing.assert_frame_equal(table.numbers.drop(columns="volume"), before.numbers)
    check_names(table.note, "Volume", "lower")


def test_without_their_package_conditions_and_measures_are_shown_by_bare_names(experiment: Path) -> None:
    ask_mine(experiment)
    results = load_experiment(experiment)
    counterfactual, measures = make_counterfactual_table(results), make_measures_table(results)
    assert counterfactual is not None
    assert measures is not None
    found = counterfactual.numbers.set_index(["arm", "condition"])["cost"]
    assert found["gated", "mine"] == pytest.approx(0.2)
    assert measures.columns[-2] == "volume"
    assert measures.numbers.set_index("arm").loc["gated", "volume"] == 7.0
    (warning,) = [said for said in list_warnings(results) if is_named(said, "volume")]
    check_names(warning, "condition", "mine", "measure")


ARM = """
from t2m_bench.recipe.arms import ArmContrast, ArmEntry

CONTRASTS = (ArmContrast("better than one level?", "gated", in_family=True), ArmContrast("worse than the method?"))
MINE = ArmEntry("mine", "Mine", question="any better?", contrasts=CONTRASTS)
"""


def test_another_packages_arm_enters_the_comparisons_that_its_entry_names(experiment: Path, tmp_path: Path) -> None:
    before = {item.key: item.role for item in make_comparisons(load_experiment(experiment))}
    for path in experiment.glob("label-*/cases.parquet"):
        pd.read_parquet(path).assign(arm="mine").to_parquet(path)
        note = path.with_name("run.json")
        note.write_text(note.read_text().replace('"label"', '"mine"'))
    with install(tmp_path, "mine", ARM, {"t2m_bench.arms": "mine = mine:MINE"}):
        results = load_experiment(experiment)
        found = {item.key: item for item in make_comparisons(results)}
        assert results.name_arm("mine") == "Mine"
    added = {"mine - gated": "Holm family", "hierarchical - mine": "interval only", "mine - text_free": "interval only"}
    assert {key: item.role for key, item in found.items() if key not in before} == added
    assert found["mine - gated"].question == "better than one level?"  # phrase: a question that the entry gives


def audit_some(experiment: Path, flagged: int, of_test: int) -> None:
    """Note an image audit in which so many of 100 cases are flagged, and so many of each fold's test cases."""
    note = json.loads((experiment / "experiment.json").read_text())
    images = {
        "cases": 100, "modes": {"L": 100}, "bits": {"8": 100}, "mask_modes": {"1": 99, "L": 1}, "values": [0.0, 255.0],
        "distinct": [9, 256], "heights": [40, 50], "widths": [60, 60], "extreme_share": [0.01, 0.77],
        "shown_extreme_share": [0.01, 0.77], "flagged": flagged,
        "counts": {"few_values": 1, "at_one_extreme": flagged, "mask_values": 1, "mask_borders": 0, "mask_parts": 12},
        "flagged_by_split": {"train": 0, "val": 0, "test": of_test},
    }  # fmt: skip
    for fold in note["folds"].values():
        fold["audit"]["images"] = images
    (experiment / "experiment.json").write_text(json.dumps(note))


@pytest.mark.parametrize(("flagged", "of_test", "shown"), [(5, 0, None), (6, 0, "6.0 %"), (4, 4, "16.7 %")])
def test_verdicts_from_flagged_images_say_so_and_the_counts_are_shown(
    experiment: Path, flagged: int, of_test: int, shown: str | None
) -> None:
    before = write_report(load_experiment(experiment), ("csv",))
    assert "image_audit" not in {table.name for table in before.tables}
    audit_some(experiment, flagged, of_test)
    written = write_report(load_experiment(experiment), ("csv", "tex", "md", "html"))
    assert all((shown is not None) == is_named(verdict.headline, str(shown)) for verdict in written.verdicts)
    assert any(shown is not None and is_named(warning, shown) for warning in written.warnings) == (shown is not None)
    plain = [verdict.headline for verdict in before.verdicts]
    assert [verdict.headline.startswith(text) for verdict, text in zip(written.verdicts, plain, strict=True)]
    (table,) = (table for table in written.tables if table.name == "image_audit")
    counts = table.numbers.set_index("what")["count"].to_dict()
    assert (counts["few_values"], counts["mask_parts"], counts["flagged"]) == (1, 12, flagged)
    assert all(len(cell.split()) > 3 for *_, cell in table.rows)


def test_a_suite_without_any_class_says_so_and_nothing_else_on_the_terminal(experiment: Path) -> None:
    for path in sorted(experiment.glob("*/cases.parquet")):
        table = pd.read_parquet(path).assign(text_class="unknown")
        write_results(path, table[~table["condition"].str.startswith(("wrong", "swap"))].to_dict("records"))
    note = json.loads((experiment / "experiment.json").read_text())
    for fold in note["folds"].values():
        fold["audit"]["classes"] = {split: {"unknown": count} for split, count in fold["audit"]["cases"].items()}
    (experiment / "experiment.json").write_text(json.dumps(note))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        written = write_report(load_experiment(experiment), ("csv",))
    assert any(is_named(warning, "birads") and is_named(warning, "unknown") for warning in written.warnings)
    classes = next(table for table in written.tables if table.name.startswith("classes"))
    assert classes.rows[0][-1] == "-"
