from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.results import load_results, write_results


def make_row(**changes: Any) -> dict[str, Any]:
    row = {"case": "case-1", "patient": "patient-1", "dataset": "bus_bra", "text_class": "2", "given_class": "2"}
    row |= {"arm": "gated", "seed": 0, "fold": 1, "condition": "right", "box": "tight", "dice": 0.9, "iou": 0.8}
    return row | {"pred_empty": False, "ref_empty": False} | changes


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "cases.parquet"
    write_results(path, [make_row(), make_row(condition="wrong", dice=0.7)])
    table = load_results(path)
    assert table["dice"].tolist() == [0.9, 0.7]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cases.parquet"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([make_row(), make_row(dice=0.5)], "row 1 repeats"),
        ([make_row(dice=1.2)], "dice = 1.2 is outside"),
        ([make_row(iou=float("nan"))], "iou = nan is outside"),
    ],
)
def test_wrong_rows_are_neither_written_nor_read(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path / "cases.parquet", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(RunFolderError, match=message):
        load_results(tmp_path / "other.parquet")


def test_absent_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="absent"):
        load_results(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"gone")
    with pytest.raises(RunFolderError, match="not a Parquet file"):
        load_results(tmp_path / "bad.parquet")
    pd.DataFrame([{"case": "1"}]).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(RunFolderError, match="column patient is absent"):
        load_results(tmp_path / "foreign.parquet")
