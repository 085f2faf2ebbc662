"""Recipes and sweep files that nobody would write: each is read, or refused with one message, and in bounded time."""

import re
import sys
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from t2m_bench.cli import main
from t2m_bench.errors import UserError
from t2m_bench.recipe.schema import Recipe, load_recipe, parse_recipe
from t2m_bench.recipe.typed_yaml import list_fields
from t2m_bench.search.axes import find_idle_axes
from t2m_bench.search.sweep import Sweep, load_sweep

SECONDS, SOAK_SECONDS = 10.0, 300.0
SLOW_SECONDS = 20.0
"""Seconds after which one file counts as hanging."""

RECIPE: dict[str, Any] = {"name": "trial", "dataset": {"root": "data"}, "text_encoder": {"name": "stand-in"}}
SWEEP: dict[str, Any] = {
    "name": "s",
    "recipe": "recipe.yaml",
    "trials": 2,
    "space": {
        "optim.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "adapter.kind": {"choices": ["gated", "label"]},
    },
}

OF_RECIPES = ("gated", "text_free", "tight", "loose_20", "jitter_0", "shift_101", "right", "zero1", "optim.epochs=3")
ODD = ("", "~", "~x", "./~", "a,b", "1e-4", "010", "true", ".nan", "None", "../..", "{", "*a", "[1, 2]", "s3://x", "=")
WORDS = st.sampled_from([*OF_RECIPES, *ODD, "\x00", "\ud800", "é" * 300])
OF_AXES = ("low", "high", "choices", "when", "step", "integer", "log", "fine", "kind")
ODD_NUMBERS = (-1, 7, 100, 2**31, 2**63, 10**30, 0.5, 1.0, -0.0, 1e-320, 1e308, float("inf"), float("nan"))
NUMBERS = st.one_of(st.sampled_from(ODD_NUMBERS), st.integers(-3, 12), st.floats(0, 2))
SCALARS = st.one_of(NUMBERS, WORDS, st.booleans(), st.none(), st.dates())
KEYS = st.one_of(WORDS, st.sampled_from(OF_AXES), st.integers(0, 3))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


def list_paths(model: Any, location: tuple[str, ...] = ()) -> list[str]:
    """Return the dotted names of all fields of a file, sections too."""
    found = []
    for name in list_fields(model, location):
        found.append(".".join((*location, name)))
        found += list_paths(model, (*location, name))
    return found


CHANGES = st.lists(st.tuples(st.sampled_from(list_paths(Recipe)), VALUES), min_size=1, max_size=4)
SWEEP_PATHS = [*list_paths(Sweep), *[f"space.{name}" for name in list_paths(Recipe)]]
SWEEP_CHANGES = st.lists(st.tuples(st.sampled_from(SWEEP_PATHS), VALUES), min_size=1, max_size=4)


def change(raw: Any, changes: list[tuple[str, Any]]) -> dict[str, Any]:
    changed: dict[str, Any] = yaml.safe_load(yaml.safe_dump(raw))
    for dotted, value in changes:
        *parents, leaf = dotted.split(".") if not dotted.startswith("space.") else ("space", dotted[6:])
        place = changed
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[leaf] = value
    return changed


def write(path: Path, content: Any) -> None:
    try:
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    except (yaml.YAMLError, ValueError):
        hypothesis.reject()


def read(load: Callable[[], object]) -> None:
    """Read a file, or take its refusal; anything else that is raised fails the test."""
    start = time.monotonic()
    try:
        load()
    except UserError as error:
        said = str(error)
        assert said.strip()
    assert time.monotonic() - start < SLOW_SECONDS


def fuzz(check: Callable[..., None], *strategies: st.SearchStrategy[Any], seconds: float) -> None:
    """Run a check on many examples until the time is over; hypothesis prints the seed and the smallest failing one."""
    end = time.monotonic() + seconds
    seed = 0
    while time.monotonic() < end:
        settings = hypothesis.settings(
            max_examples=200, database=None, print_blob=True, suppress_health_check=list(hypothesis.HealthCheck)
        )

        def bounded(arguments: tuple[Any, ...]) -> None:
            if time.monotonic() < end:
                check(*arguments)

        print(f"seed {seed}")
        hypothesis.seed(seed)(settings(hypothesis.given(st.tuples(*strategies))(bounded)))()
        seed += 1


BUDGETS = [pytest.param(SECONDS / 5, id="short"), pytest.param(SOAK_SECONDS / 5, id="long", marks=pytest.mark.soak)]


@pytest.mark.parametrize("seconds", BUDGETS)
def test_recipes(seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"

    def check(changes: list[tuple[str, Any]]) -> None:
        write(path, change(RECIPE, changes))

        def load() -> None:
            recipe = load_recipe(path)
            assert parse_recipe(recipe.model_dump(mode="json"), "again").compute_run_hash() == recipe.compute_run_hash()

        read(load)

    fuzz(check, CHANGES, seconds=seconds)


@pytest.mark.parametrize("seconds", BUDGETS)
def test_overrides(seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write(path, RECIPE)
    texts = st.one_of(st.text(max_size=12), WORDS, NUMBERS.map(str), VALUES.map(repr))
    fields = st.one_of(st.sampled_from(list_paths(Recipe)), st.text(max_size=8))

    def check(field: str, text: str, separator: str) -> None:
        read(lambda: load_recipe(path, [f"{field}{separator}{text}"]))

    fuzz(check, fields, texts, st.sampled_from(["=", "=", "=", "", "=="]), seconds=seconds)


SPELLED = st.one_of(
    st.from_regex(r"[-+]?[0-9.][0-9_:.]{0,4}([eE][-+]?[0-9]{0,2})?", fullmatch=True),
    st.from_regex(r"[-+]?0[box]?[0-9a-f_]{1,3}", fullmatch=True),
    st.sampled_from(
        ["yes", "no", "on", "Off", "true", "True", "null", "~", "''", "'3'", '"0.5"', "!!int '3'", "!!str 3"]
    ),
    st.sampled_from(
        ["!!float 3", "!!int 010", "!!int '1_0'", "!!float '1:30'", "!!bool yes", "[3]", "{3: 3}", "3 # x"]
    ),
)
"""Values as somebody may write them, of which YAML 1.1 and 1.2 make different things."""

OF_RECIPE: dict[str, type] = {
    "optim.epochs": int, "seed": int, "optim.learning_rate": float, "loss.bce_weight": float, "dataset.strict": bool,
}  # fmt: skip
PLAIN = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+")


@pytest.mark.parametrize("seconds", BUDGETS)
def test_values_beside_libyaml(seconds: float, tmp_path: Path) -> None:
    """What libyaml does not take for a value of the field's own type is refused; what both take is equal.

    Taken all the same: numbers that only YAML 1.2 has (`1e-4`, `0o17`), which is the YAML of recipes, and 3.0 for 3.
    """
    path = tmp_path / "recipe.yaml"

    def check(field: str, text: str, is_override: bool) -> None:
        write(path, RECIPE)
        section, _, leaf = field.rpartition(".")
        if not is_override:
            raw = {**RECIPE, **({} if not section else {section: dict(RECIPE.get(section, {}))})}
            (raw[section] if section else raw)[leaf] = "VALUE"
            path.write_text(yaml.safe_dump(raw).replace("VALUE", text))
        try:
            recipe = load_recipe(path, [f"{field}={text}"] if is_override else ())
        except UserError:
            return
        taken = reduce(getattr, field.split("."), recipe)
        theirs = yaml.load(text, yaml.CSafeLoader)
        kind = OF_RECIPE[field]
        if isinstance(theirs, str) and PLAIN.fullmatch(text):
            theirs = int(text, 8) if text.startswith("0o") else float(text)
        if kind is int and isinstance(theirs, float):
            assert theirs.is_integer(), text
            theirs = int(theirs)
        assert type(theirs) is kind or (kind is float and type(theirs) is int), f"{field}: {text} was taken as {taken}"
        assert taken == theirs, f"{field}: {text}"

    fuzz(check, st.sampled_from(sorted(OF_RECIPE)), SPELLED, st.booleans(), seconds=seconds)


@pytest.mark.parametrize("seconds", BUDGETS)
def test_sweeps(seconds: float, tmp_path: Path) -> None:
    write(tmp_path / "recipe.yaml", RECIPE)
    path = tmp_path / "sweep.yaml"

    def check(changes: list[tuple[str, Any]]) -> None:
        write(path, change(SWEEP, changes))

        def load() -> None:
            loaded = load_sweep(path)
            find_idle_axes(loaded.sweep, loaded.recipe)

        read(load)

    fuzz(check, SWEEP_CHANGES, seconds=seconds)


@pytest.mark.parametrize("seconds", BUDGETS)
def test_bytes(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with 0 or 2, without a traceback, whatever a file holds."""
    path = tmp_path / "recipe.yaml"
    lines = st.one_of(
        st.text(max_size=20), st.sampled_from([*yaml.safe_dump(RECIPE).splitlines(), "&a [*a]", "<<: *a", "? x", "- -"])
    )
    contents = st.one_of(
        st.binary(max_size=40),
        st.lists(lines, max_size=6).map(lambda found: "\n".join(found).encode("utf-8", "replace")),
    )
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "recipe", str(path)])

    def check(content: bytes) -> None:
        path.write_bytes(content)
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code  # type: ignore[assignment]  # ours are numbers
        assert code in (0, 2)
        assert "Traceback" not in capsys.readouterr().err

    fuzz(check, contents, seconds=seconds)


def test_the_paths_are_those_of_whole_files() -> None:
    assert "adapter.fine.heads" in list_paths(Recipe)
    assert {"space", "sampler.kind"} <= set(list_paths(Sweep))
