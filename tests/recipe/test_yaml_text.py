"""Numbers as one writes them today, in every file and override alike."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from messages import check_names, raises_naming

from t2m_bench.data.prompts import FOLDER, load_prompts
from t2m_bench.errors import RecipeError
from t2m_bench.recipe.schema import load_recipe
from t2m_bench.recipe.yaml_text import dump_yaml, parse_yaml
from t2m_bench.reporting.search import BEST_NAME, load_best_recipe
from t2m_bench.search.sweep import load_sweep

RECIPE = "name: trial\ndataset: {root: data}\noptim: {learning_rate: 1e-4}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("1e-4", 1e-4),
            ("1E5", 1e5),
            ("1.5e3", 1500.0),
            ("-2e+1", -20.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e400", float("inf")),
        ],
        *[("0", 0), ("10", 10), ("1000", 1000), ("0x10", 16), ("0o17", 15), ("-3", -3), ("+4", 4), ("00.5", 0.5)],
        *[
            ('"1:30"', "1:30"),
            ("'010'", "010"),
            ("1:x", "1:x"),
            ("1_x", "1_x"),
            ("e5", "e5"),
            ("1e", "1e"),
            ("v1e5", "v1e5"),
            ("1.2.3", "1.2.3"),
            ('"1e-4"', "1e-4"),
        ],
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["2026-13-45", "!!int x", "!!bool x", "!!set [1]", "[" * 1500, "9" * 5000, "a: 1\nb: 2\na: 3"]
)
def test_every_fault_of_a_text_is_one_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with raises_naming(RecipeError, path):
        load_recipe(path)


UNCLEAR = {
    "010": (8, 10), "08": (8,), "-007": (-7,), "00": (0,), "1_0": (10,), "1_0.5": (10.5,), "1:30": (90,),
    "1:30.5": (90.5,), "0b11": (3,), "-0x10": (-16,), "0x1_0": (16,),
}  # fmt: skip


@pytest.mark.parametrize("text", UNCLEAR)
def test_a_number_that_versions_of_yaml_read_otherwise_is_refused_by_field(text: str, tmp_path: Path) -> None:
    recipe, sweep = tmp_path / "recipe.yaml", tmp_path / "sweep.yaml"
    recipe.write_text(f"{RECIPE}bench: {{seeds: [0, {text}]}}\n")
    with raises_naming(RecipeError, recipe, "bench.seeds.1", text, "line 4", *UNCLEAR[text]):
        load_recipe(recipe)
    recipe.write_text(RECIPE)
    for override in (f"optim.epochs={text}", f"optim={{epochs: {text}}}"):
        with raises_naming(RecipeError, "optim.epochs", text, *UNCLEAR[text]):
            load_recipe(recipe, [override])
    with raises_naming(RecipeError, "bench.seeds", text, *UNCLEAR[text]):
        load_recipe(recipe, [f"bench.seeds=0,{text}"])
    sweep.write_text(f"name: s\nrecipe: recipe.yaml\nspace:\n  optim.weight_decay: {{low: {text}, high: 100.0}}\n")
    with raises_naming(RecipeError, sweep, "space.optim.weight_decay.low", text, "line 4", *UNCLEAR[text]):
        load_sweep(sweep)
    book = tmp_path / "own.yaml"
    book.write_text(f"fields: {{stage: {{classes: {{{text}: {{}}}}}}}}\n")
    with raises_naming(RecipeError, book, f"fields.stage.classes.{text}", text):
        load_prompts(str(book), "category")


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        *[("optim.epochs", "'10'", "10"), ("optim.epochs", "yes", "True"), ("optim.learning_rate", "1_0e-3", "1_0e-3")],
        *[("optim.epochs", "many", "many")],
        *[("bench.seeds", "['1']", "1"), ("bench.seeds", "[true]", "True"), ("bench.seeds", "[0, no]", "False")],
        *[("dataset.strict", "1", "1"), ("dataset.strict", "'yes'", "yes"), ("dataset.strict", "0.0", "0.0")],
        *[("prompts.file", "yes", "True"), ("text_encoder.pooling", "no", "False"), ("dataset.root", "on", "True")],
    ],
)
def test_a_value_of_another_type_is_not_turned_into_the_field_s(
    field: str, value: str, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    with raises_naming(RecipeError, field, found):
        load_recipe(path, [f"{field}={value}"])


def test_words_for_truth_are_read_where_truth_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    for word, meant in {"yes": True, "on": True, "true": True, "no": False, "off": False}.items():
        assert load_recipe(path, [f"dataset.strict={word}"]).dataset.strict is meant


HALF = "a\ud800"
"""A text with half a character, which no UTF-8 holds; YAML and JSON write it as an escape."""


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *[({"name": HALF}, "name"), ({"image_encoder": {"preset": HALF}}, "image_encoder.preset")],
        *[({"bench": {"seeds": [0, HALF]}}, "bench.seeds.1"), ({"prompts": {HALF: 1}}, r"prompts.a\ud800")],
        ({"text_encoder": {"name": HALF}}, "text_encoder.name"),
        ({"dataset": {"root": "data", "columns": {"text": {"stage": HALF}}}}, "dataset.columns.text.stage"),
    ],
)
def test_half_a_character_is_refused_by_field(change: dict[str, Any], field: str, tmp_path: Path) -> None:
    recipe, sweep = tmp_path / "recipe.yaml", tmp_path / "sweep.yaml"
    raw = {"name": "trial", "dataset": {"root": "data"}}
    recipe.write_text(json.dumps(raw | change))
    with raises_naming(RecipeError, recipe, field):
        load_recipe(recipe)
    recipe.write_text(json.dumps(raw))
    override = "=".join((*change, json.dumps(*change.values())))
    with raises_naming(RecipeError, field):
        load_recipe(recipe, [override])
    searched = {"name": "s", "recipe": "recipe.yaml", "space": {"optim.weight_decay": {"low": 0.0, "high": 1.0}}}
    sweep.write_text(json.dumps(searched | {"overrides": [override]}))
    with raises_naming(RecipeError, field):
        load_sweep(sweep)
    sweep.write_text(json.dumps(searched | {"space": {"adapter.kind": {"choices": ["gated", HALF]}}}))
    with raises_naming(RecipeError, sweep, "space.adapter.kind.choices.1"):
        load_sweep(sweep)


@pytest.mark.parametrize("override", ["image_encoder.preset=\ud800", "\udcff=1", "optim.\udcff=1", "name=a\udcfc"])
def test_half_a_character_on_the_command_line_is_refused(override: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [override])
    str(caught.value).encode()


def test_half_a_character_in_a_prompt_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text((FOLDER / "birads.yaml").read_text() + f"note: {json.dumps(HALF)}\n")
    with raises_naming(RecipeError, path, "note"):
        load_prompts(str(path), "category")


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{RECIPE}optim: {{epochs: 3}}\n")
    with raises_naming(RecipeError, path, "optim", "line 4"):
        load_recipe(path)


def test_a_number_without_a_point_is_one_in_recipes_overrides_and_sweeps(tmp_path: Path) -> None:
    recipe, sweep = tmp_path / "recipe.yaml", tmp_path / "sweep.yaml"
    recipe.write_text(RECIPE)
    assert load_recipe(recipe).optim.learning_rate == 1e-4
    assert load_recipe(recipe, ["optim.learning_rate=3e-5"]).optim.learning_rate == 3e-5
    sweep.write_text(
        "name: s\nrecipe: recipe.yaml\ntrials: 2\nspace:\n  optim.learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
        "  optim.weight_decay: {choices: [0, 1e-3]}\n"
    )
    space = load_sweep(sweep).sweep.space
    assert (space["optim.learning_rate"].low, space["optim.learning_rate"].high) == (1e-4, 1e-2)
    assert space["optim.weight_decay"].choices == (0, 1e-3)
    for override, choices in (("[1e-4, 2e-4]", (1e-4, 2e-4)), ("5e-1,1e-1", (0.5, 0.1))):
        asked = ["sweep.space.optim.weight_decay.choices=" + override, "sweep.space.optim.learning_rate.low=2e-4"]
        space = load_sweep(sweep, asked).sweep.space
        assert space["optim.weight_decay"].choices == choices
        assert space["optim.learning_rate"].low == 2e-4
    with raises_naming(RecipeError, "space.optim.weight_decay", "[0.0001, 0.0001]"):  # one value, written in two ways
        load_sweep(sweep, ["sweep.space.optim.weight_decay.choices=[1e-4, 0.0001]"])


def test_prompts_and_a_winning_recipe_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / BEST_NAME).write_text(RECIPE)
    assert load_best_recipe(tmp_path)["optim"] == {"learning_rate": 1e-4}
    path = tmp_path / "own.yaml"
    path.write_text((FOLDER / "birads.yaml").read_text() + "fields: {}\n")
    with raises_naming(RecipeError, path, "fields"):
        load_prompts(str(path), "category")
    path.write_text("fields: 2026-13-45\n")
    with pytest.raises(RecipeError) as caught:
        load_prompts(str(path), "category")
    check_names(caught.value, path)


@pytest.mark.parametrize(
    "value",
    ["1e5", "08", "010", "0o17", "0b11", "1_000", "1:30", "1.", ".5", "yes", "~", "", "a: b", 1e-4, 10, None, True],
)
def test_what_is_written_is_read_again(value: object) -> None:
    assert parse_yaml(dump_yaml({"name": value, "list": [value]})) == {"name": value, "list": [value]}
