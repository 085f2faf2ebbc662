"""Records the parts of a dataset folder that become no case, each with its reason; one bad file stops no other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from t2m_bench.errors import DatasetError


class Reason(StrEnum):
    """Why something was left out; the audit counts each."""

    NOT_DICOM = "files among DICOM files, or named as such, that are not DICOM"
    NO_PREAMBLE = "files that are not DICOM files for want of preamble and header (dcmtk's dcmconv writes both)"
    UNREADABLE = "unreadable or truncated DICOM files"
    INCOMPLETE = "DICOM files without modality, identifiers or size of their pixels"
    BURNED_IN = "images with burned-in annotation"
    UNUSABLE_CT = "CT images without a usable position, orientation or pixel spacing"
    NOT_GREY = "CT images in colour or of several frames"
    NO_RESCALE = "CT images without a usable rescale slope and intercept, whose Hounsfield units are not known"
    NO_ROW = "patients with images but no row in the clinical table"
    NO_IMAGES = "rows of the clinical table without images here"
    NO_SEG = "patients with CT but no SEG"
    NO_CT = "SEGs without their CT"
    BAD_SEG = "SEGs that cannot be read"
    LABELMAP = "SEGs of type LABELMAP, which is not read (save them again as BINARY, with highdicom for instance)"
    NO_FIT = "SEGs that do not lie on the slices of their CT"
    EMPTY_SEG = "SEGs that mark nothing"
    AUTOMATIC = "SEGs made by an algorithm alone, which are no reference"
    SEVERAL_SEGMENTS = "SEGs of several segments, of which none can be told to be the tumour"
    TOO_SMALL = "tumours smaller than min_pixels in every slice"
    PIXELS = "CT slices whose pixels cannot be decoded"
    NO_JPEG = "CT slices and SEGs in JPEG or JPEG-LS that no installed codec decodes"
    NO_JPEG_2000 = "CT slices and SEGs in JPEG 2000 that no installed codec decodes"
    NO_PIXELS = "patients without a marked slice that can be decoded with its neighbours"
    FURTHER_SEG = "further SEGs of a patient (the newest that can be used is)"
    FURTHER_STUDY = "further CT studies of a patient"
    ASKED = "rows that the table says to leave out"


CODECS = {
    Reason.NO_JPEG: ("pylibjpeg", "pylibjpeg-libjpeg"),
    Reason.NO_JPEG_2000: ("pylibjpeg", "pylibjpeg-openjpeg"),
}
"""Reason -> packages that decode what was left out for it (pydicom 3.0: pixels/decoders/pylibjpeg.py)."""


@dataclass(frozen=True)
class Exclusion:
    """Something left out; `what` names it for its owner and stays beside the manifest."""

    reason: Reason
    what: str


def count_exclusions(exclusions: Sequence[Exclusion]) -> dict[str, int]:
    """Return reason -> how many, in the order of the reasons."""
    counts = Counter(exclusion.reason for exclusion in exclusions)
    return {str(reason): counts[reason] for reason in Reason if counts[reason]}


def find_remedy(reasons: Iterable[Reason]) -> str:
    """Return the command after which nothing is left out for these reasons any more; empty where none is known."""
    packages = dict.fromkeys(package for reason in reasons for package in CODECS.get(reason, ()))
    return f"pip install {' '.join(packages)}" if packages else ""


def list_exclusions(exclusions: Sequence[Exclusion]) -> list[str]:
    """Return for each reason in words how many were left out, and the command that mends it where there is one."""
    lines = []
    for reason, count in count_exclusions(exclusions).items():
        remedy = find_remedy([Reason(reason)])
        lines.append(f"{count} {reason} ({remedy})" if remedy else f"{count} {reason}")
    return lines


def describe_exclusions(exclusions: Sequence[Exclusion], path: Path) -> str:
    """Return in words how many were left out for which reason, and the file that names them.

    The message itself names none: it lands on terminals and in job logs, and what is left out carries identifiers.
    """
    return f"left out: {'; '.join(list_exclusions(exclusions)) or 'nothing'}; {path} names them"


def check_exclusions(exclusions: Sequence[Exclusion], path: Path) -> None:
    """Refuse a dataset of which anything is left out that its table does not say to leave out.

    Args:
        path: the file that names what was left out.

    Raises:
        DatasetError: naming each reason, how many, and the file.
    """
    found = [exclusion for exclusion in exclusions if exclusion.reason != Reason.ASKED]
    if found:
        what = describe_exclusions(found, path)
        raise DatasetError(f"{what}. Correct them, or run prepare without strict to leave them out.")
