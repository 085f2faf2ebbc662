import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from t2m_bench.statistics.crossed import (
    EXTRA_STANDARD_ERRORS,
    NoTest,
    average_seeds,
    count_unpaired_runs,
    estimate_crossed,
    estimate_given_models,
    find_shared_seeds,
    make_fold_tables,
)


def test_a_table_worked_out_by_hand() -> None:
    """Patients' means 1, 2, 3 and seeds' means 1, 3 around 2, no residual: MS_patient 2, MS_seed 6, MS_residual 0."""
    table = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])
    found = estimate_crossed([table])
    assert found.mean == pytest.approx(2)
    assert found.standard_error**2 == pytest.approx((2 + 6 - 0) / (3 * 2))
    raised = 6 * (1 + EXTRA_STANDARD_ERRORS * np.sqrt(2 / 1))
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
    few = estimate_crossed([np.zeros((2, 5))])
    assert few.no_test is NoTest.FEW_PATIENTS
    assert np.isnan(few.low)
    for value in (0.01, 0.0):
        flat = estimate_crossed([np.full((3, 2), value)])
        assert flat.mean == pytest.approx(value)
        assert flat.no_test is NoTest.CONSTANT
        assert np.isnan([flat.low, flat.high, flat.p, flat.find_equivalence_p(0.005)]).all()


def test_a_fold_of_one_or_two_patients_takes_the_spread_of_all_folds() -> None:
    """Variances of patients 2 (df 2) and 8 (df 1), one fold of a single patient: pooled (2 x 2 + 8) / 3."""
    tables = [np.array([[0.0], [2.0], [1.0 + 3**0.5], [1.0 - 3**0.5]]), np.array([[3.0], [7.0]]), np.array([[5.0]])]
    first = float(tables[0].var(ddof=1))
    pooled = (3 * first + 8) / 4
    found = estimate_crossed(tables)
    assert found.no_test is None
    assert found.standard_error**2 == pytest.approx((4 * first + (2 + 1) * pooled) / 49)
    assert found.fold_means == pytest.approx((1, 5, 5))
    assert found.fold_patients == (4, 2, 1)


def test_ten_folds_of_two_patients_are_not_silenced() -> None:
    rng = np.random.default_rng(0)
    found = estimate_crossed([0.05 + rng.normal(0, 0.01, (2, 5)) for _ in range(10)])
    assert found.low > 0
    assert found.p < 0.001


def test_folds_of_one_patient_each_leave_the_spread_between_folds() -> None:
    values = np.array([0.01, 0.03, 0.02, 0.04, 0.05])
    found = estimate_crossed([np.full((1, 2), value) for value in values])
    assert np.isnan(found.standard_error)
    expected = stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_of_many_folds_the_wider_interval_decides() -> None:
    """Patients of one fold agree, folds do not: with folds random the interval is that of a t test over fold means."""
    rng = np.random.default_rng(0)
    shifts = np.array([0.0, 0.01, 0.02, 0.05])
    noise = rng.normal(0, 0.001, (30, 1))
    tables = [shift + noise - noise.mean() for shift in shifts]
    found = estimate_crossed(tables)
    expected = stats.ttest_1samp(shifts, 0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.find_default_interval()[0] > 0 > found.find_folds_interval()[0]
    assert found.heterogeneity_p < 0.001
    three = estimate_crossed(tables[:3])
    assert (three.low, three.high) == three.find_default_interval(), "three folds say too little of other splits"
    assert not np.isnan(three.folds_error)
    given = estimate_given_models(tables)
    assert (given.low, given.high) == given.find_default_interval()
    assert np.isnan(given.heterogeneity_p)


def test_heterogeneity_is_cochran_s_q_over_its_degrees() -> None:
    tables = [np.array([[0.0], [2.0], [4.0]]), np.array([[1.0], [5.0], [6.0]])]
    pooled = (4 + 7) / 2
    q = (4 - 2) ** 2 / (2 * pooled / 3)
    found = estimate_crossed(tables)
    assert found.heterogeneity_p == pytest.approx(stats.f.sf(q, 1, found.degrees))


def test_equivalence_is_the_90_percent_interval_within_the_margin() -> None:
    found = estimate_crossed([np.random.default_rng(0).normal(0.001, 0.01, (50, 1))])
    low, high = found.find_interval(0.9)
    assert found.find_equivalence_p(max(-low, high) * 1.001) < 0.05 < found.find_equivalence_p(max(-low, high) * 0.999)
    values = np.random.default_rng(1).normal(0.001, 0.01, 50)
    expected = max(
        stats.ttest_1samp(values, -0.005, alternative="greater").pvalue,
        stats.ttest_1samp(values, 0.005, alternative="less").pvalue,
    )
    assert estimate_crossed([values[:, None]]).find_equivalence_p(0.005) == pytest.approx(expected)


def draw_runs(rng: np.random.Generator, shared: float, own: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two arms of four folds, five seeds and 30 patients a fold, with effects of seed, and of seed and fold."""
    of_seed = rng.normal(0, shared, 5)
    rows = [
        (f"{fold}-{patient}", f"{fold}-{patient}", seed, fold, of_seed[seed] + of_both[seed] + rng.normal(0, 0.005))
        for fold in range(1, 5)
        for of_both in [rng.normal(0, own, 5)]
        for seed in range(5)
        for patient in range(30)
    ]
    one = pd.DataFrame(rows, columns=["patient", "case", "seed", "fold", "dice"])
    return one, one.assign(dice=0.0)


def test_an_effect_that_runs_of_one_seed_share_over_folds_is_found() -> None:
    rng = np.random.default_rng(3)
    apart, together = find_shared_seeds(*draw_runs(rng, 0.0, 0.006), "dice"), find_shared_seeds(
        *draw_runs(rng, 0.006, 0.001), "dice"
    )  # fmt: skip
    assert apart.p > 0.05
    assert together.p < 0.001
    assert together.share > 0.7
    one, other = draw_runs(rng, 0.006, 0.001)
    assert np.isnan(find_shared_seeds(one[one["fold"] == 1], other, "dice").p)


def test_runs_without_a_partner_are_counted() -> None:
    one, other = (make_rows(arm, seeds, {"a1": 0.8}) for arm, seeds in (("a", [0, 1, 2]), ("b", [2, 3])))
    assert count_unpaired_runs(one, other) == 3
    assert count_unpaired_runs(one, make_rows("floor", [-1], {"a1": 0.7})) == 0


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
