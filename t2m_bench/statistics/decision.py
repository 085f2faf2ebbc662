"""Decides what a difference's intervals allow to claim, by one rule for gains and losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from t2m_bench.statistics.crossed import Contrast, FoldTable, NoTest, estimate_crossed
from t2m_bench.statistics.outliers import drop_outlying_patients, find_outlying_patients, find_outlying_runs
from t2m_bench.statistics.tests import flip_signs

ALPHA = 0.05

EQUIVALENCE_LEVEL = 0.90
"""The interval that lies within the margin exactly when two one-sided tests at 5 % both reject."""

FEW_PATIENTS = 10
"""Patients below which equal differences of all prove nothing, and a mean has no interval."""

MOST_OUTLYING = 0.05
"""Share of outlying patients or runs above which a verdict is withheld."""


class Outcome(StrEnum):
    """Conclusions that the intervals of a difference allow."""

    GAIN = "gain"
    LOSS = "loss"
    NO_DIFFERENCE = "no difference that matters"
    UNDECIDED = "undecided"
    WITHHELD = "withheld"


class Size(StrEnum):
    """How a gain or loss compares with the margin."""

    MORE = "by more than the margin"
    LESS = "by less than the margin"
    OPEN = "whether by more than the margin is open"


class Reason(StrEnum):
    """Why nothing is decided."""

    SPREAD = "the differences spread too widely for an answer either way"
    FOLDS = "the test folds differ too much among themselves"
    FEW_PATIENTS = "too few patients"
    CONSTANT = "all patients have the same difference, so that its error is not known"
    NO_SHARED_REPEATS = "the two arms share no training repeat"
    FEW_DECIDE = "a few patients or training runs decide this"
    NO_RESULTS = "an arm has no results"
    SMALL_EFFECT = "the text effect is below the margin, or not shown to be above 0"
    NO_EFFECT_KNOWN = "what the text does at all is not known"
    FEW_WORDINGS = "fewer than three held-out sentences a class say nothing of other wordings"
    NO_LANGUAGE_MODEL = "the text encoder is no language model"


@dataclass(frozen=True)
class Decision:
    """What a difference allows to claim, and why.

    Attributes:
        size: of a gain or loss; None else.
        reason: of an undecided or withheld outcome; None else.
        contrast: the difference; None where there is none.
        sign_flip_p: given these trained models, patients alone; NaN where it was not asked for.
        outlying_patients, outlying_runs: shares (`statistics.outliers`); NaN of too few.
    """

    outcome: Outcome
    margin: float
    size: Size | None = None
    reason: Reason | None = None
    contrast: Contrast | None = None
    sign_flip_p: float = math.nan
    outlying_patients: float = math.nan
    outlying_runs: float = math.nan


def decide(
    contrast: Contrast,
    tables: Sequence[FoldTable],
    margin: float,
    rng: np.random.Generator,
    p: float | None = None,
    equivalence_p: float | None = None,
) -> Decision:
    """Return what a difference allows to claim.

    gain, loss: the deciding 95 % interval leaves 0 out. no difference that matters: the deciding 90 % interval is
    within the margin. else undecided. A claim is withheld where outlying runs exceed MOST_OUTLYING (two at least: a
    single one is too often chance); where outlying patients do, unless they lie on the side of a gain or loss that
    stands without them; and where a sign-flip test over patients does not find a gain or loss.

    Args:
        tables: those that the contrast was estimated from.
        p, equivalence_p: adjusted, in place of the contrast's own, of a member of a family.
    """
    if contrast.no_test:
        return _decide_without_test(contrast, margin)
    p = contrast.p if p is None else p
    equivalence_p = contrast.find_equivalence_p(margin) if equivalence_p is None else equivalence_p
    patients, runs = find_outlying_patients(tables), find_outlying_runs(tables)
    size, reason = None, None
    flipped = math.nan
    if p < ALPHA:
        outcome = Outcome.GAIN if contrast.mean > 0 else Outcome.LOSS
        size = compare_with_margin(contrast, margin)
        flipped = flip_signs(np.concatenate([table.mean(axis=1) for table in tables]), rng)
    elif equivalence_p < ALPHA:
        outcome = Outcome.NO_DIFFERENCE
    else:
        outcome, reason = Outcome.UNDECIDED, _explain_spread(contrast, margin)
    many_runs = runs > MOST_OUTLYING and runs * sum(table.shape[1] for table in tables) > 1.5
    few_decide = flipped >= ALPHA or many_runs or _do_patients_decide(outcome, patients, tables)
    if outcome is not Outcome.UNDECIDED and few_decide:
        outcome, size, reason = Outcome.WITHHELD, None, Reason.FEW_DECIDE
    return Decision(outcome, margin, size, reason, contrast, flipped, abs(patients), runs)


def _do_patients_decide(outcome: Outcome, excess: float, tables: Sequence[FoldTable]) -> bool:
    """Return whether outlying patients forbid a claim.

    A tail against a gain or loss makes its interval miss the truth; one on its own side makes the interval too careful,
    so that only a claim which is gone without those patients is theirs alone.
    """
    if not abs(excess) > MOST_OUTLYING:
        return False
    if outcome not in (Outcome.GAIN, Outcome.LOSS) or (excess > 0) != (outcome is Outcome.GAIN):
        return True
    without = estimate_crossed(drop_outlying_patients(tables, above=excess > 0))
    return not without.p < ALPHA or (without.mean > 0) != (outcome is Outcome.GAIN)


def _explain_spread(contrast: Contrast, margin: float) -> Reason:
    """Return whether the spread within folds forbids an answer, or that between them alone."""
    low, high = contrast.find_default_interval()
    inner_low, inner_high = contrast.find_default_interval(EQUIVALENCE_LEVEL)
    answers = low > 0 or high < 0 or (-margin < inner_low and inner_high < margin)
    of_all_folds = contrast.p >= ALPHA and contrast.find_equivalence_p(margin) >= ALPHA
    return Reason.FOLDS if answers and of_all_folds else Reason.SPREAD


def compare_with_margin(contrast: Contrast, margin: float) -> Size:
    """Return whether a gain or loss is shown to be more, or less, than the margin, or neither."""
    nearest = min(abs(contrast.low), abs(contrast.high))
    if nearest > margin:
        return Size.MORE
    low, high = contrast.find_interval(EQUIVALENCE_LEVEL)
    return Size.LESS if -margin < low and high < margin else Size.OPEN


def _decide_without_test(contrast: Contrast, margin: float) -> Decision:
    """Decide where no spread is known: of FEW_PATIENTS or more with one difference, that difference is the answer."""
    if contrast.no_test is NoTest.FEW_PATIENTS or contrast.num_patients < FEW_PATIENTS:
        reason = Reason.CONSTANT if contrast.no_test is NoTest.CONSTANT else Reason.FEW_PATIENTS
        return Decision(Outcome.UNDECIDED, margin, reason=reason, contrast=contrast)
    if abs(contrast.mean) < margin:
        return Decision(Outcome.NO_DIFFERENCE, margin, contrast=contrast)
    outcome = Outcome.GAIN if contrast.mean > 0 else Outcome.LOSS
    return Decision(outcome, margin, Size.MORE, contrast=contrast)


def miss(reason: Reason, margin: float) -> Decision:
    """Return the decision where there is no difference to judge."""
    return Decision(Outcome.UNDECIDED, margin, reason=reason)


def withhold(decision: Decision, reason: Reason) -> Decision:
    """Return the same figures without a claim."""
    return Decision(
        Outcome.WITHHELD, decision.margin, None, reason, decision.contrast, decision.sign_flip_p,
        decision.outlying_patients, decision.outlying_runs,
    )  # fmt: skip
