import codecs
import errno
import os
from pathlib import Path

import pytest
from messages import is_named, raises_naming

from t2m_bench.data.tables import check_unique, find_patient_problem, read_columns, read_table, read_whole, trim_whole
from t2m_bench.errors import DatasetError

PLAIN = b'ID,Case,BBOX\nbus_1,1,"[1,2,3,4]"\nbus_2,2,"[5,6,7,8]"\n'
ROWS = [["bus_1", "1", "[1,2,3,4]"], ["bus_2", "2", "[5,6,7,8]"]]


def write(folder: Path, raw: bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(raw)
    return path


READABLE = {
    "plain": PLAIN,
    "BOM": codecs.BOM_UTF8 + PLAIN,
    "UTF-16": PLAIN.decode().encode("utf-16"),
    "UTF-16 of the other order": codecs.BOM_UTF16_BE + PLAIN.decode().encode("utf-16-be"),
    "Windows lines": PLAIN.replace(b"\n", b"\r\n"),
    "no last line end": PLAIN.rstrip(),
    "blank rows at the end": PLAIN + b",,\n,,\n\n , ,\n,,,,,,,\n",
    "blank rows at the start": b"\n,,\n" + PLAIN,
    "semicolons": b"ID;Case;BBOX\nbus_1;1;[1,2,3,4]\nbus_2;2;[5,6,7,8]\n",
    "tabs": b"ID\tCase\tBBOX\nbus_1\t1\t[1,2,3,4]\nbus_2\t2\t[5,6,7,8]\n",
    "a delimiter in the first line": b"sep=;\r\nID;Case;BBOX\r\nbus_1;1;[1,2,3,4]\r\nbus_2;2;[5,6,7,8]\r\n",
    "lines of old": PLAIN.replace(b"\n", b"\r"),
    "spaces": b'ID ,Case, BBOX\nbus_1 ,1, "[1,2,3,4]"\n bus_2,2 ,"[5,6,7,8]"\n',
    "commas at the end of every row": PLAIN.replace(b"\n", b",,\n"),
}


@pytest.mark.parametrize("name", READABLE)
def test_a_table_is_the_same_however_it_was_written(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, READABLE[name])
    table = read_table(path, ("ID", ("Patient", "Case"), "BBOX"))
    assert list(table.columns) == ["ID", "Case", "BBOX"]
    assert table.to_numpy().tolist() == ROWS
    assert any({"ID", "Case", "BBOX"} <= columns for columns in read_columns(path))
    check_unique(path, table, "ID")


REFUSED = {
    "a comma too many in the rows": (PLAIN.replace(b'"\n', b'",\n'), {"row 2", 4, 3, "header"}),
    "a comma too many in one row": (PLAIN.replace(b"bus_2,", b"bus_2,,"), {"row 3", 4, 3}),
    "an unquoted list": (PLAIN.replace(b'"', b""), {"row 2", 6, 3}),
    "a row cut short": (PLAIN + b"bus_3,3\n", {"row 4", 2, 3}),
    "a quote that does not end": (PLAIN + b'bus_3,"3,x\n', {"row 4"}),
    "text behind a quote": (PLAIN + b'bus_3,"3"4,x\n', {"row 4"}),
    "another encoding": (PLAIN + "bus_3,Müller,x\n".encode("latin-1"), {"row 4", "UTF-8", "0xfc"}),
    "zero bytes": (PLAIN.decode().encode("utf-16-le"), {"UTF-8"}),
    "nothing": (b"", {"ID"}),
    "blank rows alone": (b",,\n\n", {"ID"}),
    "a row cut short below a line of the delimiter": (b"sep=,\n" + PLAIN + b"bus_3,3\n", {"row 5", 2, 3}),
    "another delimiter": (PLAIN.replace(b",", b"|"), {"ID"}),
    "a column twice": (PLAIN.replace(b"Case", b"ID"), {"ID", 2}),
    "no column of two names": (PLAIN.replace(b"Case", b"case"), {"Patient", "Case", "BBOX"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_may_mean_something_else_is_refused_by_row(tmp_path: Path, name: str) -> None:
    raw, named = REFUSED[name]
    with raises_naming(DatasetError, tmp_path / "t.csv", *named):
        read_table(write(tmp_path, raw), ("ID", ("Patient", "Case")))


def test_rows_that_name_nothing_or_the_same_are_told_by_their_number(tmp_path: Path) -> None:
    for cell, named in (("", "row 5"), ("bus_1", "bus_1")):
        path = write(tmp_path, PLAIN + f"\n{cell},3,x\n".encode())
        table = read_table(path, ("ID",))
        with raises_naming(DatasetError, path, "ID", "row 5", named):
            check_unique(path, table, "ID")
        with raises_naming(DatasetError, path, "ID", "row 5") as caught:
            check_unique(path, table, "ID", is_named=False)
        assert not is_named(str(caught.value), "bus_1")


def test_an_absent_file_says_so(tmp_path: Path) -> None:
    with raises_naming(DatasetError, tmp_path / "t.csv", os.strerror(errno.ENOENT)):
        read_table(tmp_path / "t.csv", ("ID",))
    assert read_columns(tmp_path / "t.csv") == []


@pytest.mark.parametrize(
    ("text", "whole", "trimmed"),
    [
        ("3", 3, "3"),
        (" 3.0 ", 3, "3"),
        ("3.000", 3, "3"),
        ("012", 12, "012"),
        ("3.5", None, "3.5"),
        ("", None, ""),
        ("²", None, "²"),
        ("-1", None, "-1"),
        ("3e0", None, "3e0"),
        ("P7.0", None, "P7"),
        ("9" * 40, None, "9" * 40),
    ],
)
def test_whole_numbers_of_cells(text: str, whole: int | None, trimmed: str) -> None:
    assert (read_whole(text), trim_whole(text)) == (whole, trimmed)


@pytest.mark.parametrize("cell", ["", " ", "NaN", "#N/A", "NULL", "unknown", "#REF!", "1.23E+11", "1,23e+05", "4E+10"])
def test_cells_that_name_no_patient(cell: str) -> None:
    assert find_patient_problem(cell)


@pytest.mark.parametrize("cell", ["1", "012", "P-7", "1e3", "E+11", "123456789012", "None-7"])
def test_cells_that_name_a_patient(cell: str) -> None:
    assert find_patient_problem(cell) == ""
