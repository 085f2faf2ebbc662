"""The results table, where training and reporting meet: a row per case, arm, seed, fold, condition and box."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from t2m_bench.errors import RunFolderError, find_first_line
from t2m_bench.files import write_atomically
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.measures import INF, MEASURE_TABLE

RESULTS_NAME = "cases.parquet"

COLUMNS = {
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
    **dict.fromkeys(MEASURE_TABLE.names, "float64"),
    "pred_empty": "bool",
    "ref_empty": "bool",
}
"""Name -> type; from `dice` on they are measured, at original resolution.

case, patient: pseudonyms.
text_class, given_class: the case's own value of the text field, and the given text's, empty where none was given;
    several fields are joined by " + ".
seed: -1 where nothing was trained. fold: the test fold of the row.
condition: `none` (no text is read), `right`, `wrong` (the published map), `wrong:FIELD` (in one field alone),
    `swap:FIELD=CLASS`, `other_patient` (a text of another class), `paraphrase` (held out), `unknown`, `random` (a
    vector of equal norm), `predicted` (the class that a probe of the image predicts).
box: `tight`, or changed by P per cent: `jitter_P` (each side moved, drawn once a case), `loose_P` (each side outward),
    `shift_P`.
hd95, assd, box_diagonal: in `distance_unit`, px or mm.
surface_dice: within 2 % of the box's diagonal, or 1 mm; surface_dice_1, surface_dice_5: within 1 and 5 % (px alone);
    surface_dice_2: within 2 mm (mm alone).
area_error: (predicted - reference) / reference.
NaN: undefined (precision of an empty prediction, say), or not measured for this condition and box; never dice and iou.
"""

KEY = ("case", "arm", "seed", "fold", "condition", "box")

UNTRAINED_SEED = -1

FORMS = {
    "condition": "|".join(["none", *(entry.pattern or re.escape(entry.name) for entry in CONDITIONS)]),
    "box": r"tight|(jitter|loose|shift)_\d+",
    "distance_unit": "px|mm",
}
"""What these columns may hold."""

RANGES = {entry.name: (entry.low, entry.high) for entry in MEASURE_TABLE}
ALWAYS_MEASURED = tuple(entry.name for entry in MEASURE_TABLE if entry.is_always)

MAY_BE_MISSING = tuple(name for name, kind in COLUMNS.items() if kind == "float64" and name not in ALWAYS_MEASURED)
"""Measures that a table may have no column of: it was written before they were added."""


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as Parquet by atomic rename.

    Raises:
        ValueError: a column is missing or a key stands twice.
    """
    table = _check(pd.DataFrame(list(rows)), str(path), may_be_missing=())
    with write_atomically(path) as partial:
        table.to_parquet(partial, index=False)


def load_results(path: Path) -> pd.DataFrame:
    """Read a results table; a measure that it has no column of is missing (NaN) in every row.

    Raises:
        RunFolderError: the file is absent or not such a table; says what is wrong with it.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise RunFolderError(f"{path}: absent. Run `t2m-bench evaluate {path.parent}`.") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{path}: not a Parquet file ({find_first_line(error)}). Run `t2m-bench evaluate {path.parent}`."
        ) from None
    try:
        return _check(table, str(path), MAY_BE_MISSING)
    except ValueError as error:
        raise RunFolderError(f"{error}. Run `t2m-bench evaluate {path.parent}`.") from None


def _check(table: pd.DataFrame, source: str, may_be_missing: Sequence[str]) -> pd.DataFrame:
    lacking = [name for name in COLUMNS if name not in table.columns]
    required = [name for name in lacking if name not in may_be_missing]
    if required:
        raise ValueError(f"{source}: column {required[0]} is absent")
    table = table.assign(**dict.fromkeys(lacking, float("nan")))
    try:
        table = table[list(COLUMNS)].astype(COLUMNS)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None
    repeated = table.duplicated(list(KEY))
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise ValueError(f"{source}: row {row} repeats {', '.join(KEY)} of an earlier one")
    for name, form in FORMS.items():
        foreign = [value for value in table[name].unique() if not re.fullmatch(form, value)]
        _refuse(table, name, table[name].isin(foreign), f"is not of the form {form}", source)
    for name, (low, high) in RANGES.items():
        allowed = (table[name] >= low) & (table[name] <= high) & (table[name] != INF)
        if name not in ALWAYS_MEASURED:
            allowed |= table[name].isna()
        _refuse(table, name, ~allowed, f"is outside [{low:g}, {high:g}]", source)
    return table


def _refuse(table: pd.DataFrame, name: str, wrong: pd.Series, why: str, source: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise ValueError(f"{source}: row {row}: {name} = {table[name].iloc[row]} {why}")
