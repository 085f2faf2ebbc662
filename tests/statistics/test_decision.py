"""One rule for gain, loss, no difference that matters, undecided and withheld."""

import numpy as np
import pytest

from t2m_bench.statistics.crossed import Contrast, estimate_crossed
from t2m_bench.statistics.decision import Decision, Outcome, Reason, Size, decide, withhold
from t2m_bench.statistics.outliers import (
    drop_outlying_patients,
    find_outlying_excess,
    find_outlying_patients,
    find_outlying_runs,
)

MARGIN = 0.005


def judge(mean: float, error: float, **given: float) -> Decision:
    """Decide on a difference whose patients are all far on its side, so that no sign flip speaks against it."""
    table = mean + np.linspace(-1, 1, 100)[:, None] * abs(mean) / 2
    return decide(Contrast(mean, error, 1000.0, 100, 5, 3), [table], MARGIN, np.random.default_rng(0), **given)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("mean", "error", "outcome", "size"),
    [
        (0.02, 0.005, Outcome.GAIN, Size.MORE),
        (0.003, 0.001, Outcome.GAIN, Size.LESS),
        (0.006, 0.002, Outcome.GAIN, Size.OPEN),
        (0.001, 0.002, Outcome.NO_DIFFERENCE, None),
        (0.003, 0.002, Outcome.UNDECIDED, None),
    ],
)
def test_gain_and_loss_follow_one_rule(
    mean: float, error: float, outcome: Outcome, size: Size | None, sign: int
) -> None:
    mirrored = Outcome.LOSS if outcome is Outcome.GAIN and sign < 0 else outcome
    found = judge(sign * mean, error)
    assert (found.outcome, found.size) == (mirrored, size)
    assert (found.reason is Reason.SPREAD) == (outcome is Outcome.UNDECIDED)


def test_a_member_of_a_family_must_stand_after_adjustment() -> None:
    assert judge(0.02, 0.008, p=0.03, equivalence_p=1.0).outcome is Outcome.GAIN
    assert judge(0.02, 0.008, p=0.06, equivalence_p=1.0).outcome is Outcome.UNDECIDED
    assert judge(-0.02, 0.008, p=0.06, equivalence_p=1.0).outcome is Outcome.UNDECIDED
    assert judge(0.001, 0.002, p=0.6, equivalence_p=0.06).outcome is Outcome.UNDECIDED


def decide_on(*tables: np.ndarray) -> Decision:
    return decide(estimate_crossed(tables), tables, MARGIN, np.random.default_rng(0))


def test_folds_that_disagree_leave_it_undecided_and_are_the_reason() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, (40, 1))
    found = decide_on(*(shift + noise for shift in (0.0, 0.01, 0.02, 0.05)))
    assert (found.outcome, found.reason) == (Outcome.UNDECIDED, Reason.FOLDS)


def test_few_patients_are_a_reason() -> None:
    found = decide_on(np.zeros((2, 5)))
    assert (found.outcome, found.reason) == (Outcome.UNDECIDED, Reason.FEW_PATIENTS)


@pytest.mark.parametrize(
    ("patients", "value", "outcome"),
    [
        (3, 0.0004, Outcome.UNDECIDED),
        (9, 0.02, Outcome.UNDECIDED),
        (12, 0.0, Outcome.NO_DIFFERENCE),
        (12, 0.0004, Outcome.NO_DIFFERENCE),
        (12, -0.02, Outcome.LOSS),
    ],
)
def test_equal_differences_prove_nothing_in_few_patients(patients: int, value: float, outcome: Outcome) -> None:
    found = decide_on(np.full((patients, 2), value))
    assert found.outcome is outcome
    assert (found.reason is Reason.CONSTANT) == (outcome is Outcome.UNDECIDED)


def test_a_gain_that_few_patients_pay_for_is_withheld() -> None:
    """Most gain a little and one in ten loses: the sample saw few of the losses."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.02, 0.002, (100, 1))
    values[:8] = -0.03
    found = decide_on(values)
    assert found.contrast is not None
    assert found.contrast.low > 0
    assert found.outlying_patients == pytest.approx(0.08)
    assert (found.outcome, found.reason) == (Outcome.WITHHELD, Reason.FEW_DECIDE)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_claim_that_stands_without_the_patients_who_gain_most_is_made(sign: int) -> None:
    """All gain some 0.02 and eight in a hundred gain 0.2: the interval is only wider for them."""
    values = np.random.default_rng(0).normal(0.02, 0.002, (100, 1))
    values[:8] = 0.2
    found = decide_on(sign * values)
    assert found.outlying_patients == pytest.approx(0.08)
    assert found.outcome is (Outcome.GAIN if sign > 0 else Outcome.LOSS)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_claim_that_is_gone_without_few_patients_is_withheld(sign: int) -> None:
    """Eight in a hundred gain 0.03 to 0.05, the others nothing."""
    values = np.random.default_rng(0).normal(0.0, 0.002, (100, 1))
    values[:8, 0] = np.linspace(0.03, 0.05, 8)
    found = decide_on(sign * values)
    assert found.contrast is not None
    assert found.contrast.p < 0.01
    assert (found.outcome, found.reason) == (Outcome.WITHHELD, Reason.FEW_DECIDE)


def test_outlying_patients_are_dropped_on_one_side_about_their_own_fold() -> None:
    tables = [np.array([*np.linspace(-1, 1, 9), 9.0, -9.0])[:, None] + shift for shift in (0.0, 50.0)]
    above = drop_outlying_patients(tables, above=True)
    assert [len(table) for table in above] == [10, 10]
    assert [table.max() for table in above] == [1.0, 51.0]
    assert [table.min() for table in drop_outlying_patients(tables, above=False)] == [-1.0, 49.0]


def test_runs_that_collapse_withhold_the_verdict() -> None:
    rng = np.random.default_rng(0)
    tables = [0.02 + rng.normal(0, 0.004, (30, 1)) + rng.normal(0, 0.001, (30, 5)) for _ in range(2)]
    for table in tables:
        table[:, 0] -= 0.012
    found = decide_on(*tables)
    assert found.contrast is not None
    assert found.contrast.low > 0
    assert found.outlying_runs == pytest.approx(0.2)
    assert found.outcome is Outcome.WITHHELD


def test_a_gain_that_sign_flips_do_not_find_is_withheld() -> None:
    values = np.array([0.02, 0.021, 0.019, 0.02, 0.0205])[:, None]
    found = decide_on(values)
    assert found.contrast is not None
    assert found.contrast.p < 0.001
    assert found.sign_flip_p == pytest.approx(2 / 32)
    assert found.outcome is Outcome.WITHHELD


def test_outlying_values_count_where_one_side_has_more() -> None:
    spread = np.linspace(-1, 1, 96)
    assert find_outlying_excess(np.array([*spread, 9.0, 9.0, -9.0, -9.0])) == 0
    assert find_outlying_excess(np.array([*spread, -9.0, -9.0, -9.0, 9.0])) == pytest.approx(-0.02)
    assert np.isnan(find_outlying_excess(np.arange(7.0)))
    zeros = np.zeros(100)
    zeros[:2] = 1.0
    assert find_outlying_excess(zeros) == pytest.approx(0.02)
    shifted = [spread[:48, None] + 5, spread[48:, None]]
    assert find_outlying_patients(shifted) == 0, "each about its own fold"
    assert np.isnan(find_outlying_runs(shifted))


def test_what_is_withheld_keeps_its_figures() -> None:
    found = judge(0.02, 0.005)
    kept = withhold(found, Reason.NO_LANGUAGE_MODEL)
    assert (kept.outcome, kept.size, kept.reason) == (Outcome.WITHHELD, None, Reason.NO_LANGUAGE_MODEL)
    assert (kept.contrast, kept.margin) == (found.contrast, found.margin)
