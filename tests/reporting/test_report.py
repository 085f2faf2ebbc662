import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_suite import COST, GAIN, Suite

from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.results import write_results
from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.console import print_report
from t2m_bench.reporting.counterfactuals import make_counterfactual_table
from t2m_bench.reporting.distances import make_measures_table
from t2m_bench.reporting.figures import draw_boxes
from t2m_bench.reporting.headline import make_headline_table
from t2m_bench.reporting.parts import Part, make_parts
from t2m_bench.reporting.provenance import list_facts, make_audit_table
from t2m_bench.reporting.report import Report, _break_interval, write_report
from t2m_bench.reporting.results import find_results, load_experiment
from t2m_bench.reporting.runs import make_cost_table, make_runs_table
from t2m_bench.reporting.strata import make_box_table, make_class_table, make_harm_table
from t2m_bench.reporting.suite import list_missing
from t2m_bench.reporting.table import Table

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def parts(whole_suite: Path) -> dict[str, Part]:
    results = load_experiment(whole_suite)
    return {part.key: part for part in make_parts(results, make_comparisons(results))}


def test_a_field_that_no_probe_predicts_is_said_to_be_given_as_unknown(experiment: Path) -> None:
    for path in experiment.glob("reference-*/probe.json"):
        path.write_text(path.read_text().replace('"birads"', '"another"'))
    table = make_counterfactual_table(load_experiment(experiment))
    assert table is not None
    (label,) = {row[1] for row in table.rows if row[1].startswith("class that the image predicts")}
    assert label == "class that the image predicts (probe); birads given as unknown"


def find_table(parts: dict[str, Part], name: str) -> pd.DataFrame:
    (table,) = [table for part in parts.values() for table in part.tables if table.name == name]
    return table.numbers


def test_the_headline_says_what_was_planted(parts: dict[str, Part]) -> None:
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
    assert "lacks test folds" not in next(table.note for table in parts["headline"].tables if table.name == "arms")
    assert numbers.loc["gated", "dice_low"] < numbers.loc["gated", "dice"] < numbers.loc["gated", "dice_high"]


def test_the_counterfactual_table_says_what_each_text_costs(parts: dict[str, Part]) -> None:
    numbers = find_table(parts, "counterfactual").set_index(["arm", "condition"])
    for condition, cost in COST.items():
        assert numbers.loc[("hierarchical", condition), "cost"] == pytest.approx(cost, abs=0.001)
    wrong = numbers.loc[("hierarchical", "wrong")]
    assert wrong["cost_low"] < wrong["cost"] < wrong["cost_high"]
    assert wrong["relative"] == pytest.approx(0.06 / 0.905, abs=0.003)
    (table,) = parts["counterfactuals"].tables
    assert "birads 0.78 from the box alone and 0.85 from embedding and box" in table.note
    assert "29 % have the same class" in table.note


def test_unknown_text_is_marked_where_it_was_never_trained(experiment: Path) -> None:
    for path in (experiment / "experiment.json", *experiment.glob("*/run.json")):
        content = path.read_text().replace('"text_dropout": 0.1', '"text_dropout": 0.0')
        path.write_text(content)
    table = make_counterfactual_table(load_experiment(experiment))
    assert table is not None
    assert {row[1] for row in table.rows if "unknown" in row[1]} == {"text says unknown (untrained)"}


def test_the_swap_matrix_is_whole_and_hides_p_of_few_patients(parts: dict[str, Part]) -> None:
    numbers = find_table(parts, "swaps")
    assert len(numbers) == 4 * 3
    assert set(numbers["patients"]) == {8}
    assert numbers["cost"].tolist() == pytest.approx([COST["other"]] * 12, abs=0.001)
    assert (numbers["training_cases"] > 0).all()
    (table,) = parts["swaps"].tables
    assert {row[table.columns.index("p")] for row in table.rows} == {"-"}
    assert numbers["cost_p"].isna().all(), "what the table hides the spreadsheet does not tell"
    assert "p is not adjusted" in table.note


def test_one_rule_of_p_in_every_table(parts: dict[str, Part], whole_suite: Path) -> None:
    """The primary contrast's own, Holm's in the family, none else; the ladder has all."""
    ladder = find_table(parts, "ladder").set_index("comparison")
    assert ladder["difference_p"].notna().tolist() == (ladder["role"] != "interval only").tolist()
    assert np.isnan(ladder.loc["baseline - floor_class_mask", "seeds"]), "neither is trained"
    arms, boxes = find_table(parts, "arms").set_index("arm"), find_table(parts, "boxes").set_index("box")
    assert arms.loc["gated", "help_p"].iloc[0] == ladder.loc["gated - text_free", "difference_p"]
    assert np.isnan(arms.loc["label", "help_p"])
    assert arms[["over_floor_p", "over_baseline_p"]].isna().all(axis=None)
    assert boxes.loc["loose_20", "help_p"] == ladder.loc["hierarchical - text_free (loose_20)", "difference_p"]
    assert boxes.loc["tight", "cost_of_wrong_p"] == ladder.loc["hierarchical: right - wrong", "difference_p"]
    assert np.isnan(boxes.loc["loose_20", "cost_of_wrong_p"])
    (table,) = [table for table in parts["headline"].tables if table.name == "arms"]
    assert [row[0] for row in table.rows if ", p " in row[5]] == ["gated", "hierarchical"]
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


def test_boxes_and_texts_cross(parts: dict[str, Part]) -> None:
    numbers = find_table(parts, "boxes").set_index("box")
    lost = numbers.loc["tight", "right"] - numbers.loc["loose_20", "right"]
    assert lost == pytest.approx(0.05, abs=0.001)
    assert numbers.loc["loose_20", "cost_of_wrong"] == pytest.approx(COST["wrong"], abs=0.001)
    assert numbers.loc["loose_20", "none"] < numbers.loc["loose_20", "right"]


def test_classes_are_averaged_equally(parts: dict[str, Part]) -> None:
    numbers = find_table(parts, "classes").set_index("arm")
    assert numbers.loc["baseline", "macro"] == pytest.approx(numbers.loc["baseline", ["2", "3", "4", "5"]].mean())


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


def test_pictures_show_the_worst_and_the_best_of_the_pictured(parts: dict[str, Part], whole_suite: Path) -> None:
    (figure,) = parts["overlays"].figures
    dices = {why: float(value) for why, value in re.findall(r"(best|worst)[^:]*: hierarchical (0\.\d+)", figure.alt)}
    assert dices["worst"] < dices["best"]
    results = load_experiment(whole_suite)
    dice = results.select_main("hierarchical").groupby("case")["dice"].mean()
    pictured = {name.removesuffix("/image") for of in results.references for name in of.crops if "/image" in name}
    best = dice[dice.index.isin(pictured)].max()
    assert best < dice.max(), "another case is better, which has no picture"
    assert re.search(rf"best(, largest text effect)? of 12 pictured, mean of seeds {best:.3f}: ", figure.alt)


class Reader(HTMLParser):
    """Collects what a page needs from elsewhere, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in {"src", "href"} and value]
        if tag == "img":
            self.pictures.append(dict(attrs))


@pytest.fixture(scope="session")
def written(whole_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Everything, of a suite with a leak and arms of unequal tuning."""
    folder = Path(shutil.copytree(whole_suite, tmp_path_factory.mktemp("written") / whole_suite.name))
    note = json.loads((folder / "experiment.json").read_text()) | {"name": "<b>", "allow_leakage": True}
    note["folds"]["2"]["audit"]["leaks"] = ["3 patients in both train and test"]
    (folder / "experiment.json").write_text(json.dumps(note))
    for path in folder.glob("hierarchical-*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trials": 20}))
    return write_report(load_experiment(folder))


def test_every_part_and_format_is_written(written: Report) -> None:
    page, reader = written.paths["html"].read_text(), Reader()
    reader.feed(page)
    assert all(link.startswith(("data:", "#")) for link in reader.links), "one file, no network"
    assert len(reader.pictures) == 6
    assert all(picture["alt"] for picture in reader.pictures)
    assert "&lt;b&gt;" in page
    assert "it is not MedSAM" in page
    folder = written.paths["md"].parent
    text = written.paths["md"].read_text()
    for figure in (figure for part in written.parts for figure in part.figures):
        assert f"figures/{figure.name}.png" in text
        assert (folder / "figures" / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
    for table in written.tables:
        assert len(pd.read_csv(folder / "tables" / f"{table.name}.csv")) == len(table.numbers)
        assert (folder / "tables" / f"{table.name}.tex").is_file()
    assert "not comparable: the split was by image" in text
    assert not any(part.lacks for part in written.parts)


def test_what_makes_the_figures_less_stands_before_the_first(written: Report) -> None:
    page = written.paths["html"].read_text()
    assert page.index("fold 2: 3 patients in both train and test") < page.index("<table")
    assert page.index("hierarchical 20") < page.index("<table")
    assert all("Leakage was allowed" in table.note for table in written.tables)
    assert all(table.numbers["leakage_allowed"].all() for table in written.tables)
    assert all("Leakage was allowed" in verdict.headline for verdict in written.verdicts)


@pytest.mark.parametrize(
    ("dataset", "of_splits", "of_training"),
    [
        ({}, "Splits are by patient. The", "chosen on validation patients; the test patients"),
        ({"split_by": "image"}, "Splits are by image: patients may", "chosen on validation images; the test images"),
        ({"validation": "test"}, "Validation cases are the test cases.", "chosen on the test cases"),
    ],
)
def test_notes_say_how_it_was_split_and_where_the_best_epoch_was_chosen(
    whole_suite: Path, dataset: dict[str, str], of_splits: str, of_training: str
) -> None:
    results = load_experiment(whole_suite)
    results.experiment["recipe"]["dataset"] |= dataset
    assert of_splits in make_audit_table(results).note
    assert of_training in make_runs_table(results).note


def test_only_the_formats_asked_for_are_written_and_again_to_the_digit(experiment: Path) -> None:
    assert set(write_report(load_experiment(experiment), ("csv",)).paths) == {"csv"}
    assert [entry.name for entry in (experiment / "report").iterdir()] == ["tables"]
    tables = experiment / "report" / "tables"
    first = {path.name: path.read_text() for path in tables.iterdir()}
    write_report(load_experiment(experiment), ("csv",))
    assert {path.name: path.read_text() for path in tables.iterdir()} == first


def test_a_half_finished_suite_says_what_is_missing(experiment: Path) -> None:
    for run in experiment.glob("label-*"):
        (run / "cases.parquet").unlink()
    (experiment / "gated-fold2-seed1-00000000" / "cases.parquet").unlink()
    (experiment / "gated-fold2-seed1-00000000" / ".lock").touch()
    written = write_report(load_experiment(experiment), ("csv",))
    (warning,) = [text for text in written.warnings if "not whole" in text]
    assert "label: 6 of 6 runs" in warning
    assert "gated: 1 of 6 runs (fold 2 seed 1)" in warning
    assert "begun and not finished: gated-fold2-seed1-00000000" in warning
    assert {verdict.key for verdict in written.verdicts} == {"help", "reliance", "paraphrase"}


def test_means_over_fewer_patients_are_marked(experiment: Path) -> None:
    for run in experiment.glob("gated-fold2-*"):
        (run / "cases.parquet").unlink()
    results = load_experiment(experiment)
    arms, classes = make_headline_table(results, []), make_class_table(results, "birads")
    assert [row[0] for row in arms.rows if row[2].endswith("] (16 of 32 patients)")] == ["gated"]
    assert [row[0] for row in classes.rows if "patients" in row[0]] == ["gated (16 of 32 patients)"]
    for table in (arms, classes):
        assert "lacks test folds" in table.note


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
    told = f"right text {tight['right']:.3f} (tight), lowest"
    assert told in draw_boxes(boxes, "hierarchical").alt, "the picture is of the same cases as its table"


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
    assert table.note.endswith("1 cases with distances in mm are left out.")


def test_a_suite_enlarged_later_lacks_what_any_command_asked_for(experiment: Path) -> None:
    path = experiment / "experiment.json"
    suite = {"arms": ["text_free", "shuffled"], "folds": [1, 2], "seeds": [0, 5]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suite": suite}))
    results = load_experiment(experiment)
    assert list_missing(results) == [
        "text_free: 2 of 4 runs (fold 1 seed 5, fold 2 seed 5)",
        "shuffled: 4 of 4 runs (fold 1 seed 0, fold 1 seed 5, fold 2 seed 0, fold 2 seed 5)",
    ]
    assert dict(list_facts(results))["Suite"] == "arms text_free, shuffled; folds 1, 2; seeds 0, 5"


def test_without_that_note_the_recipes_of_all_runs_tell_the_suite(experiment: Path) -> None:
    path = next(experiment.glob("gated-fold1-seed0-*/run.json"))  # not the last by name
    summary = json.loads(path.read_text())
    summary["suite"]["bench"]["arms"] = ["unet"]
    path.write_text(json.dumps(summary))
    assert [text.split(" (")[0] for text in list_missing(load_experiment(experiment))] == ["unet: 6 of 6 runs"]


def test_floors_alone_make_a_report_that_says_what_it_lacks(experiment: Path) -> None:
    for folder in experiment.glob("*-seed*"):
        (folder / "cases.parquet").unlink()
    written = write_report(load_experiment(experiment), ("csv",))
    assert written.verdicts == []
    assert any("nothing here says what the text did" in warning for warning in written.warnings)
    assert {part.key for part in written.parts if part.lacks} >= {"counterfactuals", "swaps", "harm", "runs"}


def test_today_s_two_conditions_are_enough(tmp_path: Path) -> None:
    suite = Suite(("baseline", "text_free", "hierarchical"), folds=(1,), seeds=(0,), patients=12, boxes={"tight": 0.0})
    folder = suite.write(tmp_path)
    for path in folder.glob("hierarchical-*/cases.parquet"):
        table = pd.read_parquet(path)
        write_results(path, table[table["condition"].isin(["right", "wrong"])].to_dict("records"))
    note = json.loads((folder / "experiment.json").read_text())
    note.pop("folds")
    (folder / "experiment.json").write_text(json.dumps(note))
    written = write_report(load_experiment(folder))
    assert {verdict.key for verdict in written.verdicts} == {"help", "reliance"}


def test_a_report_fits_a_log(written: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(written)
    printed = capsys.readouterr().out
    assert "Does the text help? The text helps." in printed
    assert "report.md" in printed
    assert max(map(len, printed.splitlines()[:20])) <= 190


def test_planted_pickles_and_lost_files_are_refused(experiment: Path) -> None:
    path = experiment / "gated-fold1-seed0-00000000"
    np.savez(path / "masks.npz", evil=np.array([Path], dtype=object))
    (run,) = [run for run in load_experiment(experiment).list_runs("gated") if run.name == path.name]
    with pytest.raises(RunFolderError, match=r"masks\.npz: cannot be read \(Object arrays"):
        run.masks["evil"]
    with (path / "masks.npz").open("rb+") as file:
        file.truncate(file.seek(0, 2) - 1)
    with pytest.raises(RunFolderError, match=r"masks\.npz: cannot be read"):
        load_experiment(experiment)
    (path / "masks.npz").unlink()
    load_experiment(experiment)
    (path / "history.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"history\.jsonl: cannot be read"):
        load_experiment(experiment)
    (experiment / "experiment.json").write_text("{}")
    with pytest.raises(RunFolderError, match="name is absent"):
        load_experiment(experiment)


def test_results_are_found_newest_first(experiment: Path) -> None:
    older = experiment.parent / "older-00000000"
    (older / "reference-fold1").mkdir(parents=True)
    (older / "reference-fold1" / "cases.parquet").touch()
    (older / "experiment.json").write_text("{}")
    os.utime(older / "reference-fold1" / "cases.parquet", (1, 1))
    study = experiment.parent / "sweeps" / "mine" / "study.journal"
    study.parent.mkdir(parents=True)
    study.touch()
    assert find_results(experiment.parent) == [study.parent, experiment, older]
    os.utime(study, (0, 0))
    assert find_results(experiment.parent) == [experiment, older, study.parent]
    with pytest.raises(RunFolderError, match=r"holds no experiment\.json"):
        load_experiment(experiment.parent)


def run_verb(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_verb_writes_what_it_is_asked_for_and_needs_no_torch(experiment: Path) -> None:
    done = run_verb(str(experiment), "--format", "csv,tex", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert set(summary["written"]) == {"csv", "tex"}
    assert {row["arm"] for row in summary["arms"]} == set(load_experiment(experiment).arms)
    assert summary["verdicts"][0] == {"about": "help", "outcome": "helps", "says": "The text helps."}
    refused = run_verb(str(experiment), "--format", "pdf")
    assert refused.returncode == 2
    assert "--format pdf: not a format" in refused.stderr


def test_a_report_needs_no_torch() -> None:
    code = "import sys, t2m_bench.reporting.report; print({'torch', 'ray', 'monai'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("cell", "broken"),
    [
        ("+0.01 [+0.00, +0.02], p 0.010", "+0.01, p 0.010\n[+0.00, +0.02]"),
        ("0.90 ± 0.01 [0.8, 1.0]", "0.90 ± 0.01\n[0.8, 1.0]"),
        ("[0.8, 1.0]", "[0.8, 1.0]"),
        ("-", "-"),
    ],
)
def test_intervals_take_a_line_of_their_own(cell: str, broken: str) -> None:
    assert _break_interval(cell) == broken


def test_words_stand_to_the_left() -> None:
    table = Table("t", "T", "", ("a", "b", "c"), (("x", "word", "+0.1"),), pd.DataFrame())
    assert [table.is_text(column) for column in range(3)] == [True, True, False]


def test_two_text_fields_and_millimetres(experiment: Path) -> None:
    """As NSCLC has them: values joined in order, wrong text of each field alone, distances in mm."""
    for path in experiment.glob("*/cases.parquet"):
        table = pd.read_parquet(path)
        second = table["case"].str[-2].map(lambda digit: "A" if digit in "02468ace" else "S")
        table["text_class"] = "T" + table["text_class"] + " + " + second
        table["condition"] = table["condition"].str.replace("swap:birads=", "swap:t_stage=T")
        wrong = table[table["condition"] == "wrong"]
        of_fields = [wrong.assign(condition=f"wrong:{field}") for field in ("t_stage", "histology")]
        of_fields[1]["dice"] += 0.03  # the second field alone costs half
        of_a, of_s = (wrong[wrong["text_class"].str.endswith(name)] for name in "AS")
        of_fields += [of_a.assign(condition="swap:histology=S"), of_s.assign(condition="swap:histology=A")]
        table = pd.concat([table, *of_fields]).assign(
            distance_unit="mm", surface_dice_2=lambda rows: rows["surface_dice"]
        )
        write_results(path, table.assign(surface_dice_1=np.nan, surface_dice_5=np.nan).to_dict("records"))
    note = json.loads((experiment / "experiment.json").read_text())
    note["dataset"] |= {"text_field": "t_stage + histology", "classes": {"t_stage": ["T5", "T2", "T3", "T4"]}}
    for number, fold in enumerate(note["folds"].values()):
        of_stage = {split: {f"T{name}": n for name, n in of.items()} for split, of in fold["audit"]["classes"].items()}
        of_histology = {"train": {"A": 50 - number, "S": 4}}
        fold["audit"] |= {"size_auc": 0.913, "classes_by_field": {"t_stage": of_stage, "histology": of_histology}}
        fold["audit"] |= {"selection": "five slices a patient", "exclusions": {"patients with CT but no SEG": 3}}
    (experiment / "experiment.json").write_text(json.dumps(note))
    results = load_experiment(experiment)
    written = write_report(results, ("csv",))
    assert [verdict.question for verdict in written.verdicts if verdict.key == "reliance"] == [
        "Does the model rely on t_stage?",
        "Does the model rely on histology?",
    ]
    assert any("T is pathological" in warning and "AUC 0.91" in warning for warning in written.warnings)
    tables = {table.name: table for table in written.tables}
    assert list(tables["classes_histology"].columns) == ["Arm", "A", "S", "Macro-average"]
    swaps = tables["swaps"].numbers
    assert list(swaps.drop_duplicates(["field", "own"])[["field", "own"]].itertuples(index=False, name=None)) == [
        *(("t_stage", name) for name in ("T2", "T3", "T4", "T5")),  # given T5 first, which no case of its own is
        *(("histology", name) for name in ("S", "A")),
    ]
    trained = swaps.set_index(["field", "given"])["training_cases"]
    assert trained["histology", "A"] == 49, "the fewest over folds"
    assert trained["histology", "S"] == 4
    assert trained["t_stage", "T2"].min() > 0
    of_few = swaps["patients"] < 10
    assert of_few.any()
    assert not of_few.all()
    shown = [row[tables["swaps"].columns.index("p")] for row in tables["swaps"].rows]
    assert [p == "-" for p in shown] == of_few.tolist()
    assert list(tables["classes_t_stage"].columns) == ["Arm", "T5", "T2", "T3", "T4", "Macro-average"]
    assert any(row[0] == "mean mask of the class (t_stage) (no image)" for row in tables["arms"].rows)
    assert "Surface Dice, 2 mm" in tables["measures"].columns
    costs = tables["counterfactual"].numbers.set_index(["arm", "condition"])["cost"]
    assert costs["hierarchical", "wrong:histology"] == pytest.approx(COST["wrong"] - 0.03, abs=0.002)
    assert costs["hierarchical", "other:t_stage"] == pytest.approx(COST["other"], abs=0.002)
    assert costs["hierarchical", "other:histology"] == pytest.approx(COST["wrong"], abs=0.002)
    assert ("hierarchical", "other") not in costs, "texts of one field are not averaged with those of another"
    labels = {row[1] for row in tables["counterfactual"].rows if row[0] == "hierarchical"}
    assert {"wrong t_stage and histology (published map)", "wrong t_stage alone", "wrong histology alone"} <= labels
    facts = dict(list_facts(results))
    assert (facts["Choice of cases"], facts["Left out"]) == ("five slices a patient", "3 patients with CT but no SEG")


def test_phantoms_are_called_so_and_stand_beside_no_published_figure(experiment: Path) -> None:
    note = json.loads((experiment / "experiment.json").read_text())
    note["dataset"]["phantom"] = {"text_effect": 0.5, "text_visible": False}
    (experiment / "experiment.json").write_text(json.dumps(note))
    written = write_report(load_experiment(experiment), ("csv",))
    assert "Phantoms, not patients: the text tells the hidden class with probability 0.5." in written.warnings
    (arms,) = [table for table in written.tables if table.name == "arms"]
    assert not arms.numbers["published"].any()
