"""Numbers as one writes them today, in every file and override alike."""

from pathlib import Path

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
        *[("010", 10), ("08", 8), ("1_000", 1000), ("0x10", 16), ("0o17", 15), ("-3", -3), ("+4", 4)],
        *[("1:30", "1:30"), ("e5", "e5"), ("1e", "1e"), ("v1e5", "v1e5"), ("1.2.3", "1.2.3"), ('"1e-4"', "1e-4")],
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
    "value", ["1e5", "08", "0o17", "1_000", "1.", ".5", "yes", "~", "", "a: b", 1e-4, 10, None, True]
)
def test_what_is_written_is_read_again(value: object) -> None:
    assert parse_yaml(dump_yaml({"name": value, "list": [value]})) == {"name": value, "list": [value]}
