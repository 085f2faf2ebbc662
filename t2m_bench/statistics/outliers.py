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


def find_outlying_excess(values: NDArray[np.float64], total: int | None = None) -> float:
    """Return by how much the values far above exceed those far below, as a share of all, in [-1, 1]; NaN of few.

    Heavy tails alike on both sides leave a mean and its t interval right, so that they count against each other; what
    makes the interval miss is that one side has more. The robust standard deviation is the interquartile range over
    NORMAL_IQR, the plain one where more than half of the values are equal.

    Args:
        total: what the share is of, where it is not the number of values.
    """
    if len(values) < FEWEST_VALUES:
        return float("nan")
    least, most = _find_fences(values)
    return (int((values > most).sum()) - int((values < least).sum())) / (total or len(values))


def _find_fences(values: NDArray[np.float64]) -> tuple[float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    reach = FAR * ((high - low) / NORMAL_IQR or float(values.std()))
    return float(middle - reach), float(middle + reach)


def find_outlying_patients(tables: Sequence[FoldTable]) -> float:
    """Return the excess of outlying patients, runs averaged, about the median of their own fold."""
    return find_outlying_excess(np.concatenate([_centre(table.mean(axis=1)) for table in tables]))


def drop_outlying_patients(tables: Sequence[FoldTable], above: bool) -> list[FoldTable]:
    """Return the tables without the patients that are outlying above, or below, the median of their own fold."""
    least, most = _find_fences(np.concatenate([_centre(table.mean(axis=1)) for table in tables]))
    centred = [_centre(table.mean(axis=1)) for table in tables]
    kept = [values <= most if above else values >= least for values in centred]
    return [table[rows] for table, rows in zip(tables, kept, strict=True) if rows.any()]


def find_outlying_runs(tables: Sequence[FoldTable]) -> float:
    """Return the share of training runs that are outlying on one side more than on the other; NaN of few or single.

    Each is seen about the median of its own fold. The run that is that median lies at 0 by construction, and is no sign
    that runs are alike.
    """
    repeated = [_centre(table.mean(axis=0)) for table in tables if table.shape[1] > 1]
    if not repeated:
        return float("nan")
    together = np.concatenate(repeated)
    return abs(find_outlying_excess(together[together != 0], len(together)))


def _centre(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = values - np.median(values)
    return centred
