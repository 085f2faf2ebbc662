"""Tests beside the default interval; all but `bootstrap_crossed` hold for the trained models at hand alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from t2m_bench.statistics.crossed import LEVEL, FoldTable

Values = NDArray[np.float64]
"""One mean difference a patient."""

RESAMPLES = 2000
SIGN_FLIPS = 9999

FEWEST = 2
"""Patients below which there is nothing to test."""


def bootstrap_crossed(
    tables: Sequence[FoldTable], rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % percentile interval; patients (all their images) and training runs are drawn within each fold."""
    num_patients = sum(len(table) for table in tables)
    means = np.zeros(resamples)
    for table in tables:
        n, s = table.shape
        patients = rng.multinomial(n, np.full(n, 1 / n), resamples)
        seeds = rng.multinomial(s, np.full(s, 1 / s), resamples)
        means += ((patients @ table) * seeds).sum(axis=1) / s / num_patients
    low, high = np.percentile(means, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return float(low), float(high)


def flip_signs(values: Values, rng: np.random.Generator) -> float:
    """Return the two-sided p of a mean of 0 when each patient's difference may have either sign; NaN of too few."""
    if len(values) < FEWEST:
        return float("nan")
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=SIGN_FLIPS, vectorized=True, rng=rng
    )
    return float(found.pvalue)


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


def adjust_family(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p of one family of tests; NaN (not tested) stays and does not count."""
    tested = [p for p in p_values if not np.isnan(p)]
    adjusted = iter(multipletests(tested, method="holm")[1] if tested else ())
    return [float("nan") if np.isnan(p) else float(next(adjusted)) for p in p_values]
