import numpy as np
import pandas as pd
import pytest
from scipy import stats

from t2m_bench.statistics import tests
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


def test_a_family_s_claims_are_adjusted_together() -> None:
    """Two members: times 2 for the first three of four tests, then times 1, never below the one before."""
    differences, equivalences = tests.adjust_claims([0.01, 0.9], [0.8, 0.02])
    assert differences == pytest.approx([0.02, 1.0])
    assert equivalences == pytest.approx([1.0, 0.04])
    assert tests.adjust_claims([0.01], [0.6]) == ([0.01], [0.6])
    awaited, _ = tests.adjust_claims([0.01], [0.6], num_awaited=3)
    assert awaited == pytest.approx([0.04])
    (tested, without), _ = tests.adjust_claims([0.02, float("nan")], [0.5, float("nan")])
    assert tested == pytest.approx(0.02)
    assert np.isnan(without)
    assert tests.adjust_claims([], []) == ([], [])


def test_a_family_at_the_margin_and_at_0_makes_few_false_claims() -> None:
    """Half of the members have no difference, half one of the margin: in 5 % of families at most any claim is false."""
    rng = np.random.default_rng(0)
    draws, false = 2000, 0
    for _ in range(draws):
        z = rng.normal([0.0, 0.0, 3.0, 3.0], 1)
        differences = list(2 * stats.norm.sf(abs(z)))
        equivalences = list(stats.norm.sf(3.0 - abs(z)))
        of_difference, of_equivalence = tests.adjust_claims(differences, equivalences)
        false += min(*of_difference[:2], *of_equivalence[2:]) < 0.05
    assert stats.binomtest(false, draws, 0.05, alternative="greater").pvalue > 1e-3


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
