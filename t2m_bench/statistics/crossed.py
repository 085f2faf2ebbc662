"""The default interval: patients and training runs are both random, for these splits.

Two arms are separately trained networks, so a difference between them varies with the patients *and* with the training
runs. A test over patients alone, seeds averaged, finds up to half of differences that do not exist where runs differ
much; docs/statistics.md has the table, which tests/helpers/verdict_table.py writes.

A fold's training set is fixed and shared by its runs and patients, so the default interval says nothing about other
splits. Beside it stands an interval with folds random; with FEWEST_FOLDS folds or more the wider of both decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

FoldTable = NDArray[np.float64]
"""(patients, seeds) of one test fold: the patient's mean difference in that training run."""

UNTRAINED = -1
"""Stands for the seed where nothing was trained."""

LEVEL = 0.95
EXTRA_STANDARD_ERRORS = 0.5
"""Standard errors by which MS_seed is raised in the degrees of freedom. With few runs a small MS_seed by chance would
leave the patients' many degrees: simulated false positives of one fold, 213 patients, 5 (3) runs are 5.7 (7.7) %
without and 5.2 (6.6) % with it, those of four folds stay between 4.5 and 5 %."""

FEWEST_PATIENTS = 3
"""Fewest patients for an interval; a fold with fewer takes the spread between patients of all folds together."""

FEWEST_FOLDS = 4
"""Folds from which the interval with folds random is wide or narrow by more than chance, and so decides too."""

CLAIM_SEEDS = 5
"""Training runs a fold that a claim about the method should rest on."""

NO_SPREAD = 1e-9
"""Standard error below which all patients and runs have the same difference, rounding aside."""

NAN = float("nan")

Term = tuple[float, int]


class NoTest(StrEnum):
    """Reasons why a difference has no interval and no p."""

    FEW_PATIENTS = "too few patients"
    CONSTANT = "no spread between patients"


@dataclass(frozen=True)
class Contrast:
    """A mean difference over patients, with what is known of its error; NaN where there is no test.

    Attributes:
        standard_error, degrees: of the default t distribution: patients and runs random, for these splits.
        num_seeds: training runs in the fold that has fewest; 1 means that the error is of the patients alone, so that
            the interval is for the trained models at hand.
        fold_means, fold_patients: the mean difference and the number of patients of each fold, in order.
        folds_error: standard error with folds random, a t on folds - 1 degrees; NaN below two folds, and where the
            models at hand are meant.
        heterogeneity_p: of equal differences in all folds, an F test of Cochran's Q; NaN below two folds.
    """

    mean: float
    standard_error: float
    degrees: float
    num_patients: int
    num_seeds: int
    num_folds: int
    fold_means: tuple[float, ...] = ()
    fold_patients: tuple[int, ...] = ()
    folds_error: float = NAN
    heterogeneity_p: float = NAN

    @property
    def no_test(self) -> NoTest | None:
        """Why there is no interval; None where there is one."""
        known = [error for error, _ in self._list_deciding()]
        if not known:
            return NoTest.FEW_PATIENTS
        return NoTest.CONSTANT if max(known) < NO_SPREAD else None

    def _list_deciding(self) -> list[Term | tuple[float, float]]:
        """Return (standard error, degrees) of the intervals that decide: default, and folds random where folds do."""
        found: list[Term | tuple[float, float]] = []
        if not np.isnan(self.standard_error):
            found.append((self.standard_error, self.degrees))
        if self.num_folds >= FEWEST_FOLDS and not np.isnan(self.folds_error):
            found.append((self.folds_error, self.num_folds - 1))
        return found

    def find_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the two-sided interval that decides at `level`: the wider of default and, of many folds, both."""
        if self.no_test:
            return NAN, NAN
        half = max(float(special.stdtrit(degrees, (1 + level) / 2)) * error for error, degrees in self._list_deciding())
        return self.mean - half, self.mean + half

    def find_default_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval with patients and runs random, for these splits."""
        if self.no_test or np.isnan(self.standard_error):
            return NAN, NAN
        half = float(special.stdtrit(self.degrees, (1 + level) / 2)) * self.standard_error
        return self.mean - half, self.mean + half

    def find_folds_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval with folds random; NaN below two folds."""
        if self.no_test or np.isnan(self.folds_error):
            return NAN, NAN
        half = float(special.stdtrit(self.num_folds - 1, (1 + level) / 2)) * self.folds_error
        return self.mean - half, self.mean + half

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval that decides."""
        return self.find_interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval that decides."""
        return self.find_interval()[1]

    @property
    def p(self) -> float:
        """Two-sided p of no difference: below 5 % exactly where the deciding 95 % interval leaves 0 out."""
        if self.no_test:
            return NAN
        return max(
            float(2 * special.stdtr(degrees, -abs(self.mean) / error)) if error > 0 else 0.0
            for error, degrees in self._list_deciding()
        )

    def find_equivalence_p(self, margin: float) -> float:
        """Return p of two one-sided tests: below 5 % exactly where the deciding 90 % interval is within the margin."""
        if self.no_test:
            return NAN
        return max(
            float(special.stdtr(degrees, (abs(self.mean) - margin) / max(error, NO_SPREAD)))
            for error, degrees in self._list_deciding()
        )


@dataclass(frozen=True)
class _MeanSquares:
    """Mean squares of a two-way table without replication (patients, seeds)."""

    num_patients: int
    num_seeds: int
    patient: float
    seed: float
    residual: float


def estimate_crossed(tables: Sequence[FoldTable], folds_vary: bool = True) -> Contrast:
    """Return the mean over all patients, seeds averaged, with the error of patients and training runs.

    Var = sum_f w_f^2 (MS_patient / (n_f S_f) + V / S_f), w_f = n_f / n, with one variance V between training runs, the
    mean over folds of (MS_seed - MS_residual) / n_f, not below 0: runs of different folds are different networks, so
    pooling gives V its degrees of freedom. These are Satterthwaite's, with MS_seed raised a little
    (EXTRA_STANDARD_ERRORS). A fold of fewer than FEWEST_PATIENTS takes the variance between patients of all folds
    together.

    Args:
        tables: one a fold; patients differ between folds, and seeds of the same number are other runs.
        folds_vary: whether other splits are meant too; without, folds_error is NaN.
    """
    sizes = [len(table) for table in tables]
    num_patients = sum(sizes)
    weights = [size / num_patients for size in sizes]
    means = [float(table.mean()) for table in tables]
    mean = float(np.dot(weights, means))
    num_seeds = min(table.shape[1] for table in tables)
    folds_error, heterogeneity_p = NAN, NAN
    if folds_vary and len(tables) > 1 and num_patients >= FEWEST_PATIENTS:
        folds_error = _find_folds_error(weights, means)
    squares = [_compute_mean_squares(table) for table in tables if len(table) > 1]
    pooled_degrees = num_patients - len(tables)
    error, degrees = NAN, NAN
    if pooled_degrees >= FEWEST_PATIENTS - 1:
        between = sum((s.num_patients - 1) * s.patient / s.num_seeds for s in squares) / pooled_degrees
        # each term: its part of the variance, and the degrees of freedom of the mean square in it
        patient_terms = _list_patient_terms(squares, sizes, between, pooled_degrees)
        share = sum(weight**2 / table.shape[1] for weight, table in zip(weights, tables, strict=True))
        of_patients = sum(value for value, _ in patient_terms)
        of_runs = max(0.0, sum(value for value, _ in _list_seed_terms(squares, share)))
        degrees = _find_degrees(patient_terms, _list_seed_terms(squares, share, raised=True), of_patients)
        error = float(np.sqrt(of_patients + of_runs))
        if folds_vary and len(tables) > 1:
            variances = [
                between / size + of_runs / share / table.shape[1] for size, table in zip(sizes, tables, strict=True)
            ]
            heterogeneity_p = _compare_folds(means, variances, degrees)
    return Contrast(
        mean, error, degrees, num_patients, num_seeds, len(tables), tuple(means), tuple(sizes), folds_error,
        heterogeneity_p,
    )  # fmt: skip


def estimate_given_models(tables: Sequence[FoldTable]) -> Contrast:
    """Return the mean and its error over patients alone, seeds averaged: given these trained models."""
    return estimate_crossed(average_seeds(tables), folds_vary=False)


def _find_folds_error(weights: Sequence[float], means: Sequence[float]) -> float:
    """Return the standard error of the weighted mean of fold means, folds random."""
    count = len(means)
    mean = float(np.dot(weights, means))
    squares = sum(w**2 * (m - mean) ** 2 for w, m in zip(weights, means, strict=True))
    return float(np.sqrt(squares * count / (count - 1)))


def _compare_folds(means: Sequence[float], variances: Sequence[float], degrees: float) -> float:
    """Return p of equal means: Cochran's Q over its degrees, as F because the variances are estimated."""
    if min(variances) < NO_SPREAD**2:
        return NAN
    given = 1 / np.asarray(variances)
    q = float((given * (np.asarray(means) - np.average(means, weights=given)) ** 2).sum())
    return float(special.fdtrc(len(means) - 1, degrees, q / (len(means) - 1)))


def _list_patient_terms(
    squares: Sequence[_MeanSquares], sizes: Sequence[int], between: float, pooled_degrees: int
) -> list[Term]:
    """Return each fold's part of the patients' variance; folds of too few patients share one part."""
    total = sum(sizes)
    own = [square for square in squares if square.num_patients >= FEWEST_PATIENTS]
    terms = [
        ((s.num_patients / total) ** 2 * s.patient / (s.num_patients * s.num_seeds), s.num_patients - 1) for s in own
    ]
    small = [size for size in sizes if size < FEWEST_PATIENTS]
    if small:
        terms.append((sum(size / total**2 for size in small) * between, pooled_degrees))
    return terms


def _find_degrees(patient_terms: Sequence[Term], seed_terms: Sequence[Term], of_patients: float) -> float:
    """Return Satterthwaite's degrees of freedom of the summed terms."""
    variance = max(of_patients, of_patients + sum(value for value, _ in seed_terms))
    uncertainty = sum(value**2 / degrees for value, degrees in (*patient_terms, *seed_terms))
    least = float(sum(degrees for _, degrees in patient_terms))
    return variance**2 / uncertainty if uncertainty > 0 else least


def _list_seed_terms(squares: Sequence[_MeanSquares], share: float, raised: bool = False) -> list[Term]:
    """Return the parts of V, MS_seed raised by EXTRA_STANDARD_ERRORS where asked."""
    repeated = [square for square in squares if square.num_seeds > 1]
    if not repeated:
        return []
    runs = sum(square.num_seeds - 1 for square in repeated)
    factor = 1 + EXTRA_STANDARD_ERRORS * float(np.sqrt(2 / runs)) if raised else 1.0
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
    of_patients = _pair(one, other, column).groupby(["fold", "patient", "seed"], sort=True)["difference"].mean()
    tables = []
    for _, rows in of_patients.groupby("fold"):
        table = rows.droplevel("fold").unstack("seed").dropna()
        if table.size:
            tables.append(table.to_numpy(dtype=np.float64))
    return tables


def _pair(one: pd.DataFrame, other: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a row a case and run that both have, with their difference."""
    keys = ["fold", "patient", "case", "seed"]
    first, second = one[[*keys, column]], other[[*keys, column]]
    if _is_untrained(second) and not _is_untrained(first):
        pairs = first.merge(second.drop(columns="seed"), on=keys[:3], suffixes=("", "_other"))
    elif _is_untrained(first) and not _is_untrained(second):
        pairs = second.merge(first.drop(columns="seed"), on=keys[:3], suffixes=("_other", ""))
    else:
        pairs = first.merge(second, on=keys, suffixes=("", "_other"))
    return pairs.assign(difference=pairs[column] - pairs[f"{column}_other"]).dropna()


@dataclass(frozen=True)
class SharedSeeds:
    """How much of the difference between runs is shared by the runs of one seed number in all folds.

    Attributes:
        p: of no shared effect, an F test of seed against seed by fold, over the seeds that all folds have; NaN where
            fewer than two folds or two such seeds exist.
        share: the shared part of the variance between runs, not below 0.
    """

    p: float
    share: float


def find_shared_seeds(one: pd.DataFrame, other: pd.DataFrame, column: str) -> SharedSeeds:
    """Test whether runs of one seed number differ alike in every fold.

    Runs that draw their first weights from the seed alone start every fold from the same weights; the default interval
    takes them as different networks.

    Args:
        one, other: rows of the results table, of one arm, condition and box each.
    """
    of_patients = _pair(one, other, column).groupby(["fold", "patient", "seed"])["difference"].mean()
    means = of_patients.groupby(["fold", "seed"]).mean().unstack("seed").dropna(axis="columns").to_numpy()
    folds, seeds = means.shape
    if folds < 2 or seeds < 2:
        return SharedSeeds(NAN, NAN)
    squares = _compute_mean_squares(means.T)  # seeds in the place of patients, folds in that of seeds
    if squares.residual < NO_SPREAD**2:
        return SharedSeeds(NAN, NAN)
    shared = max(0.0, (squares.patient - squares.residual) / folds)
    p = float(special.fdtrc(seeds - 1, (seeds - 1) * (folds - 1), squares.patient / squares.residual))
    return SharedSeeds(p, shared / (shared + squares.residual))


def count_unpaired_runs(one: pd.DataFrame, other: pd.DataFrame) -> int:
    """Return how many trained runs have no run of the same fold and seed on the other side, and are left out."""
    if _is_untrained(one) or _is_untrained(other):
        return 0
    runs = [set(map(tuple, rows[["fold", "seed"]].drop_duplicates().to_numpy())) for rows in (one, other)]
    return len(runs[0] ^ runs[1])


def _is_untrained(rows: pd.DataFrame) -> bool:
    return bool((rows["seed"] == UNTRAINED).all())


def average_seeds(tables: Sequence[FoldTable]) -> list[FoldTable]:
    """Return the tables as for one training run: the patient alone is the unit, given these trained models."""
    return [table.mean(axis=1, keepdims=True) for table in tables]
