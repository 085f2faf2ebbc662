import numpy as np
import pytest
from scipy import stats

from t2m_bench.statistics.paired_location import estimate_location


def test_three_patients_by_hand() -> None:
    """Means of all pairs of 1, 2, 6, each with itself too: 1, 1.5, 2, 3.5, 4, 6; no interval at 95 %."""
    found = estimate_location(np.array([1.0, 2.0, 6.0]))
    assert found.difference == pytest.approx(2.75)
    assert np.isnan([found.low, found.high]).all()


def test_of_six_patients_the_interval_is_the_widest() -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0, 11.0, 16.0])
    found = estimate_location(values)
    assert (found.low, found.high) == (1.0, 16.0), "2 of 64 patterns are beyond it: 3 %"


@pytest.mark.parametrize("patients", [12, 50, 51, 120])
def test_the_interval_holds_what_signed_ranks_do_not_reject(patients: int) -> None:
    values = np.random.default_rng(patients).normal(1.0, 2.0, patients)
    found = estimate_location(values)
    method = "exact" if patients <= 50 else "approx"
    for end, inside in ((found.low, 1e-9), (found.high, -1e-9)):
        assert stats.wilcoxon(values - end - inside, method=method).pvalue > 0.05
        assert stats.wilcoxon(values - end + inside, method=method).pvalue <= 0.051


def test_nothing_to_compare() -> None:
    found = estimate_location(np.empty(0))
    assert np.isnan([found.difference, found.low, found.high]).all()
