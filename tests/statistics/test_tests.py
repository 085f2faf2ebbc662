import numpy as np
import pandas as pd
import pytest
from scipy import stats

from t2m_bench.statistics import tests
from t2m_bench.statistics.crossed import estimate_crossed
from t2m_bench.statistics.ranking import compute_rank_shares, compute_standardised_difference, compute_superiority


def test_sign_flips_of_five_patients_by_hand() -> None:
    """All of 5 positive: 2 of the 32 sign patterns are as extreme."""
    found = tests.flip_signs(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.random.default_rng(0))
    assert found == pytest.approx(2 / 32)


def test_signed_ranks_by_hand_and_with_zeros() -> None:
    assert tests.rank_signs(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 32)
    assert tests.rank_signs(np.zeros(4)) == 1.0
    assert tests.rank_signs(np.array([0.0, 0.0, 1.0, 2.0, -0.5])) > 0.2


def test_equivalence_is_two_one_sided_t_tests() -> None:
    values = np.random.default_rng(0).normal(0.001, 0.01, 50)
    lower = stats.ttest_1samp(values, -0.005, alternative="greater").pvalue
    upper = stats.ttest_1samp(values, 0.005, alternative="less").pvalue
    assert tests.find_equivalence(values, 0.005) == pytest.approx(max(lower, upper))
    assert tests.find_equivalence(np.full(5, 0.001), 0.005) == 0.0
    assert tests.find_equivalence(np.full(5, 0.01), 0.005) == 1.0


def test_holm_by_hand() -> None:
    """0.01 x 3; 0.02 x 2; the largest stays but not below the one before."""
    assert tests.adjust_family([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    adjusted = tests.adjust_family([0.02, float("nan"), 0.5])
    assert adjusted[0] == pytest.approx(0.04)
    assert np.isnan(adjusted[1])
    assert tests.adjust_family([]) == []


def test_the_bootstrap_over_patients_and_runs_agrees_with_the_default() -> None:
    rng = np.random.default_rng(3)
    tables = [
        0.01 + rng.normal(0, 0.03, (80, 1)) + rng.normal(0, 0.004, (1, 6)) + rng.normal(0, 0.01, (80, 6))
        for _ in range(4)
    ]
    low, high = tests.bootstrap_crossed(tables, rng)
    found = estimate_crossed(tables)
    assert low == pytest.approx(found.low, abs=0.0015)
    assert high == pytest.approx(found.high, abs=0.0015)


def test_effect_sizes_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, 0.0])
    assert compute_superiority(values) == pytest.approx(0.875)
    assert compute_standardised_difference(values) == pytest.approx(1.5 / np.sqrt(5 / 3))
    assert np.isnan(compute_standardised_difference(np.ones(3)))


def test_an_arm_that_is_better_in_every_patient_is_always_first() -> None:
    means = pd.DataFrame({"good": [0.9, 0.8, 0.7], "bad": [0.5, 0.6, 0.65]})
    shares = compute_rank_shares(means, np.random.default_rng(0))
    assert shares.loc["good", 1] == 1.0
    assert shares.loc["bad", 2] == 1.0
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
