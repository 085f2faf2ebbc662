"""Checks what must hold before any number is computed: complete cells, one recipe, no identifiers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from t2m_bench.commit import NO_COMMIT
from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.results import KEY
from t2m_bench.recipe.schema import UNDECIDING
from t2m_bench.reporting.arms import FLOORS, TEXT_CONDITION, TEXTLESS_CONDITION

CELL = ["arm", "seed", "fold", "condition", "box"]

ASKED_OF_ALL = (TEXTLESS_CONDITION, TEXT_CONDITION)
"""Conditions that every case of the fold has; others leave out cases without a class."""

ARM_SETTINGS = ("seed", "bench", "cluster")
"""Keys in which runs of one arm may differ."""

RUN_SETTINGS = (*ARM_SETTINGS, "adapter")
"""Keys in which runs of one experiment may differ."""

NOT_COMPARED = (*UNDECIDING, "dataset.test_fold")
"""Fields that runs of one experiment may have otherwise: where things lie, and the fold."""

TUNED = ("optim", "loss", "prompts")
"""Sections that a differently tuned arm may have of its own."""


def check_table(folder: Path, table: pd.DataFrame) -> None:
    """Refuse a table in which a case is missing or stands twice, or a name is no pseudonym.

    Raises:
        RunFolderError: names the run, the cell and a case.
    """
    for column in ("case", "patient"):
        names = table[column].drop_duplicates()
        foreign = names[~names.str.fullmatch(rf"{column}-[0-9a-f]+")]
        if len(foreign):
            raise RunFolderError(
                f"{folder}: {len(foreign)} values of the column {column} are not pseudonyms, and a report would show "
                "them. "
                "Evaluate the runs again."
            )
    twice = table.duplicated(list(KEY), keep=False)
    if twice.any():
        first = table[twice].iloc[0]
        same = table[(table[list(KEY)] == first[list(KEY)]).all(axis=1)]
        raise RunFolderError(
            f"{folder}: {_name_cell(first)}, {first['case']} stands in {' and in '.join(sorted(set(same['run'])))}. "
            "Remove the run that you do not want."
        )
    for (_, condition, box), rows in table.groupby(["fold", "condition", "box"]):
        _check_cells(folder, rows, table, condition in ASKED_OF_ALL and box == "tight")


def check_counts(folder: Path, table: pd.DataFrame, audits: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a test fold with other than as many cases as its audit counted: one that no table has is seen so alone.

    Raises:
        RunFolderError: names the fold and both counts.
    """
    there = table.groupby("fold")["case"].nunique()
    for fold, audit in audits.items():
        wanted = audit["cases"].get("test")
        found = int(there.get(int(fold), 0)) if fold else 0
        if found and wanted is not None and found != wanted:
            raise RunFolderError(
                f"{folder}: fold {fold} has results of {found} cases, and its audit counted {wanted} test cases. "
                "Evaluate the fold's runs again, and remove its reference folder first."
            )


def _check_cells(folder: Path, rows: pd.DataFrame, table: pd.DataFrame, is_for_all: bool) -> None:
    compared = table[table["fold"] == rows["fold"].iloc[0]] if is_for_all else rows[~rows["arm"].isin(FLOORS)]
    wanted = set(compared["case"].unique())
    for _, cell in (rows if is_for_all else compared).groupby(CELL):
        lacking = sorted(wanted - set(cell["case"]))
        if lacking:
            run = cell["run"].iloc[0]
            raise RunFolderError(
                f"{folder / run}: {_name_cell(cell.iloc[0])} has no results for {len(lacking)} of {len(wanted)} cases "
                f"({lacking[0]}). "
                f"Run `t2m-bench evaluate {folder / run}`."
            )


def _name_cell(row: pd.Series) -> str:
    return ", ".join(f"{name} {row[name]}" for name in CELL)


def check_runs(folder: Path, recipe: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse runs whose recipes differ in more than the adapter, unless they say that they are differently tuned.

    The runs of one arm differ in nothing but seed and fold: an arm's mean over two adapters would be of neither.

    Raises:
        RunFolderError: names the run and the field.
    """
    for name, summary in summaries.items():
        if "recipe" not in summary:
            continue
        own = (*RUN_SETTINGS, *TUNED) if summary.get("differently_tuned") else RUN_SETTINGS
        differing = _find_difference(summary["recipe"], recipe, own)
        if differing:
            raise RunFolderError(
                f"{folder / name}: its recipe has {differing[0]}, the experiment's {differing[1]}; runs of one table "
                "must share a recipe. Remove the run, or say differently_tuned in the recipe."
            )
    first_of: dict[str, str] = {}
    for name, summary in summaries.items():
        if "recipe" in summary:
            first = first_of.setdefault(summary["arm"], name)
            _check_same_arm(folder, (first, summaries[first]["recipe"]), (name, summary["recipe"]), summary["arm"])


def check_commits(folder: Path, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse runs that were trained by two commits of the code, of which one may compute something else.

    Raises:
        RunFolderError: names a run of each and both commits.
    """
    first_of: dict[str, str] = {}
    for name, summary in summaries.items():
        first_of.setdefault(summary.get("commit", NO_COMMIT), name)
    if len(first_of) > 1:
        (one, run), (other, other_run), *_ = first_of.items()
        raise RunFolderError(
            f"{folder}: runs of {len(first_of)} commits: {run} of {one}, {other_run} of {other}. Train them with one, "
            "or report them together with --mixed, which says so."
        )


def _check_same_arm(
    folder: Path, one: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]], arm: str
) -> None:
    differing = _find_difference(other[1], one[1], ARM_SETTINGS)
    if differing:
        raise RunFolderError(
            f"{folder / other[0]}: {differing[0]}, and {one[0]} of the same arm {arm} has {differing[1]}; runs of one "
            "arm must share a recipe. Remove the run that you do not want, or give it an arm of its own."
        )


def _find_difference(one: Mapping[str, Any], other: Mapping[str, Any], own: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the first field in which two recipes differ as ("field = value", the other's value); `own` may differ.

    A field that only one of them names came later than the other.
    """
    found, wanted = ({name: part for name, part in recipe.items() if name not in own} for recipe in (one, other))
    return next(iter(sorted(_list_differences(found, wanted))), None)


def _list_differences(one: Mapping[str, Any], other: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, str]]:
    for key in one.keys() & other.keys():
        field, found, wanted = f"{section}{key}", one[key], other[key]
        if isinstance(found, dict) and isinstance(wanted, dict):
            yield from _list_differences(found, wanted, f"{field}.")
        elif found != wanted and field not in NOT_COMPARED:
            yield f"{field} = {json.dumps(found)}", json.dumps(wanted)
