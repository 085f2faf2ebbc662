"""Computes figures for an appendix: a difference relative to its spread, and the stability of the order of arms."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RESAMPLES = 2000


def compute_standardised_difference(values: NDArray[np.float64]) -> float:
    """Return d_z, the mean over the standard deviation of patients' differences; NaN without spread."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()) / spread if spread > 0 else float("nan")


def compute_superiority(values: NDArray[np.float64]) -> float:
    """Return the share of patients with a positive difference, those without one counted half; NaN of none."""
    if not len(values):
        return float("nan")
    return float((values > 0).mean() + 0.5 * (values == 0).mean())


def compute_rank_shares(
    patient_means: pd.DataFrame, rng: np.random.Generator, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Return arm x rank (from 1, the best): the share of bootstrap samples of patients in which the arm has that rank.

    Args:
        patient_means: patients x arms.
    """
    values = patient_means.to_numpy(dtype=np.float64)
    n, k = values.shape
    drawn = rng.multinomial(n, np.full(n, 1 / n), resamples) @ values / n  # (resamples, arms)
    ranks = (-drawn).argsort(axis=1).argsort(axis=1)
    shares = [[float((ranks[:, arm] == rank).mean()) for rank in range(k)] for arm in range(k)]
    return pd.DataFrame(shares, index=patient_means.columns, columns=range(1, k + 1))
