import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from messages import raises_naming
from PIL import Image

from t2m_bench.cli import main
from t2m_bench.data.prompts import load_prompts
from t2m_bench.errors import DatasetError, RecipeError
from t2m_bench.pipeline.own_recipe import Written, write_own_recipe
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.recipe.schema import load_recipe
from t2m_bench.terminal import Terminal

ROWS = 40
BOX = (5, 10, 36, 21)


def draw(folder: Path, number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    mask = np.zeros((40, 50), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(folder / f"scan {number}.png")
    Image.fromarray(mask).save(folder / f"{number}_gt.png")
    cells = {"path": f"scan {number}.png", "reference": f"{number}_gt.png", "Subject": f"s{number // 2}"}
    cells |= {"Tumour Type": ("solid", "cystic")[number // 2 % 2], "label": ("left", "right")[number % 2]}
    cells |= {"fold": number // 2 % 5 + 1, "bbox": "5 10 36 21", "site": "ab"[number % 2], "age": 30 + number}
    return cells


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "My Study"
    folder.mkdir()
    rows = [draw(folder, number) for number in range(ROWS)]
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False, sep=";")
    return folder / "cases.csv"


def edit(table: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(table, sep=";", dtype=str)).to_csv(table, index=False, sep=";")


def test_a_table_becomes_a_recipe_that_prepares(table: Path, tmp_path: Path) -> None:
    written = write_own_recipe(table, tmp_path / "new")
    recipe = load_recipe(written.recipe)
    columns = recipe.dataset.columns
    assert (columns.image, columns.mask, columns.patient) == ("path", "reference", "Subject")
    assert (columns.box, columns.label, columns.strata) == ("bbox", None, ("site",))
    assert columns.text == {"tumour_type": "Tumour Type"}
    book = load_prompts(recipe.prompts.file, recipe.prompts.family)
    assert book.classes("tumour_type") == ("cystic", "solid")
    assert min(len(book.sentences("tumour_type", "solid", use)) for use in ("training", "held_out")) >= 3  # type: ignore[arg-type]
    prepared = prepare(recipe, tmp_path / "runs", Terminal())
    assert len(prepared.cases) == ROWS
    assert {case.box_xyxy for case in prepared.cases} == {BOX}
    assert {case.fold for case in prepared.cases} == {1, 2, 3, 4, 5}


def test_every_column_is_spoken_of(table: Path, tmp_path: Path) -> None:
    said = "\n".join(write_own_recipe(table, tmp_path / "new").said)
    assert all(column in said for column in pd.read_csv(table, sep=";").columns)


def test_boxes_that_are_not_the_masks_are_left_out(table: Path, tmp_path: Path) -> None:
    edit(table, lambda found: found.assign(bbox="5 10 31 11"))  # with width and height
    written = write_own_recipe(table, tmp_path / "new")
    assert load_recipe(written.recipe).dataset.columns.box == "box"


def test_values_of_the_masks_are_labels(table: Path, tmp_path: Path) -> None:
    edit(table, lambda found: found.assign(label="1"))
    written = write_own_recipe(table, tmp_path / "new")
    recipe = load_recipe(written.recipe)
    assert recipe.dataset.columns.label == "label"
    assert len(prepare(recipe, tmp_path / "runs", Terminal()).cases) == ROWS


BAD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], tuple[object, ...]]] = {
    "no patient": (lambda found: found.drop(columns="Subject"), ("cases.csv", "patient", "Tumour Type")),
    "no masks": (lambda found: found.assign(reference="nowhere.png"), ("cases.csv", "path", "My Study")),
    "no classes": (lambda found: found[["path", "reference", "Subject", "age"]], ("cases.csv",)),
}


@pytest.mark.parametrize("what", BAD)
def test_a_table_that_does_not_say_enough_is_refused(table: Path, tmp_path: Path, what: str) -> None:
    change, named = BAD[what]
    edit(table, change)
    with raises_naming(DatasetError, *named):
        write_own_recipe(table, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def report(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(report=[f"A mass of kind {number}, oval and dark." for number in range(len(found))])


def test_a_column_of_sentences_is_offered_beside_classes(table: Path, tmp_path: Path) -> None:
    edit(table, report)
    written = write_own_recipe(table, tmp_path / "new")
    assert load_recipe(written.recipe).prompts.column is None
    (offered,) = [line.removeprefix("# ") for line in written.recipe.read_text().splitlines() if "class_column" in line]
    assert yaml.safe_load(offered) == {"prompts": {"column": "report", "class_column": "Tumour Type"}}


def test_a_column_of_sentences_stands_in_for_classes(table: Path, tmp_path: Path) -> None:
    edit(table, lambda found: report(found)[["path", "reference", "Subject", "report"]])
    written = write_own_recipe(table, tmp_path / "new")
    assert written.prompts is None
    recipe = load_recipe(written.recipe)
    assert (recipe.prompts.column, recipe.prompts.file) == ("report", None)
    prepared = prepare(recipe, tmp_path / "runs", Terminal())
    assert len({case.text_fields["text"] for case in prepared.cases}) == ROWS
    assert not any(case.text for case in prepared.cases)


def test_nothing_is_replaced(table: Path, tmp_path: Path) -> None:
    first: Written = write_own_recipe(table, tmp_path / "new")
    first.recipe.write_text("mine")
    with raises_naming(RecipeError, first.recipe):
        write_own_recipe(table, tmp_path / "new")
    assert first.recipe.read_text() == "mine"


def test_the_verb_writes_into_this_folder(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "init", "--table", str(table), "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code in (0, None)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["recipe"] == "my_study.yaml"
    assert (tmp_path / "my_study_prompts.yaml").is_file()
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "init"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
