"""What a dataset folder holds and no case is made of, each with its reason; one bad file stops no other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from t2m_bench.errors import DatasetError

NAMED = 3
"""How many a message names."""


class Reason(StrEnum):
    """Why something was left out; the audit counts each."""

    NOT_DICOM = "files among DICOM files that are not DICOM"
    UNREADABLE = "unreadable or truncated DICOM files"
    BURNED_IN = "images with burned-in annotation"
    UNUSABLE_CT = "CT images without position, orientation or pixel spacing"
    NO_ROW = "patients with images but no row in the clinical table"
    NO_IMAGES = "rows of the clinical table without images"
    NO_SEG = "patients with CT but no SEG"
    NO_CT = "SEGs without their CT"
    BAD_SEG = "SEGs that cannot be read"
    NO_FIT = "SEGs that do not lie on the slices of their CT"
    EMPTY_SEG = "SEGs that mark nothing"
    AUTOMATIC = "SEGs made by an algorithm alone, which are no reference"
    SEVERAL_SEGMENTS = "SEGs of several segments, of which none can be told to be the tumour"
    TOO_SMALL = "tumours smaller than min_pixels in every slice"
    PIXELS = "CT slices whose pixels cannot be decoded"
    FURTHER_SEG = "further SEGs of a patient (the newest that can be used is)"
    FURTHER_STUDY = "further CT studies of a patient"


@dataclass(frozen=True)
class Exclusion:
    """Something left out; `what` names it for its owner and stays beside the manifest."""

    reason: Reason
    what: str


def count_exclusions(exclusions: Sequence[Exclusion]) -> dict[str, int]:
    """Return reason -> how many, in the order of the reasons."""
    counts = Counter(exclusion.reason for exclusion in exclusions)
    return {str(reason): counts[reason] for reason in Reason if counts[reason]}


def check_exclusions(exclusions: Sequence[Exclusion]) -> None:
    """Refuse a dataset of which anything is left out.

    Raises:
        DatasetError: naming each reason, how many and some of them.
    """
    if not exclusions:
        return
    sentences = []
    for reason, count in count_exclusions(exclusions).items():
        named = [exclusion.what for exclusion in exclusions if exclusion.reason == reason][:NAMED]
        sentences.append(f"{count} {reason} ({', '.join(named)})")
    raise DatasetError(f"left out: {'; '.join(sentences)}. Mend them, or prepare without strict to go on without them.")
