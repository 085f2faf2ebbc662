"""Patients as the unit: their means, and intervals over them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 3
"""Below this many patients a bootstrap says nothing."""


@dataclass(frozen=True)
class Estimate:
    """A mean over patients, its 95 % interval given these trained models (NaN below FEWEST patients)."""

    mean: float
    low: float
    high: float
    num_patients: int


def compute_patient_means(table: pd.DataFrame, column: str) -> pd.Series:
    """Return patient -> the mean over the patient's cases of each case's mean over seeds and folds."""
    cases = table.groupby(["patient", "case"], sort=True)[column].mean()
    return cases.groupby("patient", sort=True).mean()


def estimate_mean(patient_means: pd.Series, rng: np.random.Generator) -> Estimate:
    """Return the mean and its bootstrap interval over patients (BCa, Efron 1987, by scipy).

    Training is random too; this interval is for the trained models at hand and no claim about the method.
    """
    values: NDArray[np.float64] = patient_means.to_numpy(dtype=np.float64)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < FEWEST or np.isnan(mean):
        return Estimate(mean, float("nan"), float("nan"), len(values))
    if np.ptp(values) == 0:  # BCa divides by the spread
        return Estimate(mean, mean, mean, len(values))
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", rng=rng
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), len(values))
