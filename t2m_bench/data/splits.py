"""Patient-level splits, stratified by the class that the text names."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t2m_bench.data.case import Case
from t2m_bench.errors import DatasetError

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Splits:
    """case_ids of each part, in the order of the manifest."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def make_splits(cases: Sequence[Case], *, test_fold: int | None, val_fraction: float, seed: int, field: str) -> Splits:
    """Split by patient: the official test fold where given (else a fifth), validation drawn from the rest.

    A patient with several classes counts for the last of them in sorted order (for BI-RADS the most severe).

    Raises:
        DatasetError: the fold does not exist, or a part would be empty.
    """
    rng = np.random.default_rng([seed, 2])
    if test_fold is None:
        test_patients = _draw_patients(cases, TEST_SHARE, field, rng)
    else:
        test_patients = {case.patient_id for case in cases if case.fold == test_fold}
        if not test_patients:
            known = sorted({str(case.fold) for case in cases})
            raise DatasetError(f"dataset.test_fold = {test_fold}: no case has it; folds here: {', '.join(known)}.")
    rest = [case for case in cases if case.patient_id not in test_patients]
    val_patients = _draw_patients(rest, val_fraction, field, rng)
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for case in cases:
        side = "test" if case.patient_id in test_patients else "val" if case.patient_id in val_patients else "train"
        parts[side].append(case.case_id)
    empty = [name for name, case_ids in parts.items() if not case_ids]
    if empty:
        raise DatasetError(f"too few patients to split: the {empty[0]} part is empty ({len(cases)} cases in all).")
    return Splits(**{name: tuple(case_ids) for name, case_ids in parts.items()})


def _draw_patients(cases: Sequence[Case], share: float, field: str, rng: np.random.Generator) -> set[str]:
    """Draw a share of each class's patients, at least one where a class has two."""
    class_of: dict[str, str] = {}
    for case in cases:
        class_of[case.patient_id] = max(class_of.get(case.patient_id, ""), case.text_fields[field])
    by_class: dict[str, list[str]] = defaultdict(list)
    for patient, name in class_of.items():
        by_class[name].append(patient)
    drawn: set[str] = set()
    for name in sorted(by_class):
        patients = by_class[name]
        count = min(max(round(share * len(patients)), 1), len(patients) - 1)
        drawn.update(patients[position] for position in rng.permutation(len(patients))[:count])
    return drawn
