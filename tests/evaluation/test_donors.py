from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from t2m_bench.data.case import Case
from t2m_bench.evaluation.donors import Donors

FIELDS = ("t_stage", "histology")


def make_case(number: int, t_stage: str, histology: str, patient: int) -> Case:
    fields = {"t_stage": t_stage, "histology": histology}
    place = (Path("x"), Path("x"), 50, 50, (1, 1, 9, 9))
    return Case(f"case-{number}", f"p{patient}", *place, fields, 1, None, (), "", "")


def draw_cases(num: int, num_patients: int, seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    stages, types = ("T1", "T2", "T3", "unknown"), ("A", "B", "unknown")
    return [
        make_case(number, str(rng.choice(stages)), str(rng.choice(types)), int(rng.integers(num_patients)))
        for number in range(num)
    ]


def list_allowed(case: Case, cases: Sequence[Case]) -> list[Case]:
    """Return the cases that may give their text, by the definition: each is looked at."""
    return [
        other
        for other in cases
        if other.patient_id != case.patient_id
        if other.text_fields != case.text_fields
        if "unknown" not in other.text_fields.values()
    ]


@pytest.mark.parametrize(("num", "num_patients"), [(1, 1), (12, 3), (40, 40), (300, 5), (900, 250)])
def test_draws_equal_those_from_a_list_of_all_allowed_cases(num: int, num_patients: int) -> None:
    cases = draw_cases(num, num_patients, seed=num)
    donors = Donors(cases, FIELDS)
    for place, case in enumerate(cases):
        allowed = list_allowed(case, cases)
        rng = np.random.default_rng([10, place])
        expected = allowed[int(rng.integers(len(allowed)))] if allowed else None
        again = np.random.default_rng([10, place])
        assert donors.draw(case, again) is expected
        assert again.integers(1 << 40) == rng.integers(1 << 40), "later draws of the case are the same too"


def test_every_allowed_case_is_drawn_equally_often() -> None:
    cases = draw_cases(30, 8, seed=3)
    donors, rng = Donors(cases, FIELDS), np.random.default_rng(0)
    for case in cases[:4]:
        allowed = list_allowed(case, cases)
        assert len(allowed) > 5
        drawn = [donors.draw(case, rng) for _ in range(3000)]
        assert None not in drawn
        counts = Counter(donor.case_id for donor in drawn if donor is not None)
        assert counts.keys() == {other.case_id for other in allowed}
        expected = 3000 / len(allowed)
        chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
        degrees = len(allowed) - 1
        assert chi_square < degrees + 4 * np.sqrt(2 * degrees), "4 standard deviations of a chi-square"


def test_a_case_that_is_not_among_the_donors_draws_from_them() -> None:
    cases = [make_case(0, "T1", "A", 0), make_case(1, "T2", "A", 1)]
    donors, rng = Donors(cases, FIELDS), np.random.default_rng(0)
    assert donors.draw(make_case(2, "T1", "A", 2), rng) is cases[1]
    assert donors.draw(make_case(3, "T3", "A", 1), rng) is cases[0]
    assert donors.draw(make_case(4, "unknown", "A", 0), rng) is cases[1]
