"""When a prepared manifest is used again, and when a data set is read anew."""

import hashlib
from pathlib import Path

import pytest

from t2m_bench.data.datasets.bus_bra import BusBra
from t2m_bench.data.datasets.registry import READER_VERSION, open_dataset
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.recipe.datasets import DATA_SETS, DataSet
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal


@pytest.fixture
def other_kind(monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of another package, whose reader lists the files of BUS-BRA."""
    entry = DataSet("other", "other", "t2m_bench.data.datasets.bus_bra:BusBra")
    monkeypatch.setattr(DATA_SETS, "_own", {**DATA_SETS._own, "other": entry})  # noqa: SLF001  # as if its package were installed
    return entry.name


def make_recipe(folder: Path, **dataset: object) -> Recipe:
    dataset = {"root": str(folder / "data"), **dataset}
    return parse_recipe({"name": "x", "dataset": dataset, "text_encoder": {"name": "stand-in"}}, "test")


def compute_stamp(recipe: Recipe) -> str:
    return open_dataset(recipe, Terminal()).stamp


def test_another_kind_or_version_of_a_reader_reads_the_files_anew(
    tmp_path: Path, other_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(make_recipe(tmp_path, phantom={"cases": 40}), tmp_path, Terminal())
    assert prepare(make_recipe(tmp_path), tmp_path, Terminal()).reused
    other = make_recipe(tmp_path, kind=other_kind)
    read = prepare(other, tmp_path, Terminal())
    assert not read.reused
    assert read.folder != first.folder
    assert prepare(other, tmp_path, Terminal()).reused
    stamps = {compute_stamp(recipe) for recipe in (other, make_recipe(tmp_path))}
    for version in (2, "2026-11"):
        monkeypatch.setattr(BusBra, "version", version, raising=False)
        stamps |= {compute_stamp(recipe) for recipe in (other, make_recipe(tmp_path))}
    assert len(stamps) == 6


def test_folders_that_were_prepared_before_are_used_again(tmp_path: Path) -> None:
    """Stamps are as they were before they named kind and version."""
    recipe = make_recipe(tmp_path, phantom={"cases": 10})
    found = compute_stamp(recipe)
    root = tmp_path / "data"
    digest = hashlib.sha256(f"{READER_VERSION} {root.resolve()}".encode())
    for path in (root / "bus_data.csv", root / "5-fold-cv.csv", *sorted(root.glob("*/*.png"))):
        status = path.stat()
        digest.update(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    assert found == digest.hexdigest()
