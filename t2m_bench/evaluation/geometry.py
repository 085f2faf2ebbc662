"""Audit of free text: whether it tells the size and the place of the mask, beyond class and box.

A report that says "12 mm, upper outer" gives a part of the outline away. A gain from it is real, and is none from what
the words say about the kind of lesion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t2m_bench.data.case import Case
from t2m_bench.data.images import load_mask
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.evaluation.probe import find_box_unit

NUM_FOLDS = 5
MIN_PATIENTS = 4 * NUM_FOLDS
"""Fewer patients give no figure."""

STRENGTHS = np.logspace(-1, 5, 13)
"""scikit-learn's alpha; the one with the least leave-one-out error within the training part is taken."""

NUM_RESAMPLES = 1000
LEVEL = 0.95
RESAMPLE_SEED = 21

TARGETS = ("log_area", "log_aspect", "centre_x", "centre_y", "log_fill")
"""Log of the mask's area, log of width over height, its centre as a share of the image, log of area over box area."""

Features = NDArray[np.float64]


@dataclass(frozen=True)
class GeometryFit:
    """How well one target is predicted, as R2 on patients that the fit did not see.

    Attributes:
        r2: "class" (where one is named), "text", "box" and "box_text" -> R2.
        low: lower end of the 95 % bootstrap interval over patients of R2(text) - R2(class); a class that is not named
            counts 0.
        low_given_box: the same of R2(box and text) - R2(box and class).
    """

    r2: Mapping[str, float]
    low: float
    low_given_box: float


def audit_geometry(root: Path, cases: Sequence[Case], texts: TextTable) -> dict[str, GeometryFit]:
    """Return target -> fit over the cases that have a text; none where texts are of classes or patients are few.

    Ridge regression, cross-fitted by patient.

    Args:
        root: the folder of masks. cases: those outside the test fold.
    """
    free = texts.free
    if free is None:
        return {}
    cases = [case for case in cases if case.text_fields[free.text_field] != UNKNOWN]
    patients = np.array([case.patient_id for case in cases])
    if len(set(patients)) < MIN_PATIENTS:
        return {}
    in_mm = find_box_unit(cases) == "mm"
    targets = np.stack([_measure(root, case, in_mm) for case in cases])
    box = np.stack([_describe_box(case) for case in cases])
    text = np.stack([texts.embed(case.text_fields).double().numpy() for case in cases])
    predictors = {"text": text, "box": box, "box_text": np.hstack([box, text])}
    if free.class_field:
        named = np.array([[case.text_fields[free.class_field] == name for name in free.class_names] for case in cases])
        predictors |= {"class": named.astype(np.float64), "box_class": np.hstack([box, named])}
    errors = {name: (targets - _cross_fit(found, targets, patients)) ** 2 for name, found in predictors.items()}
    counts = _resample(patients)
    return {
        target: _judge(targets[:, column], column, errors, patients, counts) for column, target in enumerate(TARGETS)
    }


def _measure(root: Path, case: Case, in_mm: bool) -> Features:
    """Return the targets of a case, in the order of TARGETS."""
    mask = load_mask(root, case)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    row_mm, column_mm = case.spacing_mm if in_mm and case.spacing_mm is not None else (1.0, 1.0)
    width, height = (columns[-1] - columns[0] + 1) * column_mm, (rows[-1] - rows[0] + 1) * row_mm
    x0, y0, x1, y1 = case.box_xyxy
    area = float(mask.sum())
    return np.array(
        [
            np.log(area * row_mm * column_mm),
            np.log(width / height),
            (columns[0] + columns[-1] + 1) / 2 / case.width,
            (rows[0] + rows[-1] + 1) / 2 / case.height,
            np.log(area / ((x1 - x0) * (y1 - y0))),
        ]
    )


def _describe_box(case: Case) -> Features:
    x0, y0, x1, y1 = case.box_xyxy
    row_mm, column_mm = case.spacing_mm or (1.0, 1.0)
    width, height = (x1 - x0) * column_mm, (y1 - y0) * row_mm
    return np.array(
        [np.log(width), np.log(height), width, height, (x0 + x1) / 2 / case.width, (y0 + y1) / 2 / case.height]
    )


def _cross_fit(features: Features, targets: Features, patients: NDArray[np.str_]) -> Features:
    """Return (N, T): each case's targets, predicted from other patients."""
    predicted = np.empty_like(targets)
    for train, test in GroupKFold(NUM_FOLDS).split(features, targets, patients):
        model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS, alpha_per_target=True))
        predicted[test] = model.fit(features[train], targets[train]).predict(features[test])
    return predicted


def _resample(patients: NDArray[np.str_]) -> Features:
    """Return (resamples, patients in sorted order): how often each patient was drawn; all once in the first row."""
    number = len(set(patients))
    rng = np.random.default_rng(RESAMPLE_SEED)
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=NUM_RESAMPLES)
    return np.vstack([np.ones(number), drawn]).astype(np.float64)


def _judge(
    target: Features, column: int, errors: Mapping[str, Features], patients: NDArray[np.str_], counts: Features
) -> GeometryFit:
    _, of_patient = np.unique(patients, return_inverse=True)

    def add(values: Features) -> Features:
        """Return the sum over cases in each resample."""
        summed: Features = counts @ np.bincount(of_patient, values)
        return summed

    total = add(target**2) - add(target) ** 2 / add(np.ones_like(target))
    r2 = {name: 1 - add(of_target[:, column]) / np.maximum(total, 1e-12) for name, of_target in errors.items()}
    over_class = r2["text"] - r2.get("class", np.zeros_like(total))
    given_box = r2["box_text"] - r2.get("box_class", r2["box"])
    shown = {name: float(values[0]) for name, values in r2.items() if name != "box_class"}
    return GeometryFit(shown, _find_low(over_class), _find_low(given_box))


def _find_low(differences: Features) -> float:
    return float(np.quantile(differences[1:], (1 - LEVEL) / 2))
