from dataclasses import replace
from pathlib import Path

import pytest
from messages import is_named, raises_naming

from t2m_bench.data.audit import check_audit, run_audit
from t2m_bench.data.case import Case
from t2m_bench.data.manifest import compute_manifest_hash, load_manifest, write_manifest
from t2m_bench.data.splits import Splits
from t2m_bench.errors import DatasetError, LeakageError

IMAGE = (Path("Images/i.png"), Path("Masks/m.png"), 9, 9, (0, 0, 3, 3))
SPECKS = ("mask_specks",)
FLAGS = ((), ("mask_specks",))
CASES = [
    Case(
        f"c{number}",
        f"p{number}",
        *IMAGE,
        {"birads": "2"},
        1,
        None,
        ("mask_specks",) * (number == 3),
        f"hash{number}",
        "mask",
    )
    for number in range(6)
]
SPLITS = Splits(("c0", "c1"), ("c2", "c3"), ("c4", "c5"))


def test_clean_splits_pass_and_are_counted() -> None:
    audit = run_audit(CASES, SPLITS, "birads", {"other"})
    check_audit(audit, allow_leakage=False, test_fold=3)
    assert audit.cases == audit.patients == {"train": 2, "val": 2, "test": 2}
    assert audit.classes["val"] == {"2": 2}
    assert audit.flags == {"mask_specks": 1}


@pytest.mark.parametrize(
    ("number", "change", "seen", "named"),
    [
        (5, {"patient_id": "p1"}, set(), {"1", "patients", "train", "test", "c5"}),
        (3, {"patient_id": "p0"}, set(), {"1", "patients", "train", "val", "c3"}),
        (4, {"image_sha256": "hash2"}, set(), {"1", "images", "val", "test", "c4"}),
        (0, {}, {"hash4"}, {"1", "images", "test", "encoder", "c4"}),
    ],
)
def test_each_planted_leak_is_refused_and_can_be_allowed(
    number: int, change: dict[str, str], seen: set[str], named: set[str]
) -> None:
    cases = [replace(case, **change) if position == number else case for position, case in enumerate(CASES)]
    audit = run_audit(cases, SPLITS, "birads", seen)
    with raises_naming(LeakageError, 3, *named) as caught:
        check_audit(audit, allow_leakage=False, test_fold=3)
    parts = {"train", "val", "test", "patients", "encoder"}
    assert {part for part in parts if is_named(str(caught.value), part)} == named & parts
    check_audit(audit, allow_leakage=True, test_fold=3)
    assert not any("c4" in sentence or "p1" in sentence for sentence in audit.leaks)


def test_a_manifest_reads_back_equal_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, CASES)
    assert load_manifest(path) == CASES
    assert path.stat().st_mode & 0o077 == 0
    assert compute_manifest_hash(load_manifest(path)) == compute_manifest_hash(CASES)
    assert compute_manifest_hash([replace(CASES[0], image_sha256="x"), *CASES[1:]]) != compute_manifest_hash(CASES)


def test_a_spoilt_manifest_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, CASES[:2])
    path.write_text(path.read_text() + '{"case_id": 1}\n')
    with raises_naming(DatasetError, "manifest.jsonl", "line 4"):
        load_manifest(path)
    with pytest.raises(DatasetError, match="absent"):
        load_manifest(tmp_path / "none.jsonl")


def test_a_manifest_cut_at_the_end_of_a_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, CASES)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with raises_naming(DatasetError, path, len(CASES) - 1, len(CASES)):
        load_manifest(path)
    path.write_text("".join(lines[1:]))
    with raises_naming(DatasetError, path, "KeyError"):
        load_manifest(path)
