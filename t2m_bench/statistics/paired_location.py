"""The typical paired difference of a skewed measure, such as a distance: Hodges and Lehmann's, with its interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95

MOST_FOR_EXACT = 50
"""Patients up to which the distribution of signed ranks is counted, and above which it is taken as normal."""


@dataclass(frozen=True)
class PairedLocation:
    """The median of the means of all pairs of differences; its interval is NaN of too few patients (below six)."""

    difference: float
    low: float
    high: float
    num_patients: int


def estimate_location(values: NDArray[np.float64], level: float = LEVEL) -> PairedLocation:
    """Return the Hodges-Lehmann difference with the interval that Wilcoxon's signed ranks do not reject.

    It is given these trained models: patients alone are random.

    Args:
        values: one difference a patient.
    """
    count = len(values)
    if not count:
        return PairedLocation(float("nan"), float("nan"), float("nan"), 0)
    rows, columns = np.triu_indices(count)
    walsh = np.sort((values[rows] + values[columns]) / 2)
    below = _count_rejected(count, level)
    low, high = (float(walsh[below - 1]), float(walsh[-below])) if below else (float("nan"), float("nan"))
    return PairedLocation(float(np.median(walsh)), low, high, count)


def _count_rejected(count: int, level: float) -> int:
    """Return the rank from either end at which the interval ends; 0 where no interval is sure enough."""
    tail = (1 - level) / 2
    if count <= MOST_FOR_EXACT:
        return int((np.cumsum(_count_rank_sums(count)) / 2.0**count <= tail).sum())
    total = count * (count + 1) / 2
    spread = np.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return int(np.floor(total / 2 + stats.norm.ppf(tail) * spread)) + 1


def _count_rank_sums(count: int) -> NDArray[np.float64]:
    """Return, for each sum of positive ranks from 0, how many of the 2**count patterns of signs have it."""
    ways = np.zeros(count * (count + 1) // 2 + 1)
    ways[0] = 1
    for rank in range(1, count + 1):
        ways[rank:] = ways[rank:] + ways[:-rank]
    return ways
