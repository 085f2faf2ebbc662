import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from t2m_bench.statistics.crossed import RAISE, average_seeds, estimate_crossed, make_fold_tables


def test_a_table_worked_out_by_hand() -> None:
    """Patients' means 1, 2, 3 and seeds' means 1, 3 around 2, no residual: MS_patient 2, MS_seed 6, MS_residual 0."""
    table = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])
    found = estimate_crossed([table])
    assert found.mean == pytest.approx(2)
    assert found.standard_error**2 == pytest.approx((2 + 6 - 0) / (3 * 2))
    raised = 6 * (1 + RAISE * np.sqrt(2 / 1))
    assert found.degrees == pytest.approx((2 + raised) ** 2 / (2**2 / 2 + raised**2 / 1))
    assert (found.num_patients, found.num_seeds, found.num_folds) == (3, 2, 1)
    low, high = found.find_interval()
    assert high - found.mean == pytest.approx(found.mean - low)


def test_one_seed_is_a_t_test_over_patients() -> None:
    values = np.random.default_rng(0).normal(0.01, 0.03, 40)
    found = estimate_crossed([values[:, None]])
    expected = stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.find_interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert found.degrees == pytest.approx(39)


def test_mean_squares_are_those_of_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(2)
    table = rng.normal(0, 1, (12, 1)) + rng.normal(0, 1, (1, 5)) + rng.normal(0, 0.5, (12, 5))
    rows = pd.DataFrame(
        [(p, s, table[p, s]) for p in range(12) for s in range(5)], columns=["patient", "seed", "difference"]
    )
    squares = anova_lm(smf.ols("difference ~ C(patient) + C(seed)", rows).fit())
    squares = squares["sum_sq"] / squares["df"]
    variance = (squares["C(patient)"] + squares["C(seed)"] - squares["Residual"]) / 60
    assert estimate_crossed([table]).standard_error ** 2 == pytest.approx(variance)


def test_a_mixed_model_gives_the_same_error() -> None:
    """REML on a balanced table equals the mean squares' estimate where no variance is negative."""
    rng = np.random.default_rng(5)
    table = 0.02 + rng.normal(0, 0.03, (25, 1)) + rng.normal(0, 0.01, (1, 5)) + rng.normal(0, 0.01, (25, 5))
    rows = pd.DataFrame(
        [(p, s, 100 * table[p, s]) for p in range(25) for s in range(5)], columns=["patient", "seed", "difference"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = smf.mixedlm(
            "difference ~ 1", rows, groups=np.ones(len(rows)), re_formula="0",
            vc_formula={"patient": "0 + C(patient)", "seed": "0 + C(seed)"},
        ).fit()  # fmt: skip
    ours = estimate_crossed([table])
    assert fitted.params["Intercept"] / 100 == pytest.approx(ours.mean)
    assert fitted.bse["Intercept"] / 100 == pytest.approx(ours.standard_error, rel=0.02)


def test_folds_count_by_their_patients_and_share_the_seed_variance() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 1, (10, 3)), rng.normal(5, 1, (30, 3))
    found = estimate_crossed([one, other])
    assert found.mean == pytest.approx((10 * one.mean() + 30 * other.mean()) / 40)
    assert found.num_folds == 2


def test_no_variance_between_runs_costs_nothing() -> None:
    """Where runs differ less than the residual would make them, patients alone decide."""
    patients = np.arange(6.0)[:, None]
    wobble = np.array([[0.1, -0.1], [-0.1, 0.1]] * 3)
    found = estimate_crossed([patients + wobble])
    assert found.standard_error == pytest.approx(patients.std(ddof=1) / np.sqrt(6))
    assert found.degrees < 5.1


def test_few_patients_and_equal_values_give_no_false_precision() -> None:
    assert np.isnan(estimate_crossed([np.zeros((2, 5))]).low)
    flat = estimate_crossed([np.full((4, 2), 0.01)])
    assert (flat.low, flat.mean, flat.high, flat.p) == (0.01, 0.01, 0.01, 0.0)
    assert estimate_crossed([np.zeros((4, 2))]).p == 1.0


def test_the_smallest_detectable_difference_of_96_patients() -> None:
    """SD 0.02 to 0.03 in 96 patients: 0.006 to 0.009."""
    values = np.random.default_rng(0).normal(0, 1, 96)
    values = (values - values.mean()) / values.std(ddof=1)
    for spread, expected in ((0.02, 0.006), (0.03, 0.009)):
        assert estimate_crossed([spread * values[:, None]]).smallest_detectable == pytest.approx(expected, abs=0.0005)


def make_rows(arm: str, seeds: list[int], values: dict[str, float], fold: int = 1) -> pd.DataFrame:
    rows = [(case[0], case, seed, fold, value + 0.1 * max(seed, 0)) for seed in seeds for case, value in values.items()]
    return pd.DataFrame(rows, columns=["patient", "case", "seed", "fold", "dice"]).assign(arm=arm)


def test_tables_pair_cases_and_runs() -> None:
    one = make_rows("a", [0, 1], {"a1": 0.8, "a2": 0.6, "b1": 0.5})
    other = make_rows("b", [1, 2], {"a1": 0.7, "b1": 0.6})
    (table,) = make_fold_tables(one, other, "dice")
    np.testing.assert_allclose(table, [[0.1], [-0.1]])


def test_what_is_not_trained_stands_against_every_run() -> None:
    one = make_rows("a", [0, 1], {"a1": 0.8, "a2": 0.6, "b1": 0.5})
    floor = make_rows("floor", [-1], {"a1": 0.7, "a2": 0.7, "b1": 0.5})
    (table,) = make_fold_tables(one, floor, "dice")
    np.testing.assert_allclose(table, [[0.0, 0.1], [0.0, 0.1]], atol=1e-12)
    np.testing.assert_allclose(make_fold_tables(floor, floor, "dice")[0], [[0.0], [0.0]])
    np.testing.assert_allclose(average_seeds([table])[0], [[0.05], [0.05]])


def test_a_fold_that_one_arm_lacks_is_left_out() -> None:
    values = {"a1": 0.8, "b1": 0.5}
    one = pd.concat([make_rows("a", [0], values), make_rows("a", [0], {"c1": 0.9}, fold=2)])
    assert len(make_fold_tables(one, make_rows("b", [0], values), "dice")) == 1
    assert make_fold_tables(one, make_rows("b", [3], values), "dice") == []
