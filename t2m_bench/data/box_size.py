"""Measures how much of an ordered class the size of the box alone reveals."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case


def measure_boxes_mm(cases: Sequence[Case]) -> dict[str, float]:
    """Return patient -> the longest side of the patient's boxes in mm, of the patients whose pixel spacing is known."""
    longest: dict[str, float] = {}
    for case in cases:
        if case.spacing_mm is None:
            continue
        x0, y0, x1, y1 = case.box_xyxy
        row_mm, column_mm = case.spacing_mm
        side_mm = max((y1 - y0) * row_mm, (x1 - x0) * column_mm)
        longest[case.patient_id] = max(longest.get(case.patient_id, 0.0), side_mm)
    return longest


def compute_size_auc(cases: Sequence[Case], field: str, classes: Sequence[str]) -> float | None:
    """Return the mean over pairs of classes of the AUC of box size in mm, patients as the unit.

    For two classes it is the probability that a patient of the later one has the larger box (ties count half): 0.5
    where size tells nothing, 1 where it tells all. The mean over pairs is that of Hand and Till (Machine Learning 45,
    2001), with the order of the classes given instead of fitted.

    Args:
        classes: in their order, from the small to the large (T stages, say); patients of others do not count.

    Returns:
        None where sizes are unknown or fewer than two classes have patients.
    """
    size_mm = measure_boxes_mm(cases)
    class_of = {case.patient_id: case.text_fields[field] for case in cases if case.patient_id in size_mm}
    sizes = {
        name: np.array([size_mm[patient] for patient, found in class_of.items() if found == name]) for name in classes
    }
    present = [name for name in classes if len(sizes[name])]
    pairs = [_compute_auc(sizes[small], sizes[large]) for small, large in combinations(present, 2)]
    return float(np.mean(pairs)) if pairs else None


def _compute_auc(small: NDArray[np.float64], large: NDArray[np.float64]) -> float:
    differences = large[None, :] - small[:, None]
    return float(np.mean(differences > 0) + np.mean(differences == 0) / 2)
