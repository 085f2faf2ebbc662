"""Differences between two arms, drawn in settings that real suites have; the truth is 0 in all.

A setting is a function from a generator to one table (patients, runs) a fold, in Dice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Values]
Setting = Callable[[np.random.Generator], list[Values]]

PATIENT_SD, IMAGE_SD, BOTH_SD = 0.025, 0.015, 0.012
"""Standard deviations between patients, between images of one, and of patient by run."""

RUN_SD = 0.006
COLLAPSES = 0.02


def draw_normal(spread: float) -> Draw:
    """Return a draw of normal effects."""
    return lambda rng, count: rng.normal(0, spread, count)


def draw_losses(spread: float) -> Draw:
    """Return a draw of effects with log-normal losses: most lie a little above the mean, few far below it."""
    mean, deviation = np.exp(0.5), np.sqrt((np.e - 1) * np.e)
    return lambda rng, count: -spread * (rng.lognormal(0, 1, count) - mean) / deviation


def draw_failures(spread: float) -> Draw:
    """Return a draw in which 4 % of patients fail badly."""

    def draw(rng: np.random.Generator, count: int) -> Values:
        values: Values = np.where(rng.random(count) < 0.04, -0.24, 0.01) + rng.normal(0, spread, count)
        return values

    return draw


def draw_heavy(spread: float) -> Draw:
    """Return a draw with heavy tails on both sides, a t of 3 degrees."""
    return lambda rng, count: spread / np.sqrt(3) * rng.standard_t(3, count)


OF_PATIENT, OF_RUN = draw_normal(PATIENT_SD), draw_normal(RUN_SD)


@dataclass(frozen=True)
class Effects:
    """A suite of independent effects of patient, image, run and patient by run.

    Attributes:
        shared: the part of the variance between runs that runs of one seed number share over folds.
    """

    patients: int
    folds: int
    runs: int
    of_patient: Draw = OF_PATIENT
    of_run: Draw = OF_RUN
    shared: float = 0.0

    def __call__(self, rng: np.random.Generator) -> list[Values]:
        """Return a table a fold."""
        common = self.of_run(rng, self.runs) * np.sqrt(self.shared)
        tables = []
        for fold in range(self.folds):
            count = self.patients // self.folds + (fold < self.patients % self.folds)
            images = rng.integers(1, 3, count)
            of_patient = self.of_patient(rng, count) + rng.normal(0, IMAGE_SD, count) / np.sqrt(images)
            of_run = common + self.of_run(rng, self.runs) * np.sqrt(1 - self.shared)
            of_both = rng.normal(0, BOTH_SD, (count, self.runs)) / np.sqrt(images)[:, None]
            tables.append(of_patient[:, None] + of_run + of_both)
        return tables


@dataclass(frozen=True)
class CrossValidation:
    """Two ridge regressions, trained on the other folds: folds share training patients, as in a real suite.

    Each arm has `inputs` useless inputs of its own beside `inputs` useful ones, and training noise of its own, so that
    the arms are exchangeable and their expected difference is 0. The difference is that of squared errors, brought to
    the size of Dice.
    """

    patients: int
    folds: int
    runs: int
    inputs: int = 10
    penalty: float = 1.0
    noise: float = 0.05
    scale: float = 0.02

    def __call__(self, rng: np.random.Generator) -> list[Values]:
        """Return a table a fold."""
        useful = rng.normal(0, 1, (self.patients, self.inputs))
        target = useful @ rng.normal(0, 0.3, self.inputs) + rng.normal(0, 1, self.patients)
        arms = [np.hstack([useful, rng.normal(0, 1, useful.shape)]) for _ in range(2)]
        fold_of = np.arange(self.patients) % self.folds
        return [self._test(rng, arms, target, fold_of == fold) for fold in range(self.folds)]

    def _test(self, rng: np.random.Generator, arms: list[Values], target: Values, test: NDArray[np.bool_]) -> Values:
        losses = []
        for inputs in arms:
            train = inputs[~test]
            gram = train.T @ train + self.penalty * np.eye(inputs.shape[1])
            weights = np.linalg.solve(gram, train.T @ target[~test])
            runs = weights[:, None] + rng.normal(0, self.noise, (len(weights), self.runs))
            losses.append((target[test][:, None] - inputs[test] @ runs) ** 2)
        found: Values = self.scale * (losses[1] - losses[0])
        return found


NORMAL: Mapping[str, Setting] = {
    "19 patients, 1 fold, 5 runs": Effects(19, 1, 5),
    "50 patients, 4 folds, 5 runs": Effects(50, 4, 5),
    "213 patients, 1 fold, 5 runs": Effects(213, 1, 5),
    "213 patients, 4 folds, 5 runs": Effects(213, 4, 5),
    "852 patients, 4 folds, 5 runs": Effects(852, 4, 5),
    "213 patients, 5 folds, 5 runs": Effects(213, 5, 5),
    "heavy tails on both sides, 213 patients, 4 folds, 5 runs": Effects(213, 4, 5, draw_heavy(PATIENT_SD)),
}

ONE_SIDED: Mapping[str, Setting] = {
    "30 patients, 1 fold, 5 runs": Effects(30, 1, 5, draw_losses(PATIENT_SD)),
    "60 patients, 4 folds, 5 runs": Effects(60, 4, 5, draw_losses(PATIENT_SD)),
    "213 patients, 4 folds, 5 runs": Effects(213, 4, 5, draw_losses(PATIENT_SD)),
    "4 % of patients fail, 60 patients, 4 folds, 5 runs": Effects(60, 4, 5, draw_failures(0.02)),
    "4 % of patients fail, 213 patients, 4 folds, 5 runs": Effects(213, 4, 5, draw_failures(0.02)),
}

COLLAPSING: Mapping[str, Setting] = {
    "58 patients, 1 fold, 5 runs": Effects(58, 1, 5, of_run=draw_losses(COLLAPSES)),
    "58 patients, 1 fold, 3 runs": Effects(58, 1, 3, of_run=draw_losses(COLLAPSES)),
    "213 patients, 4 folds, 5 runs": Effects(213, 4, 5, of_run=draw_losses(COLLAPSES)),
    "213 patients, 4 folds, 3 runs": Effects(213, 4, 3, of_run=draw_losses(COLLAPSES)),
}

FEW_PATIENTS: Mapping[str, Setting] = {
    "6 patients, 1 fold, 5 runs": Effects(6, 1, 5),
    "12 patients, 1 fold, 3 runs": Effects(12, 1, 3),
    "12 patients, 4 folds, 5 runs": Effects(12, 4, 5),
    "9 patients, 4 folds, 5 runs (folds of 2 and 3)": Effects(9, 4, 5),
    "20 patients, 10 folds, 2 runs (folds of 2)": Effects(20, 10, 2),
    "5 patients, 5 folds, 2 runs (folds of 1)": Effects(5, 5, 2),
}

FEW_RUNS: Mapping[str, Setting] = {
    "213 patients, 1 fold, 3 runs": Effects(213, 1, 3),
    "213 patients, 1 fold, 2 runs": Effects(213, 1, 2),
    "213 patients, 4 folds, 3 runs": Effects(213, 4, 3),
    "213 patients, 4 folds, 2 runs": Effects(213, 4, 2),
}

SHARED_SEEDS: Mapping[str, Setting] = {
    "25 % shared, 213 patients, 4 folds, 5 runs": Effects(213, 4, 5, shared=0.25),
    "50 % shared, 213 patients, 4 folds, 5 runs": Effects(213, 4, 5, shared=0.5),
    "all shared, 213 patients, 4 folds, 5 runs": Effects(213, 4, 5, shared=1.0),
}

CROSS_VALIDATED: Mapping[str, Setting] = {
    "60 patients, 4 folds, 5 runs": CrossValidation(60, 4, 5),
    "200 patients, 4 folds, 5 runs": CrossValidation(200, 4, 5),
    "852 patients, 4 folds, 5 runs": CrossValidation(852, 4, 5),
    "200 patients, 10 folds, 5 runs": CrossValidation(200, 10, 5),
    "200 patients, 4 folds, 5 runs, steady training": CrossValidation(200, 4, 5, noise=0.005),
    "200 patients, 2 folds, 5 runs": CrossValidation(200, 2, 5),
}

FAMILIES: Mapping[str, Mapping[str, Setting]] = {
    "normal": NORMAL,
    "one-sided patients": ONE_SIDED,
    "collapsing runs": COLLAPSING,
    "few patients": FEW_PATIENTS,
    "few runs": FEW_RUNS,
    "shared seeds": SHARED_SEEDS,
    "cross-validation": CROSS_VALIDATED,
}
