"""Patients as the unit: their means, and intervals over them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST = 10
"""Below this many patients a mean has no interval: in simulation any misses the truth far more often than it says."""

FEWEST_FOR_BOOTSTRAP = 30
"""Below this many patients a t interval stands in for the BCa bootstrap, which misses 8 % of means of 12 patients."""


@dataclass(frozen=True)
class Estimate:
    """A mean over patients, its 95 % interval given these trained models (NaN below FEWEST patients)."""

    mean: float
    low: float
    high: float
    num_patients: int

    @property
    def why_no_interval(self) -> str:
        """Why there is no interval; empty where there is one."""
        return f"no interval below {FEWEST} patients" if 0 < self.num_patients < FEWEST else ""


def compute_patient_means(table: pd.DataFrame, column: str) -> pd.Series:
    """Return patient -> the mean over the patient's cases of each case's mean over seeds and folds."""
    cases = table.groupby(["patient", "case"], sort=True)[column].mean()
    return cases.groupby("patient", sort=True).mean()


def estimate_mean(patient_means: pd.Series, rng: np.random.Generator) -> Estimate:
    """Return the mean and its interval over patients: BCa (Efron 1987, by scipy), of few patients a t interval.

    Training is random too; this interval is for the trained models at hand and no claim about the method.
    """
    values: NDArray[np.float64] = patient_means.to_numpy(dtype=np.float64)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < FEWEST or np.isnan(mean):
        return Estimate(mean, float("nan"), float("nan"), len(values))
    if np.ptp(values) == 0:  # BCa divides by the spread
        return Estimate(mean, mean, mean, len(values))
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        low, high = stats.t.interval(LEVEL, len(values) - 1, mean, stats.sem(values))
        return Estimate(mean, float(low), float(high), len(values))
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", rng=rng, batch=RESAMPLES // 10
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), len(values))
