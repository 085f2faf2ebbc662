"""The results table, where training and reporting meet: a row per case, arm, seed, fold, condition and box."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from t2m_bench.errors import RecipeError, RunFolderError, find_first_line
from t2m_bench.files import write_atomically
from t2m_bench.metrics.measures import EMPTINESS
from t2m_bench.recipe.conditions import NO_TEXT, find_condition
from t2m_bench.recipe.measures import DICE, INF, MEASURE_TABLE

RESULTS_NAME = "cases.parquet"

HEAD = {
    "case": "str",
    "patient": "str",
    "dataset": "str",
    "text_class": "str",
    "given_class": "str",
    "arm": "str",
    "seed": "int64",
    "fold": "int64",
    "condition": "str",
    "box": "str",
    "distance_unit": "str",
}
"""Name -> type of what identifies a row."""

MEANINGS = {
    "case": "pseudonym of the case",
    "patient": "pseudonym of the patient, the same for all of the patient's cases",
    "dataset": "`dataset.kind` of the recipe",
    "text_class": 'the case\'s own value of the text field; several are joined by " + "; for free text, the class',
    "given_class": "class of the text that was given, in the same form; empty if none was given",
    "arm": "the trained arm; or a floor or `baseline`, which are not trained",
    "seed": "seed of the training; -1 if nothing was trained",
    "fold": "test fold that the case belongs to",
    "condition": "which text was given: an entry of the table of conditions, such as `right`; `wrong:FIELD` or "
    "`swap:FIELD=CLASS` if only one field is changed; `paraphrase:NUMBER` for each held-out wording; `none` if the arm "
    "reads no text",
    "box": "`tight`, or changed by P per cent: `jitter_P` (each side moved, drawn once for each case), `loose_P` (each "
    "side moved outward), `shift_P` (moved as a whole)",
    "distance_unit": "unit of distances: `mm` if the spacing of pixels is known, else `px`",
}
"""Name -> meaning of what identifies a row, as the documentation gives it."""

KEY = ("case", "arm", "seed", "fold", "condition", "box")

UNTRAINED_SEED = -1

DAMAGED = (OSError, ValueError, TypeError, LookupError, NotImplementedError, MemoryError)
"""Exceptions that PyArrow raises for a damaged file, under its own names and Python's."""

COLUMN_PATTERNS = {"box": r"tight|(jitter|loose|shift)_\d+", "distance_unit": "px|mm", "condition": r"\w+(:.+)?"}
"""Forms of the values of these columns; a table that is written holds conditions of installed packages alone."""


def list_columns() -> dict[str, str]:
    """Return name -> type of every column: what identifies a row, then the measures, at original resolution.

    hd95, assd, box_diagonal: in `distance_unit`, px or mm.
    surface_dice: within 2 % of the box's diagonal, or 1 mm; surface_dice_1, surface_dice_5: within 1 and 5 % (px
        alone); surface_dice_2: within 2 mm (mm alone).
    area_error: (predicted - reference) / reference.
    NaN: undefined (precision of an empty prediction, say), or not measured for this condition and box; never dice and
        iou.

    Raises:
        RecipeError: another package names a measure as a column that is something else.
    """
    taken = [name for name in MEASURE_TABLE.names if name in HEAD or name in EMPTINESS]
    if taken:
        raise RecipeError(f"a package adds a measure {taken[0]}, the name of another column of results; uninstall it")
    measures = [entry.name for entry in MEASURE_TABLE]
    return {**HEAD, **dict.fromkeys(measures, "float64"), **dict.fromkeys(EMPTINESS, "bool")}


def list_optional() -> tuple[str, ...]:
    """Return the measures that a table may have no column of: it was written before they were added."""
    return tuple(entry.name for entry in MEASURE_TABLE if entry.name != DICE)


def list_foreign(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the measured columns that no installed package knows, in the table's order."""
    known = list_columns()
    numbers = table.select_dtypes("float64").columns
    return tuple(str(name) for name in numbers if name not in known)


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as Parquet by atomic rename.

    Raises:
        ValueError: a column is absent, a key stands twice, or a condition is of no installed package.
    """
    table = _check(pd.DataFrame(list(rows)), str(path), may_be_missing=())[list(list_columns())]
    foreign = [name for name in table["condition"].unique() if name != NO_TEXT and find_condition(name) is None]
    _refuse(table, "condition", table["condition"].isin(foreign), "is of no condition that is installed", str(path))
    with write_atomically(path) as partial:
        table.to_parquet(partial, index=False)


def load_results(path: Path) -> pd.DataFrame:
    """Read a results table; a measure that it has no column of is absent (NaN) in every row.

    Conditions and measures of packages that are not installed here are read as they are, their columns last.

    Raises:
        RunFolderError: the file is absent or not such a table; says what is wrong with it.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise RunFolderError(f"{path}: absent. Run `t2m-bench evaluate {path.parent}`.") from None
    except DAMAGED as error:
        raise RunFolderError(
            f"{path}: not a Parquet file ({find_first_line(error)}). Run `t2m-bench evaluate {path.parent}`."
        ) from None
    try:
        return _check(table, str(path), list_optional())
    except ValueError as error:
        raise RunFolderError(f"{error}. Run `t2m-bench evaluate {path.parent}`.") from None


def _check(table: pd.DataFrame, source: str, may_be_missing: Sequence[str]) -> pd.DataFrame:
    """Return the table with every column in its order; raises ValueError for what a table cannot hold."""
    columns = list_columns()
    lacking = [name for name in columns if name not in table.columns]
    required = [name for name in lacking if name not in may_be_missing]
    if required:
        raise ValueError(f"{source}: column {required[0]} is absent")
    for name in (name for name, kind in columns.items() if kind != "float64" and name not in lacking):
        _refuse(table, name, table[name].isna(), "is no value", source)
    columns |= dict.fromkeys(list_foreign(table), "float64")
    table = table.assign(**dict.fromkeys(lacking, float("nan")))
    try:
        table = table[list(columns)].astype(columns)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None
    repeated = table.duplicated(list(KEY))
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise ValueError(f"{source}: row {row} repeats {', '.join(KEY)} of an earlier one")
    for name, form in COLUMN_PATTERNS.items():
        foreign = [value for value in table[name].unique() if not re.fullmatch(form, value)]
        _refuse(table, name, table[name].isin(foreign), f"is not of the form {form}", source)
    for entry in (entry for entry in MEASURE_TABLE if entry.name not in lacking):
        values = table[entry.name]
        allowed = (values >= entry.low) & (values <= entry.high) & (values != INF)
        if not entry.is_always:
            allowed |= values.isna()
        _refuse(table, entry.name, ~allowed, f"is outside [{entry.low:g}, {entry.high:g}]", source)
    return table


def _refuse(table: pd.DataFrame, name: str, wrong: pd.Series, why: str, source: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise ValueError(f"{source}: row {row}: {name} = {table[name].iloc[row]} {why}")
