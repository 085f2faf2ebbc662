"""The leakage audit: runs before any training and says what the splits share."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from t2m_bench.data.box_size import compute_size_auc
from t2m_bench.data.case import Case
from t2m_bench.data.exclusions import Exclusion, count_exclusions
from t2m_bench.data.free_text import TEXT
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.data.splits import Splits
from t2m_bench.errors import LeakageError

LISTED_LEAKS = 3
"""Number of cases that a message names."""


@dataclass(frozen=True)
class Audit:
    """Findings of the audit, free of identifiers: numbers and plain sentences.

    Attributes:
        cases, patients: split -> count; classes: split -> class -> cases, of the field that stratifies.
        flags: quality flag -> cases. unknown_texts: cases of which that field, or the free text, is unknown.
        leaks: one sentence for each kind of leak found, empty when there is none.
        classes_by_field: text field -> split -> class -> cases, of every field.
        size_auc: what the box's size in mm alone tells of the stratifying field (box_size.py); None where not known.
        images: what the image audit found (image_audit.py); empty of data prepared before there was one.
        exclusions: reason -> how many were left out. selection: how cases were chosen, empty where all were taken.
    """

    cases: dict[str, int]
    patients: dict[str, int]
    classes: dict[str, dict[str, int]]
    flags: dict[str, int]
    unknown_texts: int
    leaks: tuple[str, ...]
    examples: tuple[str, ...]
    classes_by_field: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    exclusions: dict[str, int] = field(default_factory=dict)
    selection: str = ""
    size_auc: float | None = None
    images: dict[str, Any] = field(default_factory=dict)


def run_audit(
    cases: Sequence[Case],
    splits: Splits,
    stratified: str | None,
    seen_image_hashes: Iterable[str] = (),
    exclusions: Sequence[Exclusion] = (),
    selection: str = "",
    class_order: Sequence[str] = (),
) -> Audit:
    """Look for patients and images on two sides, and for evaluation images that a frozen model was trained on.

    Args:
        stratified: the text field by whose classes the splits were drawn; None where texts are free and have none.
        seen_image_hashes: `Case.image_sha256` of the images that the frozen models of this package were trained on.
        exclusions, selection: what the reader left out, and how it chose.
        class_order: classes of the stratifying field in the order of the prompt file.
    """
    by_id = {case.case_id: case for case in cases}
    parts = {name: [by_id[case_id] for case_id in getattr(splits, name)] for name in ("train", "val", "test")}
    found = [*_find_shared(parts), *_find_seen(parts, frozenset(seen_image_hashes))]
    asked = TEXT if stratified is None or TEXT in cases[0].text_fields else stratified
    by_field = {
        name: {split: _count(case.text_fields[name] for case in part) for split, part in parts.items()}
        for name in cases[0].text_fields
        if name != TEXT  # as many values as cases
    }
    return Audit(
        cases={name: len(part) for name, part in parts.items()},
        patients={name: len({case.patient_id for case in part}) for name, part in parts.items()},
        classes=by_field[stratified] if stratified is not None else {},
        flags=_count(flag for case in cases for flag in case.flags),
        unknown_texts=sum(case.text_fields[asked] == UNKNOWN for case in cases),
        leaks=tuple(sentence for sentence, _ in found),
        examples=tuple(case_id for _, case_ids in found for case_id in case_ids[:LISTED_LEAKS]),
        classes_by_field=by_field,
        exclusions=count_exclusions(exclusions),
        selection=selection,
        size_auc=compute_size_auc(cases, stratified, class_order) if stratified is not None else None,
    )


def check_audit(audit: Audit, allow_leakage: bool, test_fold: int) -> None:
    """Refuse to go on when something leaks.

    Args:
        test_fold: of the splits that were audited.

    Raises:
        LeakageError: unless the recipe allows it.
    """
    if audit.leaks and not allow_leakage:
        raise LeakageError(
            f"the splits of fold {test_fold} leak: {'; '.join(audit.leaks)} (for instance "
            f"{', '.join(audit.examples[:LISTED_LEAKS])}). "
            "Correct the data set or the folds, or set allow_leakage=true, which every table will then show."
        )


def describe_unknown_field(name: str) -> str:
    """Return what it means that a text field is unknown in every case, and what to do."""
    return (
        f"No case has a {name}: every text says that it is unknown, so that no result tells what the text does. Fill "
        "in the column of the data set's table."
    )


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _find_shared(parts: dict[str, list[Case]]) -> list[tuple[str, list[str]]]:
    found = []
    for key, what in (("patient_id", "patients"), ("image_sha256", "identical images")):
        holders: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in parts}
        for name, part in parts.items():
            for case in part:
                holders[name][getattr(case, key)].append(case.case_id)
        for one, other in combinations(parts, 2):
            shared = holders[one].keys() & holders[other].keys()
            if shared:
                case_ids = sorted(case_id for value in shared for case_id in holders[other][value])
                found.append((f"{len(shared)} {what} in both {one} and {other}", case_ids))
    return found


def _find_seen(parts: dict[str, list[Case]], seen: frozenset[str]) -> list[tuple[str, list[str]]]:
    found = []
    for name in ("val", "test"):
        case_ids = sorted(case.case_id for case in parts[name] if case.image_sha256 in seen)
        if case_ids:
            found.append((f"{len(case_ids)} {name} images were seen by the frozen image encoder in training", case_ids))
    return found
