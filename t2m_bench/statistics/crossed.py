"""The default interval: patients and training runs are both random.

Two arms are separately trained networks, so a difference between them varies with the patients *and* with the training
runs. A test over patients alone, seeds averaged, finds 10 to 27 % of differences that are not there; see
tests/statistics/test_simulation.py for this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

FoldTable = NDArray[np.float64]
"""(patients, seeds) of one test fold: the patient's mean difference in that training run."""

UNTRAINED = -1
"""Stands for the seed where nothing was trained."""

LEVEL = 0.95
POWER = 0.8
RAISE = 0.5
"""Standard errors by which MS_seed is raised in the degrees of freedom. With few runs a small MS_seed by chance would
leave the patients' many degrees: simulated false positives of one fold, 213 patients, 5 (3) runs are 5.7 (7.7) %
without and 5.2 (6.6) % with it, those of four folds stay between 4.5 and 5 %."""

FEWEST_PATIENTS = 3
"""Fewest patients of a fold; with fewer an interval says nothing."""


Term = tuple[float, int]


@dataclass(frozen=True)
class Contrast:
    """A mean difference over patients, with what is known of its error; NaN where there are too few patients.

    Attributes:
        standard_error, degrees: of a t distribution.
        num_seeds: training runs in the fold that has fewest; 1 means that the error is of the patients alone, so that
            the interval is for the trained models at hand.
    """

    mean: float
    standard_error: float
    degrees: float
    num_patients: int
    num_seeds: int
    num_folds: int

    def find_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the two-sided interval at `level`."""
        half = float(stats.t.ppf((1 + level) / 2, self.degrees)) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.find_interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.find_interval()[1]

    @property
    def p(self) -> float:
        """Two-sided p of no difference."""
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / self.standard_error, self.degrees))

    @property
    def smallest_detectable(self) -> float:
        """The true difference that a repetition would find at 5 % in POWER of cases."""
        return (
            float(stats.t.ppf((1 + LEVEL) / 2, self.degrees) + stats.t.ppf(POWER, self.degrees)) * self.standard_error
        )


@dataclass(frozen=True)
class _MeanSquares:
    """Mean squares of a two-way table without replication (patients, seeds)."""

    num_patients: int
    num_seeds: int
    patient: float
    seed: float
    residual: float


def estimate_crossed(tables: Sequence[FoldTable]) -> Contrast:
    """Return the mean over all patients, seeds averaged, with the error of patients and training runs.

    Var = sum_f w_f^2 (MS_patient / (n_f S_f) + V / S_f), w_f = n_f / n, with one variance V between training runs, the
    mean over folds of (MS_seed - MS_residual) / n_f, not below 0: runs of different folds are different networks, so
    pooling gives V its degrees of freedom. These are Satterthwaite's, with MS_seed raised a little (RAISE).

    Args:
        tables: one a fold; patients differ between folds, and seeds of the same number are other runs.
    """
    num_patients = sum(len(table) for table in tables)
    weights = [len(table) / num_patients for table in tables]
    mean = float(sum(weight * table.mean() for weight, table in zip(weights, tables, strict=True)))
    num_seeds = min(table.shape[1] for table in tables)
    if min(len(table) for table in tables) < FEWEST_PATIENTS:
        nan = float("nan")
        return Contrast(mean, nan, nan, num_patients, num_seeds, len(tables))
    squares = [_compute_mean_squares(table) for table in tables]
    # each term: its part of the variance, and the degrees of freedom of the mean square in it
    patient_terms = [
        (weight**2 * square.patient / (square.num_patients * square.num_seeds), square.num_patients - 1)
        for weight, square in zip(weights, squares, strict=True)
    ]
    share = sum(weight**2 / square.num_seeds for weight, square in zip(weights, squares, strict=True))
    of_patients = sum(value for value, _ in patient_terms)
    variance = of_patients + max(0.0, sum(value for value, _ in _list_seed_terms(squares, share)))
    degrees = _find_degrees(patient_terms, _list_seed_terms(squares, share, raised=True), of_patients)
    return Contrast(mean, float(np.sqrt(variance)), degrees, num_patients, num_seeds, len(tables))


def _find_degrees(patient_terms: Sequence[Term], seed_terms: Sequence[Term], of_patients: float) -> float:
    """Return Satterthwaite's degrees of freedom of the summed terms."""
    variance = max(of_patients, of_patients + sum(value for value, _ in seed_terms))
    uncertainty = sum(value**2 / degrees for value, degrees in (*patient_terms, *seed_terms))
    least = float(sum(degrees for _, degrees in patient_terms))
    return variance**2 / uncertainty if uncertainty > 0 else least


def _list_seed_terms(squares: Sequence[_MeanSquares], share: float, raised: bool = False) -> list[Term]:
    """Return the parts of V, MS_seed raised by RAISE standard errors where asked."""
    repeated = [square for square in squares if square.num_seeds > 1]
    if not repeated:
        return []
    runs = sum(square.num_seeds - 1 for square in repeated)
    factor = 1 + RAISE * float(np.sqrt(2 / runs)) if raised else 1.0
    terms = []
    for square in repeated:
        part = share / (len(repeated) * square.num_patients)
        degrees = square.num_seeds - 1
        terms += [
            (factor * part * square.seed, degrees),
            (-part * square.residual, degrees * (square.num_patients - 1)),
        ]
    return terms


def _compute_mean_squares(table: FoldTable) -> _MeanSquares:
    n, s = table.shape
    by_patient, by_seed, overall = table.mean(axis=1), table.mean(axis=0), table.mean()
    patient = s * float(((by_patient - overall) ** 2).sum()) / (n - 1)
    if s == 1:
        return _MeanSquares(n, s, patient, float("nan"), float("nan"))
    seed = n * float(((by_seed - overall) ** 2).sum()) / (s - 1)
    rest = table - by_patient[:, None] - by_seed[None, :] + overall
    return _MeanSquares(n, s, patient, seed, float((rest**2).sum()) / ((n - 1) * (s - 1)))


def make_fold_tables(one: pd.DataFrame, other: pd.DataFrame, column: str) -> list[FoldTable]:
    """Return, a fold, (patients, seeds): the patient's mean difference over the cases that both have.

    Runs are paired by seed; an untrained other (one seed alone, of -1) stands against every run. A seed or a case that
    one of the two lacks is left out, and a fold without common runs.

    Args:
        one, other: rows of the results table, of one arm, condition and box each.
    """
    keys = ["fold", "patient", "case", "seed"]
    first, second = one[[*keys, column]], other[[*keys, column]]
    if _is_untrained(second) and not _is_untrained(first):
        pairs = first.merge(second.drop(columns="seed"), on=keys[:3], suffixes=("", "_other"))
    elif _is_untrained(first) and not _is_untrained(second):
        pairs = second.merge(first.drop(columns="seed"), on=keys[:3], suffixes=("_other", ""))
    else:
        pairs = first.merge(second, on=keys, suffixes=("", "_other"))
    pairs["difference"] = pairs[column] - pairs[f"{column}_other"]
    of_patients = pairs.dropna().groupby(["fold", "patient", "seed"], sort=True)["difference"].mean()
    tables = []
    for _, rows in of_patients.groupby("fold"):
        table = rows.droplevel("fold").unstack("seed").dropna()
        if table.size:
            tables.append(table.to_numpy(dtype=np.float64))
    return tables


def _is_untrained(rows: pd.DataFrame) -> bool:
    return bool((rows["seed"] == UNTRAINED).all())


def average_seeds(tables: Sequence[FoldTable]) -> list[FoldTable]:
    """Return the tables as for one training run: the patient alone is the unit, given these trained models."""
    return [table.mean(axis=1, keepdims=True) for table in tables]
