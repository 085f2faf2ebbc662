"""Tables that come with a data set: CSV as spreadsheets and scripts write it, refused by file and row where unclear."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten

import pandas as pd

from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.errors import DatasetError

DELIMITERS = (",", ";", "\t")
"""Comma; what spreadsheets write where the comma stands in numbers; tabs."""

MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order mark -> encoding; a file without one is UTF-8."""

LONGEST_HEADER = 400
"""Characters of a header that a message repeats."""

HEADER_BYTES = 1 << 16
"""Characters of a file that are read to find its columns."""

DELIMITER_LINE = re.compile(r"sep=[,;\t](?=[\r\n])")
"""Line by which Excel is told the delimiter, before the header."""

WHOLE = re.compile(r"([0-9]+)(\.0+)?")


NOBODY = frozenset({"nan", "na", "n/a", "#n/a", "null", "none", UNKNOWN, "#ref!", "#value!", "#name?", "?", "-"})
"""Cells of a patient that name nobody, as spreadsheets and databases write them."""

SHORTENED = re.compile(r"[0-9]([.,][0-9]+)?[eE]\+[0-9]+")
"""Pattern of a long number as a spreadsheet stores it in CSV, with most of its digits lost."""

Column = str | tuple[str, ...]
"""A column's name, or names of which one must be there."""


def read_table(path: Path, columns: Sequence[Column], way_out: str = "") -> pd.DataFrame:
    """Return the rows as text without spaces around it; the index is the row in the file, counted from 1.

    Blank rows and columns without a name are skipped. The delimiter is the one that gives `columns`, a comma before a
    semicolon and a tab.

    Args:
        columns: must be there, each once.
        way_out: what to do where one is absent.

    Raises:
        DatasetError: the file cannot be read, a column is missing or repeated, or a row has more or fewer fields than
            the header.
    """
    text = _decode(path)
    delimiter = _find_delimiter(text, columns)
    records = _list_records(path, text, delimiter)
    _, header = next(records, (1, []))
    for column in columns:
        names = [name for name in header if name in _list_names(column)]
        if not names:
            wanted = " or ".join(_list_names(column))
            hint = f" {way_out}" if way_out else ""
            raise DatasetError(f"{path}: column {wanted} is missing; found {_show(header) or 'nothing'}.{hint}")
        if names.count(names[0]) > 1:
            raise DatasetError(f"{path}: column {names[0]} occurs {names.count(names[0])} times. Keep one.")
    rows, lines = [], []
    for line, fields in records:
        if len(fields) != len(header):
            more = "more" if len(fields) > len(header) else "fewer"
            raise DatasetError(
                f"{path}, row {line}: {len(fields)} fields, {more} than the {len(header)} of the header, so that "
                "columns would be shifted. Give each row as many delimiters as the header has."
            )
        rows.append(fields)
        lines.append(line)
    places = {name: place for place, name in reversed(list(enumerate(header))) if name}
    kept = [place for place, name in enumerate(header) if places.get(name) == place]
    cells = [[fields[place] for place in kept] for fields in rows]
    return pd.DataFrame(cells, index=lines, columns=[header[place] for place in kept], dtype=str)


def read_columns(path: Path) -> list[set[str]]:
    """Return the columns of a file by each delimiter, whatever stands below them; none where it cannot be read."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(HEADER_BYTES)
    except OSError:
        return []
    text = _blank_delimiter_line(raw.decode(_find_encoding(raw), errors="replace"))
    return [set(_read_header(text, delimiter)) for delimiter in DELIMITERS]


def read_whole(text: str) -> int | None:
    """Return the number of a cell such as 3, or 3.0 as spreadsheets and pandas write it; None for anything else."""
    found = WHOLE.fullmatch(text.strip())
    return int(found[1]) if found and len(found[1]) <= 18 else None


def trim_whole(text: str) -> str:
    """Return 3 for 3.0, so that one number written in two ways is one; anything else without spaces around it."""
    found = WHOLE.fullmatch(text.strip())
    return found[1] if found else text.strip().removesuffix(".0")


def find_patient_problem(cell: str) -> str:
    """Return why a cell cannot say which patient a row is of, and the way out; empty where it can."""
    if not cell.strip():
        return "is empty; it says which patient the row is of. Fill it in or remove the row."
    if cell.strip().lower() in NOBODY:
        return f"is {cell.strip()!r}, which names no patient. Fill it in or remove the row."
    if SHORTENED.fullmatch(cell.strip()):
        return (
            "is a long number that a spreadsheet shortened, so that several patients may have become one. Export the "
            "table again with that column as text."
        )
    return ""


def _show(names: Sequence[str]) -> str:
    """Return the columns of a file, which may be of any kind, as one line of text."""
    line = shorten(", ".join(names), LONGEST_HEADER, placeholder=" ...")
    return line if line.isprintable() else ascii(line)


def _list_names(column: Column) -> tuple[str, ...]:
    return (column,) if isinstance(column, str) else column


def _find_encoding(raw: bytes) -> str:
    return next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read as CSV ({error.strerror}).") from None
    encoding, way_out = _find_encoding(raw), "Save the table as CSV in UTF-8."
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line, found = raw.count(b"\n", 0, error.start) + 1, f"byte 0x{raw[error.start]:02x} is not {encoding}"
        raise DatasetError(f"{path}, row {line}: cannot be read as CSV ({found}). {way_out}") from None
    if "\0" in text:
        raise DatasetError(f"{path}: cannot be read as CSV (it holds zero bytes). {way_out}")
    return _blank_delimiter_line(text)


def _blank_delimiter_line(text: str) -> str:
    """Return the text with an empty line for that of the delimiter, so that rows keep their numbers."""
    return text[found.end() :] if (found := DELIMITER_LINE.match(text)) else text


def _find_delimiter(text: str, columns: Sequence[Column]) -> str:
    found = {delimiter: set(_read_header(text, delimiter)) for delimiter in DELIMITERS}
    for delimiter, header in found.items():
        if columns and not any(header.isdisjoint(_list_names(column)) for column in columns):
            return delimiter
    return max(found, key=lambda delimiter: len(found[delimiter]))


def _read_header(text: str, delimiter: str) -> list[str]:
    """Return the columns of the first row that is not blank; none where it is no CSV."""
    try:
        for fields in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True):
            if any(field.strip() for field in fields):
                return [field.strip() for field in fields]
    except csv.Error:
        pass
    return []


def _list_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the row's number in the file and its fields; blank rows are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for fields in reader:
            stripped = [field.strip() for field in fields]
            if any(stripped):
                yield line, stripped
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            f"{path}, row {line}: cannot be read as CSV ({error}). Correct its quotes, or save the table again."
        ) from None


def check_unique(path: Path, table: pd.DataFrame, column: str, is_named: bool = True) -> None:
    """Refuse a table in which a row names nothing in a column, or what an earlier row names.

    Args:
        is_named: whether messages, which land in job logs, may name the value.

    Raises:
        DatasetError: names the row.
    """
    cells = [str(cell) for cell in table[column]]
    counts = Counter(cells)
    seen: set[str] = set()
    for line, cell in zip(table.index, cells, strict=True):
        if not cell:
            raise DatasetError(f"{path}, row {line}: {column} is empty. Fill it in or remove the row.")
        if not cell.isprintable():
            raise DatasetError(f"{path}, row {line}: {column} has characters that cannot be shown. Type it again.")
        if cell in seen:
            what = f"{column} {cell}" if is_named else column
            raise DatasetError(f"{path}, row {line}: {what} occurs in {counts[cell]} rows. Keep one.")
        seen.add(cell)
