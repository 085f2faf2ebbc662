"""Lists the cells of the complete suite that an experiment was asked for, and those that are missing."""

from collections.abc import Iterable, Mapping
from typing import Any

from t2m_bench.reporting.arms import find_method
from t2m_bench.reporting.results import Results

PARTS = ("arms", "folds", "seeds")


def join_suites(suites: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return arms, folds and seeds of suites together, each once: an experiment may be enlarged command by command."""
    joined: dict[str, list[Any]] = {part: [] for part in PARTS}
    for suite in suites:
        for part, values in joined.items():
            values += [value for value in suite.get(part, ()) if value not in values]
    return joined


def find_suite(results: Results) -> dict[str, list[Any]]:
    """Return the suite as every `bench` noted it; of experiments without that note, what their recipes ask."""
    noted = results.experiment.get("suite")
    if noted:
        return join_suites([noted])
    recipes = [results.experiment["recipe"], *(run.summary.get("suite", {}) for run in results.runs)]
    joined = join_suites(recipe.get("bench", {}) for recipe in recipes)
    return joined | {"folds": joined["folds"] or list(results.folds)}


def list_asked_arms(results: Results) -> list[str]:
    """Return the arms that every `bench` of this experiment noted, finished or not; none where no `bench` did."""
    noted: list[str] = join_suites([results.experiment.get("suite") or {}])["arms"]
    return noted


def find_asked_method(results: Results) -> str | None:
    """Return the method's arm of the primary contrast: it was fixed when the suite was asked, not by what finished."""
    return find_method(list_asked_arms(results)) or find_method(results.arms)


def list_missing(results: Results) -> list[str]:
    """Return what a whole suite would have and these results have not."""
    suite = find_suite(results)
    first = suite["folds"][0] if suite["folds"] else 0
    there = {(run.arm, int(run.summary["seed"]), int(run.summary.get("fold", first))) for run in results.runs}
    cells = [(seed, fold) for fold in suite["folds"] for seed in suite["seeds"]]
    missing = []
    for arm in suite["arms"]:
        lacking = [f"fold {fold} seed {seed}" for seed, fold in cells if (arm, seed, fold) not in there]
        if lacking:
            shown = ", ".join(lacking[:4]) + (", ..." if len(lacking) > 4 else "")
            missing.append(f"{arm}: {len(lacking)} of {len(cells)} runs ({shown})")
    if results.unfinished:
        missing.append(f"begun and not finished: {', '.join(results.unfinished)}")
    return missing
