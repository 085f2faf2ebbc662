"""The redundancy probe: how well the class that the text names can be read off the box and the frozen embedding.

What a linear model reads off them, text cannot add. The class that it predicts for a test case, fitted on the other
folds, is the text of the condition `predicted`.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from t2m_bench.data.case import Case
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.shards.reader import CaseSource

NUM_FOLDS = 5
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""scikit-learn's C; the one with the best cross-validated AUC within the training folds is taken."""

MIN_PATIENTS = 2 * NUM_FOLDS
"""A class of fewer training patients is not predicted: several images of a patient are no new examples of it."""

Features = NDArray[np.float64]


@dataclass(frozen=True)
class FieldProbe:
    """Result of the redundancy probe for one text field.

    Attributes:
        auc: "box" or "embedding_and_box" -> macro AUC of the test cases, NaN where all are of one class.
        auc_cross_validated: the same within the training folds, grouped by patient.
        predicted: test case_id -> class, from embedding and box.
    """

    classes: tuple[str, ...]
    num_train: int
    num_test: int
    auc: Mapping[str, float]
    auc_cross_validated: Mapping[str, float]
    predicted: Mapping[str, str]


def probe_field(
    train: Sequence[Case], test: Sequence[Case], field: str, features_of: Mapping[str, Mapping[str, Features]]
) -> FieldProbe | None:
    """Fit on the training cases whose class is known and predict every test case; None with fewer than two classes.

    Args:
        features_of: "box" and "embedding_and_box" -> case_id -> features (F,).
    """
    patients_of = {
        name: {case.patient_id for case in train if case.text_fields[field] == name}
        for name in _list_classes(train, field)
    }
    classes = tuple(name for name, patients in patients_of.items() if len(patients) >= MIN_PATIENTS)
    train = [case for case in train if case.text_fields[field] in classes]
    known = [case for case in test if case.text_fields[field] in classes]
    if len(classes) < 2 or len({case.patient_id for case in train}) < NUM_FOLDS:
        return None
    labels = np.array([case.text_fields[field] for case in train])
    groups = np.array([case.patient_id for case in train])
    auc, cross_validated, predicted = {}, {}, {}
    for name, of_case in features_of.items():
        x_train = _stack(of_case, train)
        best, cross_validated[name] = _choose_strength(x_train, labels, groups, classes)
        model = _fit(best, x_train, labels)
        auc[name] = float("nan")
        if known:
            truth = np.array([case.text_fields[field] for case in known])
            auc[name] = compute_macro_auc(truth, model.predict_proba(_stack(of_case, known)), classes)
        guesses = model.predict(_stack(of_case, test))
        predicted = {case.case_id: str(guess) for case, guess in zip(test, guesses, strict=True)}
    return FieldProbe(classes, len(train), len(known), auc, cross_validated, predicted)


def _stack(features_of: Mapping[str, Features], cases: Sequence[Case]) -> Features:
    return np.stack([features_of[case.case_id] for case in cases])


def _list_classes(cases: Sequence[Case], field: str) -> list[str]:
    return sorted({case.text_fields[field] for case in cases} - {UNKNOWN})


def _choose_strength(
    features: Features, labels: NDArray[np.str_], groups: NDArray[np.str_], classes: tuple[str, ...]
) -> tuple[float, float]:
    """Return the C with the best macro AUC over patient folds, and that AUC."""
    scored = []
    folds = list(GroupKFold(NUM_FOLDS).split(features, labels, groups))
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # a class absent from a fold's training part gets probability 0 there, which is all that is known of it
            warnings.filterwarnings("ignore", message="Number of classes in training fold")
            chances = cross_val_predict(_build(strength), features, labels, cv=folds, method="predict_proba")
        scored.append((compute_macro_auc(labels, chances, classes), strength))
    auc, strength = max(scored)
    return strength, auc


def _build(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))


def _fit(strength: float, features: Features, labels: NDArray[np.str_]) -> Pipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _build(strength).fit(features, labels)


def compute_macro_auc(truth: NDArray[np.str_], chances: Features, classes: Sequence[str]) -> float:
    """Return the mean over classes of the AUC of each against the others; NaN where there is no such class.

    Args:
        chances: (N, C) probability of each of `classes`.
    """
    known = [
        float(roc_auc_score(truth == name, chances[:, column]))
        for column, name in enumerate(classes)
        if 0 < np.count_nonzero(truth == name) < len(truth)
    ]
    return float(np.mean(known)) if known else float("nan")


def find_box_unit(cases: Sequence[Case]) -> Literal["mm", "px"]:
    """Return the unit of box sizes: mm where every case's pixel spacing is known."""
    return "mm" if all(case.spacing_mm is not None for case in cases) else "px"


def describe_boxes(cases: Sequence[Case]) -> dict[str, Features]:
    """Return case_id -> the geometry of its tight box: size and form in mm or pixels, size and centre as shares."""
    in_mm = find_box_unit(cases) == "mm"
    described = {}
    for case in cases:
        x0, y0, x1, y1 = case.box_xyxy
        row, column = case.spacing_mm if in_mm and case.spacing_mm is not None else (1.0, 1.0)
        width, height = (x1 - x0) * column, (y1 - y0) * row
        described[case.case_id] = np.array(
            [
                width,
                height,
                np.sqrt(width * height),
                np.log(width / height),
                (x1 - x0) / case.width,
                (y1 - y0) / case.height,
                (x0 + x1) / 2 / case.width,
                (y0 + y1) / 2 / case.height,
            ]
        )
    return described


def pool_embeddings(cases: Sequence[Case], source: CaseSource, input_size: int) -> dict[str, Features]:
    """Return case_id -> the frozen embedding averaged over the tight box, (D,), read in batches."""
    pooled: dict[str, Features] = {}
    at_once = 8
    for first in range(0, len(cases), at_once):
        batch = [case.case_id for case in cases[first : first + at_once]]
        stored = source.read(batch)
        grid = stored.image_embedding.shape[-1]
        boxes = stored.box_xyxy * grid / input_size
        for case_id, embedding, box in zip(batch, stored.image_embedding, boxes, strict=True):
            x0, y0 = (int(value) for value in np.floor(box[:2]))
            x1, y1 = (max(int(np.ceil(high)), low + 1) for high, low in zip(box[2:], (x0, y0), strict=True))
            inside = embedding[:, y0:y1, x0:x1].astype(np.float64)
            pooled[case_id] = inside.mean(axis=(1, 2))
    return pooled


def run_probe(
    train: Sequence[Case], test: Sequence[Case], fields: Sequence[str], source: CaseSource, input_size: int
) -> dict[str, FieldProbe]:
    """Return field -> what the probe found; a field with fewer than two classes to tell apart is left out."""
    cases = [*train, *test]
    box = describe_boxes(cases)
    pooled = pool_embeddings(cases, source, input_size)
    both = {case_id: np.concatenate([pooled[case_id], geometry]) for case_id, geometry in box.items()}
    found = {field: probe_field(train, test, field, {"box": box, "embedding_and_box": both}) for field in fields}
    return {field: probe for field, probe in found.items() if probe is not None}
