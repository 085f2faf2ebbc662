"""Finds patients and training runs that lie far from the others: a few may decide a mean."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t2m_bench.statistics.crossed import FoldTable

FAR = 3.0
"""Robust standard deviations from the median beyond which a value is outlying."""

FEWEST_VALUES = 8
"""Values below which none can be called outlying."""

NORMAL_IQR = 1.349
"""Interquartile range of a normal distribution of standard deviation 1."""


def find_outlying_share(values: NDArray[np.float64], total: int | None = None) -> float:
    """Return by how much the outlying values of one side exceed those of the other, as a share of all; NaN of few.

    Heavy tails alike on both sides leave a mean and its t interval right, so that they count against each other; what
    makes the interval miss is that one side has more. The robust standard deviation is the interquartile range over
    NORMAL_IQR, the plain one where more than half of the values are equal.

    Args:
        total: what the share is of, where it is not the number of values.
    """
    if len(values) < FEWEST_VALUES:
        return float("nan")
    low, middle, high = np.percentile(values, [25, 50, 75])
    spread = (high - low) / NORMAL_IQR or float(values.std())
    above = int((values > middle + FAR * spread).sum())
    below = int((values < middle - FAR * spread).sum())
    return abs(above - below) / (total or len(values))


def find_outlying_patients(tables: Sequence[FoldTable]) -> float:
    """Return the share of outlying patients, runs averaged, about the median of their own fold."""
    return find_outlying_share(np.concatenate([_centre(table.mean(axis=1)) for table in tables]))


def find_outlying_runs(tables: Sequence[FoldTable]) -> float:
    """Return the share of outlying training runs, about the median of their own fold; NaN of few or single runs.

    The run that is a fold's median lies at 0 by construction, and is no sign that runs are alike.
    """
    repeated = [_centre(table.mean(axis=0)) for table in tables if table.shape[1] > 1]
    if not repeated:
        return float("nan")
    together = np.concatenate(repeated)
    return find_outlying_share(together[together != 0], len(together))


def _centre(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = values - np.median(values)
    return centred
