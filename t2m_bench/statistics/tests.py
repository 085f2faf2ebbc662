"""Tests beside the default interval, which hold for the trained models at hand alone, and the family's adjustment."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

Values = NDArray[np.float64]
"""One mean difference a patient."""

SIGN_FLIPS = 9999

FEWEST = 2
"""Patients below which there is nothing to test."""


def flip_signs(values: Values, rng: np.random.Generator) -> float:
    """Return the two-sided p of a mean of 0 when each patient's difference may have either sign; NaN of too few.

    All sign patterns are tried where they are no more than SIGN_FLIPS, else that many are drawn.
    """
    count = len(values)
    if count < FEWEST:
        return float("nan")
    total = float(values.sum())
    signs = _list_signs(count) if 2**count <= SIGN_FLIPS else _draw_signs(count, rng)
    sums = 2 * (signs.astype(np.float64) @ values) - total
    as_far = int((np.abs(sums) >= abs(total) * (1 - 1e-9)).sum())
    return as_far / len(sums) if 2**count <= SIGN_FLIPS else (as_far + 1) / (len(sums) + 1)


def _list_signs(count: int) -> NDArray[np.uint8]:
    """Return every pattern of signs, (patterns, patients) of 0 and 1."""
    patterns: NDArray[np.uint8] = ((np.arange(2**count)[:, None] >> np.arange(count)) & 1).astype(np.uint8)
    return patterns


def _draw_signs(count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return SIGN_FLIPS random patterns of signs."""
    drawn = np.frombuffer(rng.bytes(SIGN_FLIPS * (count // 8 + 1)), np.uint8).reshape(SIGN_FLIPS, -1)
    return np.unpackbits(drawn, axis=1)[:, :count]


def rank_signs(values: Values) -> float:
    """Return the two-sided p of Wilcoxon's signed ranks, ties at 0 as Pratt has them; all 0: 1, too few: NaN."""
    if len(values) < FEWEST:
        return float("nan")
    if not values.any():
        return 1.0
    return float(stats.wilcoxon(values, zero_method="pratt").pvalue)


def find_equivalence(values: Values, margin: float) -> float:
    """Return the p of two one-sided t tests: small when the mean lies within (-margin, margin); NaN of too few."""
    if len(values) < FEWEST:
        return float("nan")
    if np.ptp(values) == 0:
        return float(abs(values[0]) >= margin)
    return float(DescrStatsW(values).ttost_mean(-margin, margin)[0])


def adjust_claims(
    differences: Sequence[float], equivalences: Sequence[float], num_awaited: int = 0
) -> tuple[list[float], list[float]]:
    """Return the adjusted p of a family's tests of difference and of equivalence, taken together.

    Holm's step-down over all of them with Shaffer's count (1986): no member can be without difference and beyond the
    margin at once, so that at most one of its two null hypotheses is true. The first steps therefore multiply by the
    number of members, not of tests. NaN (not tested) stays and does not count.

    Args:
        num_awaited: members that have no results yet, and count all the same.
    """
    members = sum(not np.isnan(p) for p in differences) + num_awaited
    both = np.array([*differences, *equivalences], dtype=np.float64)
    adjusted = np.full(len(both), np.nan)
    order = [place for place in np.argsort(both, kind="stable") if not np.isnan(both[place])]
    highest = 0.0
    for step, place in enumerate(order):
        highest = max(highest, min(1.0, min(members, 2 * members - step) * both[place]))
        adjusted[place] = highest
    return [float(p) for p in adjusted[: len(differences)]], [float(p) for p in adjusted[len(differences) :]]
