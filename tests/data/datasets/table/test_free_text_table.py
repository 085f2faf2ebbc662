"""The column of free text of a user's own table: what is read, and what is refused."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from messages import raises_naming
from text_phantoms import make_text_recipe, write_text_phantoms

from t2m_bench.data.free_text import FreeTextBook, name_text
from t2m_bench.errors import DatasetError, RecipeError
from t2m_bench.pipeline.prepare import Prepared, prepare
from t2m_bench.recipe.schema import parse_recipe
from t2m_bench.terminal import Terminal

CASES = 30


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_phantoms(tmp_path_factory.mktemp("free") / "data", cases=CASES, text_effect=1.0)


def prepare_with(written: Path, runs: Path, prompts: dict[str, Any], **cells: Any) -> Prepared:
    """Prepare the table with some columns replaced."""
    path = written.parent / f"{runs.parent.name}.csv"
    pd.read_csv(written, dtype=str).assign(**cells).to_csv(path, index=False)
    return prepare(make_text_recipe(path, prompts), runs, Terminal())


def test_texts_are_known_by_their_hashes_and_empty_ones_as_unknown(written: Path, tmp_path: Path) -> None:
    said = ["  Oval \t mass. ", "Oval mass.", "", "n/a", *["Round mass."] * (CASES - 4)]
    prepared = prepare_with(written, tmp_path / "runs", {"column": "report"}, report=said)
    oval, around = name_text("Oval mass."), name_text("Round mass.")
    values = [case.text_fields["text"] for case in prepared.cases]
    assert values == [oval, oval, "unknown", "unknown", *[around] * (CASES - 4)]
    assert isinstance(prepared.free, FreeTextBook)
    assert dict(prepared.free.sentences_of) == {
        "unknown": "Not recorded.",
        oval: "Oval mass.",
        around: "Round mass.",
    }
    assert prepared.free.fields == ()
    assert prepared.audit.unknown_texts == 2
    assert prepared.audit.classes == {}


def test_classes_are_those_of_their_column(written: Path, tmp_path: Path) -> None:
    prompts = {"column": "report", "class_column": "birads"}
    prepared = prepare_with(written, tmp_path / "runs", prompts)
    assert prepared.free is not None
    assert prepared.free.fields == ("birads",)
    assert prepared.free.classes("birads") == ("2", "3", "4", "5")
    assert sum(sum(of_split.values()) for of_split in prepared.audit.classes.values()) == CASES


def test_masked_numbers_make_one_text_of_several(written: Path, tmp_path: Path) -> None:
    said = [f"A mass of {number + 3} mm." for number in range(CASES)]
    prompts = {"column": "report", "strip_numbers": True}
    prepared = prepare_with(written, tmp_path / "runs", prompts, report=said)
    assert {case.text_fields["text"] for case in prepared.cases} == {name_text("A mass of #.")}


def test_a_column_without_any_text_is_refused(written: Path, tmp_path: Path) -> None:
    with raises_naming(DatasetError, "prompts.column", "report"):
        prepare_with(written, tmp_path / "runs", {"column": "report"}, report="")


@pytest.mark.parametrize("role", ["column", "class_column", "paraphrase_column"])
def test_an_absent_column_is_named_with_its_role(written: Path, tmp_path: Path, role: str) -> None:
    with raises_naming(DatasetError, "gone", f"prompts.{role}"):
        prepare_with(written, tmp_path / "runs", {"column": "report"} | {role: "gone"})


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "two sources": ({"prompts": {"file": "birads", "column": "report"}}, ("prompts.file", "prompts.column")),
    "no source": ({"prompts": {"file": None}}, ("prompts.file", "prompts.column")),
    "a class of nothing": ({"prompts": {"class_column": "birads"}}, ("prompts.class_column", "prompts.column")),
    "one column twice": ({"prompts": {"column": "report", "class_column": "report"}}, ("report",)),
    "labels without classes": (
        {"prompts": {"column": "report"}, "bench": {"arms": ["text_free", "label"]}},
        ("label", "prompts.class_column"),
    ),
    "no table": ({"prompts": {"column": "report"}, "dataset": {"root": "data"}}, ("prompts.column", "dataset.table")),
}


@pytest.mark.parametrize("what", BAD)
def test_a_recipe_that_contradicts_itself_is_refused(what: str) -> None:
    raw, named = BAD[what]
    dataset = {"kind": "table", "root": "data", "table": "cases.csv"}
    with raises_naming(RecipeError, *named):
        parse_recipe({"name": "own", "dataset": dataset} | raw, "test")


def test_a_recipe_of_free_text_is_read_as_it_was_noted(written: Path) -> None:
    recipe = make_text_recipe(written, {"column": "report", "class_column": "birads"})
    assert parse_recipe(recipe.model_dump(mode="json"), "test") == recipe
    assert recipe.with_arm("label", 1).prompts == recipe.prompts
