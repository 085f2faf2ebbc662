from dataclasses import replace
from pathlib import Path

import pytest

from t2m_bench.data.box_size import compute_size_auc, measure_boxes_mm
from t2m_bench.data.case import Case

PLAIN = Case("c", "p", Path("i"), Path("m"), 99, 99, (0, 0, 9, 9), {"t": "T1"}, None, (1.0, 1.0), (), "", "")
STAGES = ("T1", "T2", "T3")


def make_cases(*rows: tuple[str, str, int, float]) -> list[Case]:
    """One case a (patient, stage, side in pixels, spacing)."""
    return [
        replace(PLAIN, patient_id=name, text_fields={"t": stage}, box_xyxy=(5, 5, 5 + side, 7), spacing_mm=(mm, mm))
        for name, stage, side, mm in rows
    ]


def test_a_patient_counts_with_the_longest_side_in_mm() -> None:
    cases = make_cases(("a", "T1", 10, 1.0), ("a", "T1", 30, 1.0), ("b", "T1", 10, 2.0))
    cases.append(replace(PLAIN, patient_id="c", spacing_mm=None))
    cases.append(replace(PLAIN, patient_id="d", box_xyxy=(0, 0, 4, 10), spacing_mm=(0.5, 2.0)))
    assert measure_boxes_mm(cases) == {"a": 30.0, "b": 20.0, "d": 8.0}


def test_pairs_by_hand() -> None:
    cases = make_cases(
        ("a", "T1", 10, 1.0),
        ("b", "T1", 30, 1.0),
        ("c", "T2", 20, 1.0),
        ("d", "T3", 30, 1.0),
        ("e", "unknown", 90, 1.0),
    )
    # T1 against T2: 1 of 2; T1 against T3: 1 and a tie of 2; T2 against T3: 1 of 1
    assert compute_size_auc(cases, "t", STAGES) == pytest.approx((0.5 + 0.75 + 1.0) / 3)
    assert compute_size_auc(cases, "t", STAGES[::-1]) == pytest.approx((0.5 + 0.25 + 0.0) / 3)


def test_nothing_to_compare_is_none() -> None:
    assert compute_size_auc(make_cases(("a", "T1", 10, 1.0)), "t", STAGES) is None
    assert compute_size_auc([replace(PLAIN, spacing_mm=None)] * 3, "t", STAGES) is None
