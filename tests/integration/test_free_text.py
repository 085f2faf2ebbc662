"""Phantoms with a known text effect as a user's own table: free text and fields, verdicts and what must agree."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from text_phantoms import make_text_recipe, write_text_phantoms

from t2m_bench import load_results
from t2m_bench.pipeline.bench import bench
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.recipe.schema import Recipe
from t2m_bench.statistics.decision import Outcome
from t2m_bench.terminal import Terminal

CASES = 360
FREE = {"column": "report", "class_column": "birads", "paraphrase_column": "reworded"}
SUITE = {
    "optim": {"epochs": 6},
    "bench": {
        "arms": ["text_free", "hierarchical"],
        "conditions": ["right", "wrong", "other_patient", "paraphrase"],
        "boxes": ["tight"],
    },
}

pytestmark = pytest.mark.cluster


def run(recipe: Recipe, runs: Path) -> tuple[Any, dict[str, str]]:
    """Return the results of a suite, and about -> outcome of its verdicts."""
    suite = bench(recipe, runs, Terminal(), StopRequest())
    assert not suite.failures
    found = load_results(suite.experiment.folder)
    return found, {verdict["about"]: verdict["outcome"] for verdict in found.verdicts}


def find_main(results: pd.DataFrame, arm: str) -> pd.Series:
    """Return the Dice of an arm that reads no text, by image."""
    rows = results[(results["arm"] == arm) & (results["condition"] == "none") & (results["box"] == "tight")]
    return rows.set_index("case")["dice"].sort_index()


def test_a_report_that_tells_the_outline_helps_and_agrees_with_fields(tmp_path: Path) -> None:
    table = write_text_phantoms(tmp_path / "data", CASES, text_effect=1.0)
    free, verdicts = run(make_text_recipe(table, FREE, **SUITE), tmp_path / "runs")
    assert verdicts == {"help": Outcome.GAIN, "reliance": Outcome.GAIN, "paraphrase": Outcome.NO_DIFFERENCE}
    fields, verdicts = run(make_text_recipe(table, {"file": "birads"}, name="fields", **SUITE), tmp_path / "runs")
    assert verdicts["help"] == Outcome.GAIN  # reliance is withheld here: over 5 % of the patients hardly lose
    for arm in ("text_free", "baseline", "floor_ellipse", "floor_mean_mask"):
        pd.testing.assert_series_equal(find_main(free, arm), find_main(fields, arm))
    gains = [find_help(results) for results in (free, fields)]
    assert gains[0] == pytest.approx(gains[1], abs=0.02)


def test_a_report_that_tells_nothing_neither_helps_nor_costs(tmp_path: Path) -> None:
    table = write_text_phantoms(tmp_path / "data", CASES, text_effect=0.0)
    found, verdicts = run(make_text_recipe(table, FREE, **SUITE), tmp_path / "runs")
    assert verdicts["help"] != Outcome.GAIN
    assert abs(find_help(found)) < 0.03


def find_help(results: pd.DataFrame) -> float:
    """Return the mean Dice of right text less that of text_free, over images."""
    right = results[(results["arm"] == "hierarchical") & (results["condition"] == "right")]
    return float(right["dice"].mean() - find_main(results, "text_free").mean())
