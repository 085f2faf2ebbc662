"""Reads the lesions to segment: one from the command line, or the rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from t2m_bench.data.datasets.table.cells import CellError, is_unset, load_rows, read_numbers, read_spacing
from t2m_bench.data.tables import trim_whole
from t2m_bench.errors import DatasetError, UserError

IMAGE, MASK, BOX, TEXT, SPACING = "image", "mask", "box", "text", "spacing_mm"


@dataclass(frozen=True)
class Lesion:
    """One lesion to segment.

    Attributes:
        number: row of the table, 1 for a single image.
        image, mask: files as the user names them, relative to `root`; `mask` is empty where there is no reference.
        box_xyxy: None where the reference's tight box is taken.
        text, fields: as `Predictor.predict` takes them.
        spacing_mm: (row, column) of the table; None where the file may say it.
        source: what messages call it.
    """

    number: int
    image: str
    mask: str
    box_xyxy: tuple[float, ...] | None
    text: str | None
    fields: Mapping[str, str] | None
    root: Path = field(default_factory=Path)
    spacing_mm: tuple[float, float] | None = None
    source: str = ""

    @property
    def stem(self) -> str:
        """Name of its files, which tells nothing of the source's names."""
        return f"row-{self.number:05d}"


def choose_lesions(
    table: Path | None,
    image: str | None,
    box: str | None,
    texts: Sequence[str],
    given: Sequence[str],
    fields: Sequence[str],
) -> list[Lesion]:
    """Return the rows of a table, or the one lesion of the command line.

    Args:
        table, image, box, texts, given: the options --table, --image, --box, --text and --field.
        fields: those that the adapter reads.

    Raises:
        UserError: both or neither of table and image are given, or an option that belongs to the other.
    """
    of_one = {"--image": image, "--box": box, "--text": texts, "--field": given}
    if table is not None:
        superfluous = [option for option, value in of_one.items() if value]
        if superfluous:
            raise UserError(
                f"predict: {superfluous[0]} is for one image and cannot be combined with --table. Leave it out."
            )
        return read_lesions(table, fields)
    if image is None or box is None:
        missing = "--image" if image is None else "--box"
        raise UserError(f"predict: {missing} is missing. Give --image and --box, or --table with many lesions.")
    return [make_lesion(image, box, texts, given)]


def make_lesion(image: str, box: str, texts: Sequence[str], fields: Sequence[str]) -> Lesion:
    """Return the lesion of the command line.

    Args:
        box: "x0,y0,x1,y1". texts: one sentence, or one a field. fields: "name=class" each.

    Raises:
        UserError: the box is not four numbers, or a field has no "=".
    """
    given: dict[str, str] = {}
    for item in fields:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--field {item}: write FIELD=CLASS, such as birads=4.")
        given[name.strip()] = value.strip()
    if len(texts) > 1:
        raise UserError("--text is given more than once; give one sentence.")
    return Lesion(1, image, "", _read_box(box, "--box"), texts[0] if texts else None, given or None, source=image)


def _read_box(text: str, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(read_numbers(text))
    except CellError:
        numbers = ()
    if len(numbers) != 4:
        raise UserError(f"{what} {text}: four numbers x0,y0,x1,y1 in pixels are needed.")
    return numbers


def read_lesions(table: Path, fields: Sequence[str]) -> list[Lesion]:
    """Read the lesions of a table: CSV or Parquet, paths relative to its folder.

    Columns: `image`; `box`, or `mask` whose tight box is taken; those of the prompt file's fields, or `text`;
    `spacing_mm`. A row's text counts before its classes; an empty class is unknown.

    Args:
        fields: those that the adapter reads; none for an arm without text, and then no text is read.

    Raises:
        DatasetError: the table cannot be read, or lacks a column; names the row of a cell that is wrong.
    """
    if not table.is_file():
        raise DatasetError(f"{table}: does not exist. Give a CSV or Parquet file with a row for each lesion (--table).")
    rows = load_rows(table, [IMAGE])
    named = set(rows.columns)
    if not named & {BOX, MASK}:
        raise DatasetError(f"{table}: has neither a column {BOX} nor a column {MASK}. Add one of them.")
    if fields and not named & {TEXT, *fields}:
        raise DatasetError(
            f"{table}: has no column of text. Give it {' or '.join(fields)} with classes, or {TEXT} with sentences."
        )
    return [_make_lesion(table, rows, int(number), fields) for number in rows.index]


def _make_lesion(table: Path, rows: pd.DataFrame, number: int, fields: Sequence[str]) -> Lesion:
    def get(column: str) -> str:
        cell = str(rows.at[number, column]).strip() if column in rows.columns else ""
        return "" if is_unset(cell) else cell

    source = f"{table}, row {number}"
    image, mask, box = get(IMAGE), get(MASK), get(BOX)
    if not image:
        raise DatasetError(f"{source}, column {IMAGE}: is empty. Fill it in or remove the row.")
    if not box and not mask:
        raise DatasetError(f"{source}: has neither a box nor a mask. Fill one in or remove the row.")
    try:
        box_xyxy = _read_box(box, f"column {BOX}") if box else None
        spacing = read_spacing(get(SPACING)) if get(SPACING) else None
    except CellError as error:
        raise DatasetError(f"{source}, column {SPACING}: is not {error}.") from None
    except UserError as error:
        raise DatasetError(f"{source}: {error}") from None
    text = (get(TEXT) or None) if fields else None
    # a field without a column is left out, and so unknown
    given = {name: trim_whole(get(name)) for name in fields if get(name)} if fields and text is None else None
    return Lesion(number, image, mask, box_xyxy, text, given, table.parent, spacing, source)
