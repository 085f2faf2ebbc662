import numpy as np
import pandas as pd
import pytest
from messages import check_names
from scipy import stats

from t2m_bench.statistics.intervals import compute_patient_means, estimate_mean


def make_table(rows: list[tuple[str, str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["patient", "case", "seed", "dice"])


def test_a_patient_counts_once_however_many_images_and_seeds() -> None:
    rows = [("a", "a1", 0, 0.8), ("a", "a1", 1, 0.6), ("a", "a2", 0, 0.9), ("a", "a2", 1, 0.9), ("b", "b1", 0, 0.5)]
    means = compute_patient_means(make_table([*rows, ("b", "b1", 1, 0.7)]), "dice")
    assert means.to_dict() == pytest.approx({"a": 0.8, "b": 0.6})


@pytest.mark.parametrize("patients", [10, 29, 50])
def test_the_interval_covers_as_promised(patients: int) -> None:
    rng = np.random.default_rng(1)
    draws = 200 if patients < 30 else 60
    hits = 0
    for _ in range(draws):
        found = estimate_mean(pd.Series(rng.normal(0.9, 0.05, patients)), rng)
        hits += found.low <= 0.9 <= found.high
    assert stats.binomtest(hits, draws, 0.95).pvalue > 1e-3


def test_of_few_patients_it_is_a_t_interval_and_of_very_few_none() -> None:
    rng = np.random.default_rng(0)
    values = pd.Series(rng.normal(0.9, 0.05, 29))
    found = estimate_mean(values, rng)
    assert (found.low, found.high) == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval()))
    assert found.why_no_interval == ""
    few = estimate_mean(values[:9], rng)
    assert np.isnan([few.low, few.high]).all()
    assert few.mean == pytest.approx(values[:9].mean())
    check_names(few.why_no_interval, 10)


def test_equal_patients_have_an_interval_of_no_width() -> None:
    flat = estimate_mean(pd.Series([0.5] * 12), np.random.default_rng(0))
    assert (flat.low, flat.mean, flat.high) == (0.5, 0.5, 0.5)
