import numpy as np
import pandas as pd
import pytest
from scipy import stats

from t2m_bench.statistics.intervals import compute_patient_means, estimate_mean


def make_table(rows: list[tuple[str, str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["patient", "case", "seed", "dice"])


def test_a_patient_counts_once_however_many_images_and_seeds() -> None:
    rows = [("a", "a1", 0, 0.8), ("a", "a1", 1, 0.6), ("a", "a2", 0, 0.9), ("a", "a2", 1, 0.9), ("b", "b1", 0, 0.5)]
    means = compute_patient_means(make_table([*rows, ("b", "b1", 1, 0.7)]), "dice")
    assert means.to_dict() == pytest.approx({"a": 0.8, "b": 0.6})


def test_the_interval_covers_as_promised() -> None:
    rng = np.random.default_rng(1)
    draws = 200
    hits = 0
    for _ in range(draws):
        found = estimate_mean(pd.Series(rng.normal(0.9, 0.05, 50)), rng)
        hits += found.low <= 0.9 <= found.high
    assert stats.binomtest(hits, draws, 0.95).pvalue > 1e-3


def test_few_or_equal_patients_give_no_false_precision() -> None:
    rng = np.random.default_rng(0)
    assert np.isnan(estimate_mean(pd.Series([0.5, 0.6]), rng).low)
    flat = estimate_mean(pd.Series([0.5, 0.5, 0.5]), rng)
    assert (flat.low, flat.mean, flat.high) == (0.5, 0.5, 0.5)
