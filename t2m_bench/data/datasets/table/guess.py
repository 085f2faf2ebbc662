"""Looks at a table that nobody has described: which column may be the image, the mask, the patient, a text."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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
from t2m_bench.data.datasets.table.files import Volumes, load_file
from t2m_bench.data.datasets.table.places import PlaceError, parse_place
from t2m_bench.data.images import compute_tight_box
from t2m_bench.data.tables import trim_whole
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.schema import ColumnsSection

MOST_FILES = 20
"""Cells of a column that are looked up as files."""

MOST_MASKS = 5
"""Mask files that are opened."""

MOST_CLASSES = 12
FEWEST_ROWS_OF_A_CLASS = 2
FEWEST_WORDS = 4
"""Median number of words of a column of sentences."""

MASK = re.compile(r"mask|seg|lesion|outline|contour|annot|truth|roi|label|\bgt\b")
IMAGE = re.compile(r"image|img|scan|picture|path|file|slice|\bct\b|\bmr\b|\bus\b")
CLASS = re.compile(r"birads|stage|grade|histolog|patholog|diagnos|class|categor|type|finding|subtype|status")

NAMES: Mapping[str, tuple[str, ...]] = {
    "patient": ("patient", "patientid", "pid", "subject", "subjectid", "participant", "participantid", "person", "mrn"),
    "case": ("case", "caseid", "lesionid", "id", "name"),
    "fold": ("fold", "kfold", "cvfold", "testfold"),
    "spacing_mm": ("spacingmm", "spacing", "pixelspacing", "pixelspacingmm", "mmperpixel", "pixelsizemm"),
    "box": ("box", "bbox", "boundingbox", "boxxyxy"),
    "label": ("label", "masklabel", "maskvalue", "lesionlabel", "labelvalue"),
    "exclude": ("exclude", "excluded", "leaveout"),
}
"""Role -> names of columns, in small letters and digits alone, the likeliest first."""

ROW_SPACING = ("spacingrowmm", "rowspacingmm", "rowmm", "spacingy", "spacingrow")
COLUMN_SPACING = ("spacingcolumnmm", "columnspacingmm", "columnmm", "colmm", "spacingx", "spacingcolumn")
STRATA = ("device", "scanner", "vendor", "manufacturer", "site", "center", "centre", "sex", "gender", "side", "view")


@dataclass(frozen=True)
class Guess:
    """What the columns of a table are taken for.

    Attributes:
        columns: as `dataset.columns` has it, where it differs from the defaults.
        fields: text field -> its classes, sorted. sentences: columns of free text. said: what was taken for what.
    """

    table: Path
    columns: dict[str, Any]
    fields: dict[str, list[str]]
    sentences: list[str]
    said: list[str]


def guess_columns(path: Path) -> Guess:
    """Look at a table in the folder of its images.

    Raises:
        DatasetError: the table cannot be read, or no column names images, masks or patients.
    """
    found = _Columns(path, load_rows(path, []))
    _take_files(found)
    _take_patient(found)
    _take_optional(found)
    sentences = _take_texts(found)
    return Guess(path, found.describe(), found.fields, sentences, found.said)


@dataclass
class _Columns:
    """The columns of a table, taken one by one."""

    path: Path
    table: pd.DataFrame
    roles: dict[str, Any] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    strata: list[str] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    @property
    def free(self) -> list[str]:
        """Columns that are taken for nothing yet."""
        return [name for name in self.table.columns if name not in self.taken]

    def list_known(self, column: str) -> list[str]:
        """Return the cells of a column that say something."""
        return [cell for cell in self.table[column] if not is_unset(cell)]

    def take(self, role: str, column: str, what: str) -> None:
        self.roles[role] = column
        self.taken.add(column)
        self.said.append(f"{role}: column {column} ({what})")

    def find(self, names: Sequence[str]) -> str | None:
        """Return the free column whose name is the first of these that there is."""
        by_name = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in reversed(self.free)}
        return next((by_name[name] for name in names if name in by_name), None)

    def describe(self) -> dict[str, Any]:
        """Return `dataset.columns`: what differs from the defaults; a column of a default's name may be another."""
        columns: dict[str, Any] = {}
        for role in (*NAMES, "image", "mask"):
            default = ColumnsSection.model_fields[role].default
            column = self.roles.get(role)
            if column not in (None, default):
                columns[role] = column
            elif column is None and default in self.table.columns:
                columns[role] = None
        columns |= {"strata": self.strata} if self.strata else {}
        renamed = {name: column for name, column in self.text.items() if name != column}
        return columns | ({"text": renamed} if renamed else {})


def _take_files(found: _Columns) -> None:
    root = found.path.parent
    named = [column for column in found.free if _are_files(root, found.list_known(column)[:MOST_FILES])]
    if len(named) < 2:
        what = f"only column {named[0]} does" if named else "none does"
        raise DatasetError(
            f"{found.path}: two columns must name the files of images and masks, from the table's folder {root}, and "
            f"{what}. Correct the paths, or put the table into the folder that they start from."
        )
    masks = [column for column in named if MASK.search(column.lower())]
    images = [column for column in named if IMAGE.search(column.lower()) and column not in masks]
    mask = masks[0] if masks else min(named, key=lambda column: _count_values(root, found.list_known(column)))
    image = images[0] if images and images[0] != mask else next(column for column in named if column != mask)
    found.take("image", image, f"{len(found.list_known(image))} files")
    found.take("mask", mask, f"{len(found.list_known(mask))} files")


def _are_files(root: Path, cells: Sequence[str]) -> bool:
    try:
        return bool(cells) and all(parse_place(root, cell).path.is_file() for cell in cells)
    except (PlaceError, OSError):  # a sentence may be longer than a file's name can be
        return False


def _count_values(root: Path, cells: Sequence[str]) -> int:
    return len(np.unique(load_file(parse_place(root, cells[0]), Volumes()).values))


def _take_patient(found: _Columns) -> None:
    column = found.find(NAMES["patient"])
    if column is None:  # BUS-BRA, for one, calls it Case
        repeated = found.find(NAMES["case"])
        if repeated is not None and len(set(found.table[repeated])) < len(found.table):
            column = repeated
    if column is None:
        raise DatasetError(
            f"{found.path}: no column says which patient a row is of; found {', '.join(found.table.columns)}. Name it "
            "patient. Where each row is another patient's, add a column that numbers the rows."
        )
    found.take("patient", column, f"{len(set(found.list_known(column)))} patients")


def _take_optional(found: _Columns) -> None:
    checks: dict[str, tuple[Callable[[str], object], str]] = {
        "fold": (read_fold, "test folds, from 1"),
        "exclude": (read_yes, "rows to leave out"),
        "spacing_mm": (read_spacing, "mm"),
        "label": (read_labels, "values of lesions in the masks"),
        "box": (read_box, "x0, y0, x1, y1, half open"),
    }
    for role, (parse, what) in checks.items():
        column = found.find(NAMES[role])
        if column is None:
            continue
        if not _reads(parse, found.list_known(column)) or not _agrees_with_masks(found, role, column):
            found.said.append(f"{column} is not taken for {role}: its cells are not {what}")
            continue
        found.take(role, column, what)
    pair = [found.find(ROW_SPACING), found.find(COLUMN_SPACING)]
    if "spacing_mm" not in found.roles and all(pair):
        found.roles["spacing_mm"] = pair
        found.taken.update(str(column) for column in pair)
        found.said.append(f"spacing_mm: columns {pair[0]} and {pair[1]} (row and column)")
    case = found.find(NAMES["case"])
    cells = found.list_known(case) if case is not None else []
    if case is not None and len(set(cells)) == len(found.table):
        found.take("case", case, "another one in every row")


def _reads(parse: Callable[[str], object], cells: Sequence[str]) -> bool:
    try:
        for cell in cells:
            parse(cell)
    except CellError:
        return False
    return bool(cells)


def _agrees_with_masks(found: _Columns, role: str, column: str) -> bool:
    """Return whether labels stand in the first masks, or boxes are the tight ones of these; other roles are not asked.

    A column called label is more often a class, and boxes are written in many ways.
    """
    if role not in ("label", "box"):
        return True
    root = found.path.parent
    masks = list(found.table[found.roles["mask"]])
    for cell, mask in [*zip(found.table[column], masks, strict=True)][:MOST_MASKS]:
        if is_unset(cell):
            continue
        values = load_file(parse_place(root, mask), Volumes()).values
        if role == "label":
            if not all((values == label).any() for label in read_labels(cell)):
                return False
        elif not (values > 0).any() or compute_tight_box(values > 0) != read_box(cell):
            return False
    return True


def _take_texts(found: _Columns) -> list[str]:
    """Take columns of classes as text fields or strata; return those of sentences."""
    sentences, classes = [], []
    for column in found.free:
        cells = found.list_known(column)
        counts = pd.Series([trim_whole(cell) for cell in cells], dtype=str).value_counts()
        if cells and np.median([len(cell.split()) for cell in cells]) >= FEWEST_WORDS and len(counts) > MOST_CLASSES:
            sentences.append(column)
            found.said.append(f"free text: column {column} ({len(counts)} different texts)")
        elif 2 <= len(counts) <= MOST_CLASSES and counts.min() >= FEWEST_ROWS_OF_A_CLASS:
            classes.append(column)
        else:
            found.said.append(f"column {column} is not used: {len(counts)} values, neither classes nor sentences")
    for column in [name for name in classes if re.sub(r"[^a-z]", "", name.lower()) in STRATA]:
        classes.remove(column)
        found.strata.append(column)
        found.said.append(f"stratum: column {column} (a grouping that the report may tell apart)")
    likely = [column for column in classes if CLASS.search(column.lower())] or classes[:1]
    for column in classes:
        if column not in likely:
            found.said.append(f"column {column} is not used: it could be a text field too")
            continue
        name = re.sub(r"\W+", "_", column.lower()).strip("_")
        found.text[name] = column
        found.fields[name] = sorted({trim_whole(cell) for cell in found.list_known(column)})
        shown = ", ".join(found.fields[name])
        found.said.append(f"text field: column {column} ({shown})")
    return sentences
