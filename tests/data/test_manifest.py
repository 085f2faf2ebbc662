import json
from dataclasses import replace
from pathlib import Path

from messages import raises_naming

from t2m_bench.data.case import Case
from t2m_bench.data.manifest import compute_manifest_hash, load_manifest, write_manifest
from t2m_bench.errors import DatasetError

CASE = Case(
    "case-1", "patient-1", Path("a.png"), Path("b.png"), 40, 50, (1, 2, 9, 9), {"birads": "4"}, 2, (0.5, 0.5), ("x",),
    "0" * 64, "1" * 64, channels=3, source="series 7",
)  # fmt: skip
GROUPED = replace(CASE, case_id="case-2", strata={"scanner": "A"}, text="A mass, \u00fcber 2 cm.")

# phrase: a file as earlier versions wrote it, byte for byte
BEFORE = """{"num_cases": 1}
{"case_id": "case-1", "patient_id": "patient-1", "image_path": "a.png", "mask_path": "b.png", "height": 40, \
"width": 50, "box_xyxy": [1, 2, 9, 9], "text_fields": {"birads": "4"}, "fold": 2, "spacing_mm": [0.5, 0.5], \
"flags": ["x"], "image_sha256": "0000000000000000000000000000000000000000000000000000000000000000", \
"mask_sha256": "1111111111111111111111111111111111111111111111111111111111111111", "channels": 3, \
"source": "series 7"}
"""
"""A manifest from before cases had strata and text."""


def test_cases_come_back_with_strata_and_text_and_without(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, [CASE, GROUPED])
    assert load_manifest(path) == [CASE, GROUPED]
    _, plain, grouped = map(json.loads, path.read_text().splitlines())
    assert grouped.keys() - plain.keys() == {"strata", "text"}


def test_a_manifest_of_before_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(BEFORE)
    cases = load_manifest(path)
    assert cases == [CASE]
    assert compute_manifest_hash(cases) == compute_manifest_hash([CASE])
    write_manifest(path, cases)
    assert path.read_text() == BEFORE


def test_an_attribute_that_no_case_has_is_refused_naming_the_line(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(BEFORE.replace('"source"', '"sauce"'))
    with raises_naming(DatasetError, path, "line 2", "sauce"):
        load_manifest(path)
