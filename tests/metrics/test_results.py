from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from messages import raises_naming
from plugins import install

from t2m_bench.errors import RecipeError, RunFolderError
from t2m_bench.metrics.measures import list_measured
from t2m_bench.metrics.results import KEY, list_columns, list_optional, load_results, write_results
from t2m_bench.recipe.measures import DICE, MEASURE_TABLE

FIRST_TABLE = Path(__file__).parent / "data" / "cases_v1.parquet"
"""Rows of four cases of a run on phantoms, as they were written when the columns were those of FIRST_COLUMNS."""

FIRST_COLUMNS = (
    "case", "patient", "dataset", "text_class", "given_class", "arm", "seed", "fold", "condition", "box",
    "distance_unit", "dice", "iou", "precision", "recall", "hd95", "assd", "surface_dice", "surface_dice_1",
    "surface_dice_2", "surface_dice_5", "area_error", "box_diagonal", "pred_empty", "ref_empty",
)  # fmt: skip


def make_row(**changes: Any) -> dict[str, Any]:
    row = {"case": "case-1", "patient": "patient-1", "dataset": "bus_bra", "text_class": "2", "given_class": "2"}
    row |= {"arm": "gated", "seed": 0, "fold": 1, "condition": "right", "box": "tight"}
    row |= {"distance_unit": "px", **dict.fromkeys(list_measured(), float("nan")), "dice": 0.9, "iou": 0.8}
    return row | {"pred_empty": False, "ref_empty": False} | changes


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "cases.parquet"
    write_results(path, [make_row(), make_row(condition="wrong", dice=0.7)])
    table = load_results(path)
    assert table["dice"].tolist() == [0.9, 0.7]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cases.parquet"]


def test_a_table_of_before_is_read() -> None:
    assert tuple(pd.read_parquet(FIRST_TABLE).columns) == FIRST_COLUMNS
    table = load_results(FIRST_TABLE)
    assert list(table.columns) == list(list_columns())
    assert len(table) == 32
    assert set(table["condition"].str.split(":").str[0]) == {"right", "wrong", "swap", "paraphrase"}
    assert table.loc[table["condition"] == "right", "hd95"].notna().any()
    assert table[[name for name in list_columns() if name not in FIRST_COLUMNS]].isna().all(axis=None)


@pytest.mark.parametrize("name", list_optional())
def test_a_measure_without_a_column_is_missing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "cases.parquet"
    pd.DataFrame([make_row(), make_row(condition="wrong")]).drop(columns=name).to_parquet(path)
    table = load_results(path)
    assert list(table.columns) == list(list_columns())
    assert table[name].isna().all()
    assert table[name].dtype == "float64"


@pytest.mark.parametrize("name", sorted(list_columns().keys() - set(list_optional())))
def test_all_other_columns_are_required(tmp_path: Path, name: str) -> None:
    path = tmp_path / "cases.parquet"
    pd.DataFrame([make_row()]).drop(columns=name).to_parquet(path)
    with pytest.raises(RunFolderError, match=f"{name} is absent"):
        load_results(path)


def test_what_is_measured_now_is_written_whole(tmp_path: Path) -> None:
    """Old tables may lack a measure, new ones may not."""
    assert {*list_optional()} == {*MEASURE_TABLE.names} - {DICE}
    row = make_row()
    row.pop("assd")
    with raises_naming(ValueError, "assd"):
        write_results(tmp_path / "cases.parquet", [row])


def test_every_measure_has_its_column_in_the_same_order() -> None:
    assert tuple(list_columns())[-len(list_measured()) :] == list_measured()


def test_conditions_and_boxes_of_all_kinds_are_known(tmp_path: Path) -> None:
    conditions = ["none", "right", "wrong", "wrong:t_stage", "swap:histology=NSCLC NOS", "other_patient", "paraphrase"]
    rows = [
        make_row(condition=name)
        for name in (*conditions, "paraphrase:3", "plausible", "plausible:t_stage", "unknown", "random", "predicted")
    ]
    rows += [make_row(box=name) for name in ("jitter_20", "loose_10", "shift_5")]
    write_results(tmp_path / "cases.parquet", rows)
    assert len(load_results(tmp_path / "cases.parquet")) == len(rows)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([make_row(), make_row(dice=0.5)], {"row 1", *KEY}),
        ([make_row(dice=1.2)], {"row 0", "dice", 1.2, "[0, 1]"}),
        ([make_row(iou=float("nan"))], {"row 0", "iou", "nan", "[0, 1]"}),
        ([make_row(hd95=float("inf"))], {"row 0", "hd95", "inf"}),
        ([make_row(), make_row(condition="left=")], {"row 1", "condition", "left="}),
        ([make_row(box="loose")], {"row 0", "box", "loose"}),
        ([make_row(), make_row(condition=None)], {"row 1", "condition"}),
        ([make_row(case=None)], {"row 0", "case"}),
        ([make_row(), make_row(pred_empty=None)], {"row 1", "pred_empty"}),
    ],
)
def test_wrong_rows_are_neither_written_nor_read(tmp_path: Path, rows: list[dict[str, Any]], named: set[str]) -> None:
    with raises_naming(ValueError, tmp_path / "cases.parquet", *named):
        write_results(tmp_path / "cases.parquet", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "other.parquet")
    with raises_naming(RunFolderError, tmp_path / "other.parquet", *named):
        load_results(tmp_path / "other.parquet")


def test_absent_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    with raises_naming(RunFolderError, tmp_path / "none.parquet", "absent"):
        load_results(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"gone")
    with raises_naming(RunFolderError, tmp_path / "bad.parquet", "Parquet"):
        load_results(tmp_path / "bad.parquet")
    pd.DataFrame([{"case": "1"}]).to_parquet(tmp_path / "foreign.parquet")
    with raises_naming(RunFolderError, tmp_path / "foreign.parquet", "patient"):
        load_results(tmp_path / "foreign.parquet")


ALWAYS = """
from t2m_bench.recipe.measures import MeasureEntry
SHARPE = MeasureEntry("sharpe", "always:get", is_always=True)
"""


def test_a_measure_that_is_always_there_now_is_missing_in_tables_of_before(tmp_path: Path) -> None:
    with install(tmp_path, "always", ALWAYS, {"t2m_bench.measures": "sharpe = always:SHARPE"}):
        table = load_results(FIRST_TABLE)
        assert table["sharpe"].isna().all()
        path = tmp_path / "cases.parquet"
        with raises_naming(ValueError, path, "sharpe", "nan"):
            write_results(path, [make_row(sharpe=float("nan"))])
        write_results(path, [make_row(sharpe=0.5)])
        assert load_results(path)["sharpe"].tolist() == [0.5]


def test_what_a_package_that_is_not_here_measured_and_asked_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cases.parquet"
    pd.DataFrame([make_row(condition="mine:a", sharpe=0.5, noted="x")]).to_parquet(path)
    table = load_results(path)
    assert list(table.columns) == [*list_columns(), "sharpe"]
    assert (table["condition"].tolist(), table["sharpe"].tolist()) == (["mine:a"], [0.5])
    with raises_naming(ValueError, path, "condition", "mine:a"):
        write_results(path, [make_row(condition="mine:a")])


def test_a_measure_cannot_have_the_name_of_another_column(tmp_path: Path) -> None:
    code = ALWAYS.replace("sharpe", "box")
    installed = install(tmp_path, "always", code, {"t2m_bench.measures": "box = always:SHARPE"})
    with installed, raises_naming(RecipeError, "measure", "box"):
        load_results(FIRST_TABLE)
