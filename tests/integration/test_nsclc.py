"""NSCLC as users run it, in small: lung phantoms as DICOM, a sweep, a benchmark, and the report of both fields."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from messages import check_names, raises_naming
from typer.testing import CliRunner

from t2m_bench.cli import app
from t2m_bench.data.datasets.nsclc.clinical import FIELDS
from t2m_bench.data.exclusions import Reason
from t2m_bench.data.prompts import load_prompts
from t2m_bench.errors import DatasetError

pytestmark = pytest.mark.cluster  # a sweep and a benchmark: a minute, of which other folders test the parts

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_PATIENTS, NUM_SLICES = 12, 2
SMALL = ("dataset.root=lungs", f"dataset.ct.slices_per_patient={NUM_SLICES}", "optim.epochs=1", "optim.warmup_steps=1")


def run_verb(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """What each verb of the whole way printed, and the folder where it ran."""
    folder = tmp_path_factory.mktemp("nsclc")
    said = {"phantom": run_verb(folder, "phantom", "nsclc", "lungs", "--cases", str(NUM_PATIENTS))}
    one_training = ("sweep.seeds=[0]", "sweep.split_seeds=[0]", "sweep.scheduler.grace_epochs=1")
    sweep = str(REPOSITORY / "sweeps" / "nsclc.yaml")
    said["sweep"] = run_verb(folder, "sweep", sweep, *SMALL, *one_training, "--trials", "2")
    arms = ("bench.arms=[text_free,label,shuffled,hierarchical]", "bench.seeds=[0]", "bench.boxes=[tight]")
    said["bench"] = run_verb(folder, "bench", str(REPOSITORY / "launch" / "nsclc.yaml"), *SMALL, *arms)
    said["report"] = run_verb(folder, "report", "--format", "md,csv", "--json")
    return folder, said


@pytest.fixture(scope="module")
def read_table(printed: tuple[Path, dict[str, str]]) -> Callable[[str], pd.DataFrame]:
    folder, said = printed
    tables = Path(json.loads(said["report"].splitlines()[-1])["written"]["csv"])
    return lambda name: pd.read_csv(folder / tables / f"{name}.csv")


def test_the_sweep_finds_a_recipe_and_the_benchmark_uses_what_it_embedded(
    printed: tuple[Path, dict[str, str]],
) -> None:
    folder, said = printed
    best = yaml.safe_load((folder / "runs" / "sweeps" / "nsclc" / "best.yaml").read_text())
    assert (best["dataset"]["kind"], best["prompts"]["file"]) == ("nsclc", "nsclc")
    cases = NUM_PATIENTS * NUM_SLICES
    assert f"{cases} cases embedded" in said["sweep"]
    assert "reused runs/shards/nsclc-" in said["bench"]
    assert "trained hierarchical-fold1-seed0" in said["bench"]


def test_strict_refuses_on_the_command_line_what_is_left_out(
    printed: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(printed[0])
    prepare = ["prepare", str(REPOSITORY / "launch" / "nsclc.yaml"), *SMALL]
    assert CliRunner().invoke(app, prepare).exit_code == 0
    with raises_naming(DatasetError, f"2 {Reason.NO_IMAGES}"):
        CliRunner().invoke(app, [*prepare, "--strict"], catch_exceptions=False)


def test_the_report_says_what_t_is_and_what_the_box_tells_of_it(printed: tuple[Path, dict[str, str]]) -> None:
    folder, said = printed
    summary = json.loads(said["report"].splitlines()[-1])
    text = (folder / summary["written"]["md"]).read_text()
    assert re.search(r"AJCC 7.*AUC 0\.\d\d", text)
    assert re.search(r"Phantoms.*\b1\.", text)
    assert "published †" not in text, "phantoms stand beside no published figure"
    assert f"2 {Reason.NO_IMAGES}" in text
    assert [found["about"] for found in summary["verdicts"]].count("reliance") == 2
    check_names(text, "millimetres")


def test_wrong_stage_wrong_histology_and_both_are_asked_apart(
    printed: tuple[Path, dict[str, str]], read_table: Callable[[str], pd.DataFrame]
) -> None:
    book = load_prompts("nsclc", "category")
    costs = read_table("counterfactual").set_index("condition")
    assert {"wrong", "wrong:t_stage", "wrong:histology", "other:t_stage", "other:histology"} <= set(costs.index)
    folder, _ = printed
    (run,) = folder.glob("runs/nsclc-*/hierarchical-fold1-seed0-*/cases.parquet")
    rows = pd.read_parquet(run)
    for condition, changed in (("wrong", FIELDS), ("wrong:t_stage", FIELDS[:1]), ("wrong:histology", FIELDS[1:])):
        asked = rows[rows["condition"] == condition]
        assert len(asked)
        for said, given in zip(asked["text_class"], asked["given_class"], strict=True):
            own = dict(zip(FIELDS, said.split(" + "), strict=True))
            wrong = {field: book.wrong(field)[value] if field in changed else value for field, value in own.items()}
            assert given == " + ".join(wrong.values())
    known = rows[~rows["text_class"].str.contains("unknown")]
    assert set(rows[rows["condition"] == "wrong"]["case"]) == set(known["case"]), "what is not known has no wrong one"


def test_every_class_is_swapped_for_every_other_with_its_counts_and_without_p(
    printed: tuple[Path, dict[str, str]], read_table: Callable[[str], pd.DataFrame]
) -> None:
    folder, _ = printed
    (path,) = folder.glob("runs/nsclc-*/experiment.json")
    counts = json.loads(path.read_text())["folds"]["1"]["audit"]["classes_by_field"]
    swaps = read_table("swaps")
    book = load_prompts("nsclc", "category")
    for field in FIELDS:
        of_field = swaps[swaps["field"] == field]
        owns = counts[field]["test"].keys() - {"unknown"}
        wanted = {(own, given) for own in owns for given in book.classes(field) if given != own}
        assert set(zip(of_field["own"], of_field["given"], strict=True)) == wanted
        trained = {given: counts[field]["train"].get(given, 0) for given in of_field["given"]}
        assert of_field["training_cases"].tolist() == [trained[given] for given in of_field["given"]]
    assert (swaps["patients"] < 10).all()
    report = (path.parent / "report" / "report.md").read_text()
    shown = [line for line in report.splitlines() if line.startswith(("| t_stage: ", "| histology: "))]
    cells = [line.split("|") for line in shown if " as " in line]  # the others are gains by class
    assert len(cells) == len(swaps)
    assert {row[5].strip() for row in cells} == {"-"}, "no p below 10 patients"
    assert {row[6].strip() for row in cells} == {str(number) for number in swaps["patients"]}
