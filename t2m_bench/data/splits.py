"""Patient-level splits, stratified by the class that the text names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2m_bench.data.case import Case
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.schema import DatasetSection

TEST_SHARE = 0.2
NUM_DERIVED_FOLDS = 5
"""Number of folds of a data set that has no official ones."""


@dataclass(frozen=True)
class Splits:
    """case_ids of each part, in the order of the manifest."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def outside_test(self) -> list[str]:
        """Training and validation cases that are no test cases: as was published, validation is the test."""
        test = set(self.test)
        return [case_id for case_id in (*self.train, *self.val) if case_id not in test]


def split_cases(cases: Sequence[Case], dataset: DatasetSection, field: str | None) -> Splits:
    """Split as the recipe says: by patient and with validation apart, or as was published.

    Args:
        field: its classes are spread evenly; None where cases have none.

    Raises:
        DatasetError: as `make_splits`.
    """
    if dataset.split_by == "image":
        splits = make_image_splits(
            cases, draw=dataset.test_fold, val_fraction=dataset.val_fraction, seed=dataset.split_seed
        )
    else:
        splits = make_splits(
            cases,
            test_fold=dataset.test_fold,
            val_fraction=dataset.val_fraction,
            seed=dataset.split_seed,
            field=field,
            fold_seed=dataset.fold_seed,
        )
    if dataset.validation == "test":
        order = {case.case_id: place for place, case in enumerate(cases)}
        splits = Splits(tuple(sorted((*splits.train, *splits.val), key=order.__getitem__)), splits.test, splits.test)
    return splits


def make_image_splits(cases: Sequence[Case], *, draw: int, val_fraction: float, seed: int) -> Splits:
    """Split by image, as Talk2MedSAM published: a fifth to test, whoever else of the patient stays in training.

    Raises:
        DatasetError: a part would be empty.
    """
    shuffled = np.random.default_rng([seed, 4, draw]).permutation(len(cases))
    num_test = round(TEST_SHARE * len(cases))
    num_val = round(val_fraction * (len(cases) - num_test))
    places = dict(zip(("test", "val", "train"), np.split(shuffled, [num_test, num_test + num_val]), strict=True))
    parts = {name: tuple(cases[place].case_id for place in sorted(drawn)) for name, drawn in places.items()}
    _check_parts(parts, len(cases))
    return Splits(**parts)


def _check_parts(parts: Mapping[str, Sequence[str]], num_cases: int) -> None:
    empty = [name for name, case_ids in parts.items() if not case_ids]
    if empty:
        raise DatasetError(
            f"too few patients to split: the {empty[0]} part is empty ({num_cases} cases in all). Add patients."
        )


def make_splits(
    cases: Sequence[Case],
    *,
    test_fold: int | None,
    val_fraction: float,
    seed: int,
    field: str | None,
    fold_seed: int = 0,
) -> Splits:
    """Split by patient: the test fold where given (else a fifth), validation drawn from the rest.

    Folds are the official ones; where the data set has none, patients are dealt over five, class by class. A patient
    with several classes counts for the last of them in sorted order (for BI-RADS the most severe).

    Args:
        seed: of the validation patients, and of the test patients where there is no fold.
        fold_seed: of derived folds; apart from `seed`, so that no draw of validation patients trains on test patients.

    Raises:
        DatasetError: the fold does not exist, or a part would be empty.
    """
    rng = np.random.default_rng([seed, 2])
    if test_fold is None:
        test_patients = _draw_patients(cases, TEST_SHARE, field, rng)
    else:
        folds = {case.patient_id: case.fold for case in cases}
        if not any(folds.values()):
            folds = derive_folds(cases, fold_seed, field)
        test_patients = {patient for patient, fold in folds.items() if fold == test_fold}
        if not test_patients:
            known = sorted({str(fold) for fold in folds.values()})
            raise DatasetError(
                f"dataset.test_fold or bench.folds = {test_fold}: no case has it; folds here: {', '.join(known)}."
            )
    rest = [case for case in cases if case.patient_id not in test_patients]
    val_patients = _draw_patients(rest, val_fraction, field, rng)
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for case in cases:
        side = "test" if case.patient_id in test_patients else "val" if case.patient_id in val_patients else "train"
        parts[side].append(case.case_id)
    _check_parts(parts, len(cases))
    return Splits(**{name: tuple(case_ids) for name, case_ids in parts.items()})


def derive_folds(cases: Sequence[Case], seed: int, field: str | None) -> dict[str, int | None]:
    """Return patient -> fold from 1: each class's patients are spread evenly, as are all patients together."""
    class_of = _find_classes(cases, field)
    patients = sorted(class_of)
    order = np.random.default_rng([seed, 3]).permutation(len(patients))
    dealt = sorted((patients[position] for position in order), key=lambda patient: class_of[patient])
    return {patient: place % NUM_DERIVED_FOLDS + 1 for place, patient in enumerate(dealt)}


def _find_classes(cases: Sequence[Case], field: str | None) -> Mapping[str, str]:
    """Return patient -> class, the last in sorted order where a patient has several; one class without a field."""
    class_of: dict[str, str] = {}
    for case in cases:
        own = case.text_fields[field] if field is not None else ""
        class_of[case.patient_id] = max(class_of.get(case.patient_id, ""), own)
    return class_of


def _draw_patients(cases: Sequence[Case], share: float, field: str | None, rng: np.random.Generator) -> set[str]:
    """Draw a share of each class's patients, at least one where a class has two."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for patient, name in _find_classes(cases, field).items():
        by_class[name].append(patient)
    drawn: set[str] = set()
    for name in sorted(by_class):
        patients = by_class[name]
        count = min(max(round(share * len(patients)), 1), len(patients) - 1)
        drawn.update(patients[position] for position in rng.permutation(len(patients))[:count])
    return drawn
