"""Free text: each case has a sentence of its own, which no file but the manifest holds."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from command_line import run
from messages import check_names
from text_phantoms import make_text_recipe, write_text_phantoms

from t2m_bench.data.manifest import load_manifest

NAME = "Zebulon Quixworth"
"""Planted in every report."""

FREE = {"column": "report", "paraphrase_column": "reworded"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_text_phantoms(tmp_path_factory.mktemp("texts") / "data", cases=48, text_effect=1.0)
    found = pd.read_csv(path, dtype=str)
    found["report"] += f" Patient {NAME}, seen on day " + found.index.astype(str) + "."
    found["reworded"] += f" Of {NAME}."
    found["device"] = ["A" if int(patient) % 2 else "B" for patient in found["patient"]]
    found.loc[found.index % 12 == 5, ["report", "reworded"]] = ""
    found.to_csv(path, index=False)
    return path


def write_recipe(table: Path, **sections: Any) -> Path:
    recipe = make_text_recipe(table, FREE, **sections)
    path = table.parent.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def find_holders(folder: Path, words: list[str]) -> set[str]:
    """Return the names of the files that hold one of these words, in any of the usual encodings, or in their names."""
    found = set()
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for word in words:
            if word in path.name or any(word.encode(form) in content for form in ("utf-8", "utf-16-le", "utf-32-le")):
                found.add(path.name)
    return found


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that inspecting, a small suite and its report leave."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    recipe = write_recipe(table, bench={"arms": ["text_free", "hierarchical", "shuffled"], "boxes": ["tight"]})
    for verb, *named in (("inspect", recipe), ("bench", recipe), ("report",)):
        assert run(verb, *named, "--runs", runs, "--json") == 0
    return runs


def test_a_name_in_each_report_is_in_no_file_but_the_manifest(finished: Path, tmp_path: Path) -> None:
    runs = finished
    (trained,) = runs.glob("texts-*/hierarchical-*")
    assert run("export", trained, tmp_path / "shared") == 0
    assert find_holders(tmp_path, NAME.split()) == set()
    assert find_holders(runs, NAME.split()) == {"manifest.jsonl"}
    (manifest,) = runs.rglob("manifest.jsonl")
    cases = load_manifest(manifest)
    assert sum(NAME in case.text for case in cases) == 44
    assert all(re.fullmatch("t[0-9a-f]{8}|unknown", case.text_fields["text"]) for case in cases)
    (results,) = runs.glob("texts-*/hierarchical-*/cases.parquet")
    rows = pd.read_parquet(results)
    tight = rows[rows["box"] == "tight"]
    assert set(tight["condition"]) == {"right", "other_patient", "paraphrase", "unknown", "random"}
    assert set(rows["text_class"]) == {""}
    own = tight[tight["condition"] == "right"].set_index("case")["dice"]
    donor = tight[tight["condition"] == "other_patient"].set_index("case")["dice"]
    assert (donor != own[donor.index]).mean() > 0.5


def test_a_stratum_that_is_added_reaches_the_report_and_trains_nothing(
    table: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(table)
    before = {path: path.stat().st_mtime_ns for path in finished.glob("texts-*/*/run.json")}
    asked = ["dataset.columns.strata=[device]", "bench.arms=[text_free,hierarchical,shuffled]"]
    asked += ["bench.boxes=[tight]"]
    assert run("bench", recipe, *asked, "--runs", finished) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.glob("texts-*/*/run.json")} == before
    assert run("report", "--runs", finished, "--format", "csv") == 0
    (strata,) = finished.glob("texts-*/report/tables/gain_strata.csv")
    found = pd.read_csv(strata).set_index("stratum")
    assert {"device: A", "device: B"} <= set(found.index)
    whole = pd.read_csv(strata.with_name("arms.csv")).set_index("arm").loc["hierarchical", "help"]
    parts = found.loc[["device: A", "device: B"]]
    joined = (parts["gain"] * parts["patients"]).sum() / parts["patients"].sum()
    assert joined == pytest.approx(whole, abs=1e-9)
    assert run("prepare", recipe, "dataset.columns.strata=[report]", "--runs", finished) == 2
    check_names(capsys.readouterr().err, "report")


def test_a_text_that_is_too_long_names_its_rows_or_is_averaged(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = pd.read_csv(table, dtype=str, keep_default_na=False)
    found.loc[3, "report"] = f"{NAME} has a mass. " * 200
    found.loc[7, "reworded"] = f"A mass, said {NAME}. " * 200
    found.to_csv(table.parent / "long.csv", index=False)
    recipe = write_recipe(table, dataset={"kind": "table", "root": str(table.parent), "table": "long.csv"})
    capsys.readouterr()
    assert run("embed", recipe, "--runs", tmp_path / "runs") == 2
    told = capsys.readouterr()
    message = told.out + told.err
    check_names(message, 2, 5, 9, "prompts.long_text")
    assert NAME not in message
    assert run("embed", recipe, "prompts.long_text=average", "--runs", tmp_path / "runs") == 0
