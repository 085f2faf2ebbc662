import importlib.util
from pathlib import Path

import pandas as pd
import pytest

spec = importlib.util.spec_from_file_location("compare_commits", Path(__file__).with_name("compare_commits.py"))
assert spec is not None
assert spec.loader is not None
compare_commits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare_commits)


def write(runs: Path, run: str = "demo-1/gated", **columns: object) -> Path:
    """Write a table of two rows and return the folder of its runs."""
    rows = {name: ["x", "x"] for name in compare_commits.KEY} | {"case": ["a", "b"], "dice": [0.25, float("nan")]}
    (runs / run).mkdir(parents=True)
    pd.DataFrame(rows | columns).to_parquet(runs / run / "cases.parquet")
    return runs


def test_equal_values_are_equal_in_any_order(tmp_path: Path) -> None:
    turned = write(tmp_path / "new", case=["b", "a"], dice=[float("nan"), 0.25])
    assert compare_commits.compare_runs(write(tmp_path / "old"), turned) == []
    more = write(tmp_path / "more", asd=[1.0, 1.0])
    assert compare_commits.compare_runs(tmp_path / "old", more) == [], "a new measure is no difference"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"dice": [0.25 + 2**-54, float("nan")]}, "dice"),
        ({"dice": [0.25, 0.0]}, "dice"),
        ({"dice": [1, 2]}, "dice"),
        ({"case": ["a", "c"]}, "1 rows"),
        ({"run": "demo-2/gated"}, "demo-2/gated"),
    ],
)
def test_the_last_bit_a_row_and_a_folder_s_name_are_differences(
    tmp_path: Path, changed: dict[str, object], named: str
) -> None:
    old, new = write(tmp_path / "old"), write(tmp_path / "new", **changed)
    (found,) = compare_commits.compare_runs(old, new)
    assert named in found


def test_a_column_that_is_gone_is_a_difference(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", iou=[0.1, 0.2]), write(tmp_path / "new")
    (found,) = compare_commits.compare_runs(old, new)
    assert "iou" in found


def test_a_key_that_was_renamed_is_given_by_its_new_name() -> None:
    assert compare_commits.rename_key("dataset.root=a=b", {"dataset.root": "data.folder"}) == "data.folder=a=b"
