"""Turns a user's own table into rows that are checked before any image is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeVar

import pandas as pd

from t2m_bench.data.datasets.table.cells import (
    CellError,
    is_unset,
    load_rows,
    read_box,
    read_fold,
    read_labels,
    read_spacing,
    read_yes,
)
from t2m_bench.data.datasets.table.places import Place, PlaceError, parse_place
from t2m_bench.data.free_text import TEXT, mask_numbers, name_class_field, name_text, normalise
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.data.tables import check_unique, find_patient_problem, trim_whole
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.schema import ColumnsSection, DatasetSection, PromptsSection

RENAME = "Give the table that column, or name yours in the recipe: dataset.columns.{}."

LONGEST_CELL = 40
"""Characters of a cell of numbers that a message repeats; cells with letters may be about a patient."""

MOST_GROUPS = 20
"""Groups of a stratum."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class Row:
    """One row: one image with its mask, and one lesion or several.

    Attributes:
        number: in the table. case: its name in the table, empty where it has none.
        fold, spacing_mm, box_xyxy: None where the table gives none. labels: empty where the mask has two values.
        text, paraphrase: free text, normalised; empty where the table has none.
    """

    number: int
    image: Place
    mask: Place
    patient_id: str
    case: str
    fold: int | None
    spacing_mm: tuple[float, float] | None
    box_xyxy: tuple[int, int, int, int] | None
    labels: tuple[int, ...]
    text_fields: dict[str, str]
    strata: dict[str, str]
    text: str = ""
    paraphrase: str = ""


def find_table(dataset: DatasetSection) -> Path:
    """Return the table: in the root, or a path.

    Raises:
        DatasetError: the root or the table does not exist.
    """
    if not dataset.root.is_dir():
        raise DatasetError(f"{dataset.root}: does not exist. Set dataset.root to the folder of images and masks.")
    table = dataset.table or Path()
    found = [path for path in (dataset.root / table, table) if path.is_file()]
    if not found:
        raise DatasetError(
            f"{dataset.root / table}: does not exist. Set dataset.table to a CSV or Parquet file in dataset.root."
        )
    return found[0]


def read_rows(
    dataset: DatasetSection, fields: Sequence[str], prompts: PromptsSection | None = None
) -> tuple[list[Row], list[int]]:
    """Read the table of a data set.

    Args:
        fields: text fields, each from the column of its name or the one that `columns.text` names.
        prompts: names the columns of free text, where texts are free.

    Returns:
        The rows, and the numbers of those that the table says to leave out, whose files need not exist.

    Raises:
        DatasetError: names the table, the row and the column.
    """
    path, columns = find_table(dataset), dataset.columns
    text = {field: columns.text.get(field, field) for field in fields}
    free = _list_free(prompts) if prompts is not None else {}
    table = _load(path, columns, text, free)
    cells = _Cells(path, columns, table)
    excluded = [number for number in table.index if cells.read(number, columns.exclude, read_yes, False)]
    kept = table.index.difference(excluded, sort=False)
    rows = [_make_row(cells, dataset.root, number, text) for number in kept]
    if prompts is not None:
        rows = [_add_free_text(cells, row, prompts) for row in rows]
    _check_rows(path, columns, rows)
    _check_strata(path, columns, rows)
    return rows, excluded


def _list_free(prompts: PromptsSection) -> dict[str, str]:
    """Return role -> column, of the columns of free text."""
    named = {name: getattr(prompts, name) for name in ("column", "class_column", "paraphrase_column")}
    return {f"prompts.{name}": str(column) for name, column in named.items() if column is not None}


def _load(path: Path, columns: ColumnsSection, text: dict[str, str], free: dict[str, str]) -> pd.DataFrame:
    """Read the table with all columns that it must have; absent optional ones are left out later."""
    needed = [("image", columns.image), ("mask", columns.mask), ("patient", columns.patient)]
    needed += [("strata", name) for name in columns.strata] + [(f"text.{field}", name) for field, name in text.items()]
    for role in sorted(columns.model_fields_set - {"image", "mask", "patient", "strata", "text"}):
        value = getattr(columns, role)
        if value == type(columns).model_fields[role].default:
            continue  # a recipe that a run noted names all columns, also those that its table lacks
        needed += [(role, name) for name in (() if value is None else (value,) if isinstance(value, str) else value)]
    role_of = {name: role for role, name in reversed(needed)}
    way_out = RENAME.format("{" + ", ".join(dict.fromkeys(role_of.values())) + "}")
    if free:
        way_out = f"{way_out.removesuffix('.')} or {', '.join(free)}."
    table = load_rows(path, list(dict.fromkeys([*(name for _, name in needed), *free.values()])), way_out)
    if columns.case in table.columns:
        check_unique(path, table, str(columns.case), is_named=False)
    return table


@dataclass(frozen=True)
class _Cells:
    """Cells of a table by role; whatever is wrong is named by row and column, not by its content."""

    path: Path
    columns: ColumnsSection
    table: pd.DataFrame

    def get(self, number: int, column: str | None) -> str:
        """Return a cell, empty where the table has no such column."""
        return str(self.table.at[number, column]) if column in self.table.columns else ""

    def read(self, number: int, column: str | None, parse: Callable[[str], Read], default: Read) -> Read:
        """Return what a cell holds, the default where it says nothing."""
        cell = self.get(number, column)
        if is_unset(cell):
            return default
        try:
            return parse(cell)
        except CellError as error:
            shown = "a text" if any(letter.isalpha() for letter in cell) else repr(cell[:LONGEST_CELL])
            hint = "If the column means something else, name another in dataset.columns, or null."
            self.refuse(number, column, f"is {shown}, not {error}. {hint}")

    def require(self, number: int, column: str) -> str:
        """Return a cell that must say something."""
        cell = self.get(number, column)
        if is_unset(cell):
            self.refuse(number, column, "is empty. Fill it in or remove the row.")
        return cell

    def locate(self, root: Path, number: int, column: str) -> Place:
        """Return the file of a cell, which must exist."""
        try:
            place = parse_place(root, self.require(number, column))
        except PlaceError as error:
            self.refuse(number, column, str(error))
        if not place.path.is_file():
            self.refuse(number, column, f"there is no file {place.path}. Correct the path or remove the row.")
        return place

    def refuse(self, number: int, column: str | None, what: str) -> NoReturn:
        """Raise the error of a cell."""
        raise DatasetError(f"{self.path}, row {number}, column {column}: {what}")


def _make_row(cells: _Cells, root: Path, number: int, text: dict[str, str]) -> Row:
    columns = cells.columns
    return Row(
        number=number,
        image=cells.locate(root, number, columns.image),
        mask=cells.locate(root, number, columns.mask),
        patient_id=_read_patient(cells, number),
        case=cells.get(number, columns.case),
        fold=cells.read(number, columns.fold, read_fold, None),
        spacing_mm=_read_spacing(cells, number),
        box_xyxy=cells.read(number, columns.box, read_box, None),
        labels=cells.read(number, columns.label, read_labels, ()),
        text_fields={field: _read_value(cells.get(number, column)) for field, column in text.items()},
        strata={name: _read_value(cells.get(number, name)) for name in columns.strata},
    )


def _add_free_text(cells: _Cells, row: Row, prompts: PromptsSection) -> Row:
    """Return the row with its own text and, where a column of classes is named, its class."""
    text, paraphrase = (
        _read_sentence(cells.get(row.number, column), prompts.strip_numbers)
        for column in (prompts.column, prompts.paraphrase_column)
    )
    values = {TEXT: name_text(text)}
    if prompts.class_column:
        values[name_class_field(prompts.class_column)] = _read_value(cells.get(row.number, prompts.class_column))
    return replace(row, text_fields={**row.text_fields, **values}, text=text, paraphrase=paraphrase if text else "")


def _read_sentence(cell: str, strip_numbers: bool) -> str:
    if is_unset(cell):
        return ""
    text = normalise(cell)
    return mask_numbers(text) if strip_numbers else text


def _read_patient(cells: _Cells, number: int) -> str:
    cell = cells.require(number, cells.columns.patient)
    if problem := find_patient_problem(cell):
        cells.refuse(number, cells.columns.patient, problem)
    return trim_whole(cell)


def _read_value(cell: str) -> str:
    return UNKNOWN if is_unset(cell) else trim_whole(cell)


def _read_spacing(cells: _Cells, number: int) -> tuple[float, float] | None:
    names = cells.columns.spacing_mm
    if isinstance(names, str) or names is None:
        return cells.read(number, names, read_spacing, None)
    row, column = (cells.read(number, name, read_spacing, None) for name in names)
    if row is None or column is None:
        if (row is None) != (column is None):
            cells.refuse(number, names[row is not None], "is empty, and the other spacing is given.")
        return None
    return row[0], column[0]


def _check_strata(path: Path, columns: ColumnsSection, rows: Sequence[Row]) -> None:
    """Refuse a stratum of many groups: a column of free text or of identifiers would be shown in reports.

    Raises:
        DatasetError: names the column.
    """
    for name in columns.strata:
        count = len({row.strata[name] for row in rows})
        if count > MOST_GROUPS:
            raise DatasetError(
                f"{path}, column {name}: has {count} groups, and a stratum has at most {MOST_GROUPS}: the report shows "
                "each by its name. Leave it out of dataset.columns.strata, or join groups."
            )


def _check_rows(path: Path, columns: ColumnsSection, rows: Sequence[Row]) -> None:
    """Refuse rows that contradict one another.

    Raises:
        DatasetError: the same lesion stands in two rows; some rows have a fold, or a patient has two.
    """
    first: dict[tuple[Place, Place, int | None, tuple[int, ...] | None], int] = {}
    fold_of: dict[str, tuple[int | None, int]] = {}
    has_folds = any(row.fold is not None for row in rows)
    for row in rows:
        for label in row.labels or (None,):
            key = (row.image, row.mask, label, row.box_xyxy)
            if key in first:
                raise DatasetError(
                    f"{path}, row {row.number}: has the image, mask and label of row {first[key]}. Keep one of them."
                )
            first[key] = row.number
        if has_folds and row.fold is None:
            raise DatasetError(
                f"{path}, row {row.number}, column {columns.fold}: is empty, but other rows have folds. Give every "
                "row a fold, or none."
            )
        fold, number = fold_of.setdefault(row.patient_id, (row.fold, row.number))
        if fold != row.fold:
            raise DatasetError(
                f"{path}, row {row.number}, column {columns.fold}: is fold {row.fold}, and row {number} of the same "
                f"patient is in fold {fold}. Give all rows of a patient one fold."
            )
