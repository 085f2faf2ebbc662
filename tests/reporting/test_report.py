"""The report as it is written: its parts, its formats, its warnings, and what it is made from."""

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages import check_names, is_named, raises_naming
from plugins import install
from simulated_suite import COST, Suite

from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.results import write_results
from t2m_bench.reporting.completeness import list_missing
from t2m_bench.reporting.console import print_report
from t2m_bench.reporting.provenance import list_facts, list_warnings, make_audit_table
from t2m_bench.reporting.published import FOOTNOTE
from t2m_bench.reporting.report import SUPPLEMENT_NAME, Report, break_interval, write_report
from t2m_bench.reporting.results import find_results, load_crops, load_experiment
from t2m_bench.reporting.table import Table
from t2m_bench.reporting.training_cost import make_runs_table
from t2m_bench.reporting.verdicts import LEAKAGE_MARK
from t2m_bench.search.study import open_study
from t2m_bench.search.sweep import load_sweep

REPOSITORY = Path(__file__).resolve().parents[2]


class Reader(HTMLParser):
    """Collects what a page needs from elsewhere, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.figures: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in {"src", "href"} and value]
        if tag == "svg":
            self.figures.append(dict(attrs).get("aria-label"))


@pytest.fixture(scope="session")
def written(whole_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Everything, of a suite with a leak and arms of unequal tuning."""
    folder = Path(shutil.copytree(whole_suite, tmp_path_factory.mktemp("written") / whole_suite.name))
    note = json.loads((folder / "experiment.json").read_text()) | {"name": "<b>", "allow_leakage": True}
    note["folds"]["2"]["audit"]["leaks"] = ["3 leaks"]
    (folder / "experiment.json").write_text(json.dumps(note))
    for path in folder.glob("hierarchical-*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trials": 20}))
    return write_report(load_experiment(folder))


def test_a_measure_that_an_arm_s_tables_have_no_column_of_is_missing_in_the_report(experiment: Path) -> None:
    lacking = ["hd95", "recall", "surface_dice_1", "area_error"]
    for path in experiment.glob("hierarchical-*/cases.parquet"):
        pd.read_parquet(path).drop(columns=lacking).to_parquet(path)
    tables = {table.name: table for table in write_report(load_experiment(experiment), ["csv"]).tables}
    is_missing = tables["measures"].numbers.set_index("arm")[lacking].isna()
    assert is_missing.loc["hierarchical"].all()
    assert not is_missing.drop("hierarchical").any(axis=None)
    assert "nan" not in " ".join(cell for row in tables["measures"].rows for cell in row)
    assert (tables["arms"].numbers.set_index("arm").loc["hierarchical", "dice"] > 0).all()


def test_every_part_and_format_is_written(written: Report) -> None:
    first, supplement = written.paths["html"], written.paths["html"].with_name(SUPPLEMENT_NAME)
    drawn: list[str] = []
    for path in (first, supplement):
        page, reader = path.read_text(), Reader()
        reader.feed(page)
        assert all(link.startswith(("data:", "#", "report")) for link in reader.links), "no network"
        assert all(label for label in reader.figures)
        assert "&lt;b&gt;" in page
        assert "<b>" not in page
        drawn += reader.figures
    assert len(drawn) == sum(len(part.figures) for part in written.parts) == 8, "each figure once"
    (warning,) = [text for text in written.warnings if is_named(text, "mini")]
    check_names(warning, "MedSAM")
    assert warning in page
    folder = written.paths["md"].parent
    text = written.paths["md"].read_text()
    for figure in (figure for part in written.parts for figure in part.figures):
        assert f"figures/{figure.name}.png" in text
        assert (folder / "figures" / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{figure.name}.pdf").read_bytes().startswith(b"%PDF")
    for table in written.tables:
        assert len(pd.read_csv(folder / "tables" / f"{table.name}.csv")) == len(table.numbers)
        assert (folder / "tables" / f"{table.name}.tex").is_file()
    assert FOOTNOTE in text
    first_table, first_figure = (
        written.paths["tex"].read_text().index(name) for name in ("tab:page-one", "fig:forest")
    )
    assert max(first_table, first_figure) < written.paths["tex"].read_text().index("tab:arms")
    assert not any(part.lacks for part in written.parts)


def test_what_makes_the_figures_less_stands_before_the_first(written: Report) -> None:
    page = written.paths["html"].read_text()
    assert page.index("fold 2: 3 leaks") < page.index("<figure")
    supplement = written.paths["html"].with_name(SUPPLEMENT_NAME).read_text()
    assert supplement.index("hierarchical 20") < supplement.index("<table")
    assert all(is_named(table.note, "Leakage") for table in written.tables)
    assert all(table.numbers["leakage_allowed"].all() for table in written.tables)
    assert all(verdict.headline.endswith(LEAKAGE_MARK) for verdict in written.verdicts)


@pytest.mark.parametrize(
    ("dataset", "of_splits", "of_training"),
    [
        ({}, {"by patient"}, {"validation patients", "test patients"}),
        ({"split_by": "image"}, {"by image"}, {"validation images", "test images"}),
        ({"validation": "test"}, {"by patient", "test cases"}, {"test cases"}),
    ],
)
def test_notes_say_how_it_was_split_and_where_the_best_epoch_was_chosen(
    whole_suite: Path, dataset: dict[str, str], of_splits: set[str], of_training: set[str]
) -> None:
    results = load_experiment(whole_suite)
    results.experiment["recipe"]["dataset"] |= dataset
    known = {"by patient", "by image", "test cases", "test patients", "test images"}
    known |= {"validation patients", "validation images"}
    for table, wanted in ((make_audit_table(results), of_splits), (make_runs_table(results), of_training)):
        assert {part for part in known if is_named(table.note, part)} == wanted


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
    check_names(warning, "label: 6 of 6", "gated: 1 of 6", "fold 2 seed 1", "gated-fold2-seed1-00000000")
    assert {verdict.key for verdict in written.verdicts} == {"help", "reliance", "paraphrase"}


def test_a_suite_enlarged_later_lacks_what_any_command_asked_for(experiment: Path) -> None:
    path = experiment / "experiment.json"
    suite = {"arms": ["text_free", "shuffled"], "folds": [1, 2], "seeds": [0, 5]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suite": suite}))
    results = load_experiment(experiment)
    of_free, of_shuffled = list_missing(results)
    check_names(of_free, "text_free: 2 of 4", "fold 1 seed 5", "fold 2 seed 5")
    check_names(of_shuffled, "shuffled: 4 of 4", *(f"fold {fold} seed {seed}" for fold in (1, 2) for seed in (0, 5)))
    check_names(dict(list_facts(results))["Suite"], "text_free, shuffled", "folds 1, 2", "seeds 0, 5")


def test_without_that_note_the_recipes_of_all_runs_tell_the_suite(experiment: Path) -> None:
    path = next(experiment.glob("gated-fold1-seed0-*/run.json"))  # not the last by name
    summary = json.loads(path.read_text())
    summary["suite"]["bench"]["arms"] = ["unet"]
    path.write_text(json.dumps(summary))
    (missing,) = list_missing(load_experiment(experiment))
    check_names(missing, "unet: 6 of 6")


def test_floors_alone_make_a_report_that_says_what_it_lacks(experiment: Path) -> None:
    for folder in experiment.glob("*-seed*"):
        (folder / "cases.parquet").unlink()
    written = write_report(load_experiment(experiment), ("csv",))
    assert written.verdicts == []
    assert any(is_named(warning, "arm text_free") for warning in written.warnings)
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
    help_ = written.verdicts[0]
    unwrapped = " ".join(printed.split())
    assert all(part in unwrapped for part in (help_.question, help_.headline.split(" (")[0]))
    assert "report.html" in printed
    assert max(map(len, printed.splitlines()[:20])) <= 190


def test_planted_pickles_and_lost_files_are_refused(experiment: Path) -> None:
    path = experiment / "gated-fold1-seed0-00000000"
    np.savez(path / "masks.npz", evil=np.array([Path], dtype=object))
    (run,) = [run for run in load_experiment(experiment).list_runs("gated") if run.name == path.name]
    with raises_naming(RunFolderError, path / "masks.npz", "allow_pickle=False"):
        run.masks["evil"]
    with (path / "masks.npz").open("rb+") as file:
        file.truncate(file.seek(0, 2) - 1)
    with raises_naming(RunFolderError, path / "masks.npz", "zip"):
        load_experiment(experiment)
    (path / "masks.npz").unlink()
    load_experiment(experiment)
    (path / "history.jsonl").unlink()
    with raises_naming(RunFolderError, path / "history.jsonl"):
        load_experiment(experiment)
    (experiment / "experiment.json").write_text("{}")
    with raises_naming(RunFolderError, experiment / "experiment.json", "name", "absent"):
        load_experiment(experiment)


def test_crops_with_a_damaged_byte_are_refused_by_name(experiment: Path) -> None:
    path = experiment / "gated-fold1-seed0-00000000" / "masks.npz"
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), len(whole) // 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            crops = load_crops(path)
            assert all(crops[name].shape == (160, 160) for name in crops)
        except RunFolderError as error:
            check_names(error, path)
            refused += 1
    assert refused > 100


def test_a_run_killed_between_its_files_is_unfinished_and_the_others_are_reported(experiment: Path) -> None:
    killed, begun = (experiment / f"gated-fold1-seed{seed}-00000000" for seed in (0, 1))
    (killed / "run.json").unlink()
    (begun / "cases.parquet").unlink()
    (begun / ".lock").touch()
    results = load_experiment(experiment)
    assert results.unfinished == (killed.name, begun.name)
    assert not {killed.name, begun.name} & set(results.table["run"])
    assert {run.name for run in results.list_runs("gated")}.isdisjoint({killed.name, begun.name})
    check_names(" ".join(list_missing(results)), killed.name, begun.name)
    write_report(results, ("md",))
    for path in experiment.glob("*/run.json"):
        path.unlink()
    with raises_naming(RunFolderError, experiment):
        for path in experiment.glob("reference-*/cases.parquet"):
            path.unlink()
        load_experiment(experiment)


def test_results_are_found_newest_first(experiment: Path) -> None:
    older = experiment.parent / "older-00000000"
    (older / "reference-fold1").mkdir(parents=True)
    (older / "reference-fold1" / "cases.parquet").touch()
    (older / "experiment.json").write_text("{}")
    os.utime(older / "reference-fold1" / "cases.parquet", (1, 1))
    study = experiment.parent / "sweeps" / "mine" / "study.journal"
    study.parent.mkdir(parents=True)
    open_study(study.parent, load_sweep(REPOSITORY / "sweeps" / "demo.yaml").sweep, "mine").ask()
    assert find_results(experiment.parent) == [study.parent, experiment, older]
    os.utime(study, (0, 0))
    assert find_results(experiment.parent) == [experiment, older, study.parent]
    with raises_naming(RunFolderError, experiment.parent, "experiment.json"):
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
    help_ = summary["verdicts"][0]
    assert (help_["about"], help_["outcome"]) == ("help", "gain")
    check_names(help_["says"], "gains")
    refused = run_verb(str(experiment), "--format", "pdf")
    assert refused.returncode == 2
    check_names(refused.stderr, "--format pdf", "csv")


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
    assert break_interval(cell) == broken


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
        table = table[table["condition"] != "plausible"]  # as runs of before have it
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
        fold["audit"] |= {"selection": "five slices", "exclusions": {"without SEG": 3}}
    (experiment / "experiment.json").write_text(json.dumps(note))
    results = load_experiment(experiment)
    written = write_report(results, ("csv",))
    asked = [verdict.question for verdict in written.verdicts if verdict.key == "reliance"]
    assert [[field for field in results.fields if is_named(question, field)] for question in asked] == [
        ["t_stage"],
        ["histology"],
    ]
    assert any(is_named(warning, "AJCC 7") and is_named(warning, "AUC 0.91") for warning in written.warnings)
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
    assert any(is_named(row[0], "mean mask") and is_named(row[0], "t_stage") for row in tables["arms"].rows)
    assert any(is_named(column, "Surface Dice") and is_named(column, "2 mm") for column in tables["measures"].columns)
    costs = tables["counterfactual"].numbers.set_index(["arm", "condition"])["cost"]
    assert costs["hierarchical", "wrong:histology"] == pytest.approx(COST["wrong"] - 0.03, abs=0.002)
    assert costs["hierarchical", "other:t_stage"] == pytest.approx(COST["other"], abs=0.002)
    assert costs["hierarchical", "other:histology"] == pytest.approx(COST["wrong"], abs=0.002)
    assert ("hierarchical", "other") not in costs, "texts of one field are not averaged with those of another"
    labels = {row[1] for row in tables["counterfactual"].rows if row[0] == "hierarchical"}
    of_wrong = [{field for field in results.fields if is_named(label, field)} for label in labels if "wrong" in label]
    assert all(fields in of_wrong for fields in ({"t_stage", "histology"}, {"t_stage"}, {"histology"}))
    facts = dict(list_facts(results))
    assert (facts["Choice of cases"], facts["Left out"]) == ("five slices", "3 without SEG")


def test_phantoms_are_called_so_and_stand_beside_no_published_figure(experiment: Path) -> None:
    note = json.loads((experiment / "experiment.json").read_text())
    note["dataset"]["phantom"] = {"text_effect": 0.5, "text_visible": False}
    (experiment / "experiment.json").write_text(json.dumps(note))
    written = write_report(load_experiment(experiment), ("csv",))
    assert any(is_named(warning, "Phantoms") and is_named(warning, "0.5") for warning in written.warnings)
    (arms,) = [table for table in written.tables if table.name == "arms"]
    assert not arms.numbers["published"].any()


def name_otherwise(experiment: Path, kind: str, encoder: str, arm: str) -> None:
    """Let an experiment be of a data set and an encoder, and its gated runs of a kind of arm, that are not ours."""
    for path in (experiment / "experiment.json", *experiment.glob("*/run.json")):
        text = path.read_text().replace('"kind": "bus_bra"', f'"kind": "{kind}"').replace('"mini"', f'"{encoder}"')
        path.write_text(text.replace('"kind": "gated"', f'"kind": "{arm}"'))


def test_a_report_needs_no_package_that_made_its_runs(experiment: Path) -> None:
    name_otherwise(experiment, "my_data", "my_encoder", "my_arm")
    report = write_report(load_experiment(experiment))
    facts = dict(list_facts(load_experiment(experiment)))
    assert facts["Image encoder"] == "my_encoder"
    check_names(facts["Data set"], "my_data")
    (warning,) = [said for said in report.warnings if is_named(said, "my_data")]
    check_names(warning, "data set", "my_data", "image encoder", "my_encoder", "arm", "gated")
    (arms,) = [table for table in report.tables if table.name == "arms"]
    assert not arms.numbers["published"].any()


def test_where_all_is_installed_nothing_is_said_of_packages(written: Report) -> None:
    assert not [said for said in written.warnings if is_named(said, "installed")]


THEIRS = """
from t2m_bench.recipe.datasets import DataSet
from t2m_bench.recipe.encoders import ImageEncoder

DATA = DataSet("my_data", "My data", "mine:Reader", unseen_by={"my_encoder": "It saw no bone."})
ENCODER = ImageEncoder(
    "my_encoder", "mine:build", 256, 16, "a file", "CC0", "nothing",
    label="My encoder", warning="Not MedSAM. {seen}",
)
"""

THEIR_POINTS = {"t2m_bench.datasets": "my_data = mine:DATA", "t2m_bench.image_encoders": "my_encoder = mine:ENCODER"}


def test_another_packages_data_set_and_encoder_stand_under_their_labels(experiment: Path, tmp_path: Path) -> None:
    name_otherwise(experiment, "my_data", "my_encoder", "gated")
    with install(tmp_path, "mine", THEIRS, THEIR_POINTS):
        results = load_experiment(experiment)
        facts, warnings = dict(list_facts(results)), list_warnings(results)
    check_names(facts["Data set"], "My data")
    check_names(facts["Image encoder"], "My encoder")
    assert (facts["Its licence"], facts["Its training data"]) == ("CC0", "nothing")
    assert "Not MedSAM. It saw no bone." in warnings  # phrase: two sentences that the entries give, put together


def test_what_our_encoder_never_saw_is_said_of_ours_alone(experiment: Path, tmp_path: Path) -> None:
    name_otherwise(experiment, "nsclc", "my_encoder", "gated")
    with install(tmp_path, "mine", THEIRS, THEIR_POINTS):
        warnings = list_warnings(load_experiment(experiment))
    assert "Not MedSAM." in warnings
    name_otherwise(experiment, "nsclc", "mini", "gated")
    path = experiment / "experiment.json"
    path.write_text(path.read_text().replace('"my_encoder"', '"mini"'))
    assert [said for said in list_warnings(load_experiment(experiment)) if is_named(said, "CT")]
