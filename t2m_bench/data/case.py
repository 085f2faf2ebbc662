"""A case: one lesion in one image, with the text fields known about it."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One lesion to segment.

    Attributes:
        case_id: unique in the dataset, free of patient identifiers (a pseudonym where the source's id is one).
        patient_id: unit of splitting and of statistics; stays in the manifest.
        image_path, mask_path: relative to the folder of images.
        height, width: pixels, of image and mask alike.
        box_xyxy: tight box of the mask in original pixels, half open (x0, y0, x1, y1), so x1 - x0 is a width.
        text_fields: field name to value, "unknown" where the source has none.
        fold: the official test fold, counted from 1; None where the dataset has none.
        spacing_mm: (row, column) pixel spacing, None where the source gives none.
        flags: quality remarks, such as "bbox_disagrees".
        image_sha256: of the image's pixels, for finding duplicates.
        mask_sha256: of the reference mask's pixels, so that another mask makes another data set.
        channels: 1 of a grey image, 3 of neighbouring CT slices, of which the middle one is annotated.
        source: what the image was made from, in the source's identifiers; stays in the manifest.
        strata: name of a grouping, such as the scanner, to the case's group.
        text, paraphrase: a sentence of the case's own, and the same in other words; they stay in the manifest.
    """

    case_id: str
    patient_id: str
    image_path: Path
    mask_path: Path
    height: int
    width: int
    box_xyxy: tuple[int, int, int, int]
    text_fields: dict[str, str]
    fold: int | None
    spacing_mm: tuple[float, float] | None
    flags: tuple[str, ...]
    image_sha256: str
    mask_sha256: str
    channels: int = 1
    source: str = ""
    strata: dict[str, str] = field(default_factory=dict)
    text: str = ""
    paraphrase: str = ""
