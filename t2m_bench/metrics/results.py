"""The results table, where training and reporting meet: a row per case, arm, seed, fold, condition and box."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from t2m_bench.errors import RunFolderError

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
    "dice": "float64",
    "iou": "float64",
    "pred_empty": "bool",
    "ref_empty": "bool",
}
"""Name -> type. `case` and `patient` are pseudonyms; `given_class` is empty where no text was given; `seed` is -1 where
nothing was trained; `condition` is right, wrong or none; `dice` and `iou` are in [0, 1] at original resolution."""

KEY = ("case", "arm", "seed", "fold", "condition", "box")

UNTRAINED_SEED = -1


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as Parquet by atomic rename.

    Raises:
        ValueError: a column is missing or a key stands twice.
    """
    table = _check(pd.DataFrame(list(rows)), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    table.to_parquet(partial, index=False)
    os.replace(partial, path)


def load_results(path: Path) -> pd.DataFrame:
    """Read a results table.

    Raises:
        RunFolderError: the file is absent or not such a table; says what is wrong with it.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise RunFolderError(f"{path}: absent. Run `t2m-bench evaluate {path.parent}`.") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(
            f"{path}: not a Parquet file ({reason}). Run `t2m-bench evaluate {path.parent}`."
        ) from None
    try:
        return _check(table, str(path))
    except ValueError as error:
        raise RunFolderError(f"{error}. Run `t2m-bench evaluate {path.parent}`.") from None


def _check(table: pd.DataFrame, source: str) -> pd.DataFrame:
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise ValueError(f"{source}: column {lacking[0]} is absent")
    try:
        table = table[list(COLUMNS)].astype(COLUMNS)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None
    repeated = table.duplicated(list(KEY))
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise ValueError(f"{source}: row {row} repeats {', '.join(KEY)} of an earlier one")
    for name in ("dice", "iou"):
        outside = ~table[name].between(0.0, 1.0)
        if outside.any():
            row = int(outside.to_numpy().argmax())
            raise ValueError(f"{source}: row {row}: {name} = {table[name].iloc[row]} is outside [0, 1]")
    return table
