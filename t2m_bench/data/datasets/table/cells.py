"""Reads the cells of a user's own table: numbers, boxes, labels, yes and no, and rows of CSV or Parquet as text."""

import math
import re
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet

from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.data.tables import Column, read_table, read_whole
from t2m_bench.errors import DatasetError, find_first_line

PARQUET = frozenset({".parquet", ".pq"})
UNSET = frozenset({"", "na", "n/a", "nan", UNKNOWN})
"""Cells, in small letters, of which nothing is known."""

YES, NO = frozenset({"yes", "y", "true", "t", "1", "x"}), frozenset({"no", "n", "false", "f", "0"}) | UNSET
SEPARATORS = re.compile(r"[\s,;x×\[\]()]+")


NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
"""A number as every reader of tables takes it; Python's own takes `1_0` for ten."""


class CellError(ValueError):
    """What a cell should be, as the end of a sentence."""


def load_rows(path: Path, columns: list[Column], way_out: str = "") -> pd.DataFrame:
    """Return a table's rows as text; the index is the row in a CSV file, or the record of a Parquet file, from 1.

    Raises:
        DatasetError: the file cannot be read, has no rows, or lacks a column.
    """
    if path.suffix.lower() in PARQUET:
        table = _read_parquet(path, columns, way_out)
    else:
        table = read_table(path, columns, way_out)
    if table.empty:
        raise DatasetError(f"{path}: has no rows.")
    return table


def _read_parquet(path: Path, columns: list[Column], way_out: str) -> pd.DataFrame:
    try:
        found = pyarrow.parquet.read_table(path)
        cells = {name: found.column(name).to_pylist() for name in found.column_names}
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as Parquet ({find_first_line(error)}).") from None
    absent = [column for column in columns if isinstance(column, str) and column not in cells]
    if absent:
        hint = f" {way_out}" if way_out else ""
        raise DatasetError(f"{path}: column {absent[0]} is missing; found {', '.join(cells) or 'nothing'}.{hint}")
    texts = {name: [_to_text(value) for value in values] for name, values in cells.items()}
    return pd.DataFrame(texts, index=range(1, found.num_rows + 1), dtype=str)


def _to_text(value: object) -> str:
    is_absent = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if is_absent else str(value).strip()


def is_unset(cell: str) -> bool:
    """Return whether a cell says nothing."""
    return cell.lower() in UNSET


def read_numbers(cell: str) -> list[float]:
    """Return the numbers of a cell such as `0.2`, `0.2 0.3`, `0.2x0.3` or `[1, 2, 8, 9]`.

    Raises:
        CellError: something else stands there.
    """
    parts = [part for part in SEPARATORS.split(cell) if part]
    if not all(NUMBER.fullmatch(part) for part in parts):
        raise CellError("numbers")
    numbers = [float(part) for part in parts]
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise CellError("numbers")
    return numbers


def read_spacing(cell: str) -> tuple[float, float]:
    """Return (row, column) spacing in mm of one number or two.

    Raises:
        CellError: there are others, or they are not above 0.
    """
    numbers = read_numbers(cell)
    if len(numbers) > 2 or min(numbers) <= 0:
        raise CellError("one spacing in mm above 0, or two (row, column)")
    return numbers[0], numbers[-1]


def read_box(cell: str) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1, half open.

    Raises:
        CellError: there are not four whole numbers in that order.
    """
    numbers = read_numbers(cell)
    if len(numbers) != 4 or any(number % 1 for number in numbers):
        raise CellError("four whole numbers x0, y0, x1, y1")
    x0, y0, x1, y1 = (int(number) for number in numbers)
    if x0 >= x1 or y0 >= y1:
        raise CellError("x0, y0, x1, y1 with x0 < x1 and y0 < y1 (half open, not a width and a height)")
    return x0, y0, x1, y1


def read_labels(cell: str) -> tuple[int, ...]:
    """Return the values of lesions in a mask file, each once.

    Raises:
        CellError: they are not whole numbers from 1.
    """
    labels = [read_whole(part) for part in SEPARATORS.split(cell) if part]
    if not labels or None in labels or 0 in labels or len(set(labels)) < len(labels):
        raise CellError("values of lesions in the mask file, whole numbers from 1, each once")
    return tuple(label for label in labels if label is not None)


def read_fold(cell: str) -> int:
    """Return a fold, from 1.

    Raises:
        CellError: it is no whole number from 1.
    """
    fold = read_whole(cell)
    if not fold:
        raise CellError("a whole number; folds are counted from 1")
    return fold


def read_yes(cell: str) -> bool:
    """Return whether a cell says yes.

    Raises:
        CellError: it says neither yes nor no.
    """
    word = cell.lower()
    if word not in YES | NO:
        raise CellError("yes or no (also true, false, 1, 0)")
    return word in YES
