"""The image audit: how the images and masks of a data set are stored, and which are hardly what they should be."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from t2m_bench.data.case import Case
from t2m_bench.data.images import compute_tight_box, load_annotated, load_grey_file, load_mask_file
from t2m_bench.data.splits import Splits
from t2m_bench.errors import DatasetError
from t2m_bench.files import write_text

IMAGE_AUDIT_NAME = "image_audit.json"
FEWEST_VALUES = 16
MOST_AT_EXTREME = 0.60
WIDENED = 0.5
"""The box is widened by this share of its size, half of it on each side."""

LEAST_FILLED = 0.5
"""Share of the area within its outline that a mask fills; a lesion has no hole as large as itself."""

FLAGGED_SHARE = 0.05
"""Share of flagged cases above which a verdict says so."""

FEW_VALUES, AT_EXTREME = "few_values", "at_one_extreme"
MASK_VALUES, MASK_BORDERS, MASK_HOLLOW, MASK_PARTS = "mask_values", "mask_borders", "mask_hollow", "mask_parts"

COUNTS = {
    FEW_VALUES: f"images with fewer than {FEWEST_VALUES} distinct values",
    AT_EXTREME: f"images with more than {MOST_AT_EXTREME:.0%} of the pixels in and around the box at one extreme",
    MASK_VALUES: "masks with other than two values",
    MASK_BORDERS: "masks that touch all four borders of the image",
    MASK_HOLLOW: f"masks that fill less than {LEAST_FILLED:.0%} of their outline",
    MASK_PARTS: "masks of several components",
}
FLAGS = (FEW_VALUES, AT_EXTREME, MASK_VALUES, MASK_BORDERS, MASK_HOLLOW)
"""Counts that flag a case; a lesion of several components is common."""


@dataclass(frozen=True)
class PixelValues:
    """An image's values as they are stored, of CT in Hounsfield units.

    Attributes:
        mode: as Pillow names it, or "CT". bits: of a pixel's channel. distinct: how many values there are.
        extreme_share: of the pixels in the widened box that have the image's lowest or its highest value, whichever is
            the larger share.
    """

    mode: str
    bits: int
    low: float
    high: float
    distinct: int
    extreme_share: float


@dataclass(frozen=True)
class ImageFinding:
    """Findings of the image audit for one case.

    Attributes:
        stored: before windowing. shown: as encoders see it, 8-bit.
        mask_values: distinct ones. mask_borders: sides of the image, of four, that the mask touches.
        mask_parts: components, joined by corners too.
        mask_filled: share of the area within the outline that belongs to the mask; 1 in audits that did not look.
    """

    case_id: str
    height: int
    width: int
    stored: PixelValues
    shown: PixelValues
    mask_mode: str
    mask_values: int
    mask_borders: int
    mask_parts: int
    mask_filled: float = 1.0

    def list_counts(self) -> list[str]:
        """Return the counts that this case belongs to."""
        found = {
            FEW_VALUES: min(self.stored.distinct, self.shown.distinct) < FEWEST_VALUES,
            AT_EXTREME: self.stored.extreme_share > MOST_AT_EXTREME,
            MASK_VALUES: self.mask_values != 2,
            MASK_BORDERS: self.mask_borders == 4,
            MASK_HOLLOW: self.mask_filled < LEAST_FILLED,
            MASK_PARTS: self.mask_parts > 1,
        }
        return [name for name in COUNTS if found[name]]

    @property
    def is_flagged(self) -> bool:
        """Return whether `--strict` refuses the case."""
        return bool(self.list_flags())

    def list_flags(self) -> list[str]:
        """Return the counts that this case belongs to and that flag it."""
        return [name for name in self.list_counts() if name in FLAGS]


def measure_pixels(pixels: NDArray[Any], box_xyxy: Sequence[int], mode: str, bits: int) -> PixelValues:
    """Return the values of an image, (H, W), and how many stand at one extreme in its widened box."""
    x0, y0, x1, y1 = box_xyxy
    across, down = round((x1 - x0) * WIDENED / 2), round((y1 - y0) * WIDENED / 2)
    around = pixels[max(y0 - down, 0) : y1 + down, max(x0 - across, 0) : x1 + across]
    low, high = pixels.min(), pixels.max()
    share = max(float((around == low).mean()), float((around == high).mean()))
    distinct = np.count_nonzero(np.bincount(pixels.ravel())) if pixels.dtype == np.uint8 else len(np.unique(pixels))
    return PixelValues(mode, bits, float(low), float(high), int(distinct), round(share, 4))


def audit_images(
    root: Path,
    cases: Sequence[Case],
    stored: Mapping[str, PixelValues],
    on_case: Callable[[int, int], None] = lambda done, total: None,
) -> list[ImageFinding]:
    """Look at every case's image and mask.

    Args:
        root: the folder of images. stored: case_id -> values before windowing, where the reader made the images.
        on_case: called with (cases done, cases in all) for progress.
    """
    findings: list[ImageFinding] = []
    with ThreadPoolExecutor() as pool:
        for finding in pool.map(partial(_audit_case, root, stored), cases):
            findings.append(finding)
            on_case(len(findings), len(cases))
    return findings


def _audit_case(root: Path, stored: Mapping[str, PixelValues], case: Case) -> ImageFinding:
    if case.channels == 1:
        grey = load_grey_file(root / case.image_path)
        shown = measure_pixels(grey.pixels, case.box_xyxy, grey.mode, grey.bits)
    else:
        shown = measure_pixels(load_annotated(root, case), case.box_xyxy, "RGB", 8)
    file = load_mask_file(root / case.mask_path)
    mask = file.mask
    return ImageFinding(
        case_id=case.case_id,
        height=case.height,
        width=case.width,
        stored=stored.get(case.case_id, shown),
        shown=shown,
        mask_mode=file.mode,
        mask_values=file.num_values,
        mask_borders=sum(bool(side.any()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])),
        mask_parts=_count_parts(mask),
        mask_filled=_find_filled_share(mask),
    )


def _count_parts(mask: NDArray[np.bool_]) -> int:
    """Return how many components a mask has, joined by corners too."""
    if not mask.any():
        return 0
    x0, y0, x1, y1 = compute_tight_box(mask)
    return int(ndimage.label(mask[y0:y1, x0:x1], structure=np.ones((3, 3)))[1])


def _find_filled_share(mask: NDArray[np.bool_]) -> float:
    """Return the share of the area within a mask's outline that it fills; 1 of an empty one."""
    if not mask.any():
        return 1.0
    x0, y0, x1, y1 = compute_tight_box(mask)
    cut = mask[y0:y1, x0:x1]
    return round(float(cut.sum() / ndimage.binary_fill_holes(cut).sum()), 4)


def write_image_audit(folder: Path, findings: Sequence[ImageFinding]) -> None:
    """Write the findings, which name cases as the source does, readable by the owner alone."""
    lines = ",\n".join(json.dumps(asdict(finding)) for finding in findings)
    write_text(folder / IMAGE_AUDIT_NAME, f"[\n{lines}\n]\n", private=True)


def load_image_audit(folder: Path) -> list[ImageFinding] | None:
    """Return what was found when the cases in a folder were read; None of a folder prepared before images were audited.

    Raises:
        DatasetError: the file is damaged.
    """
    path = folder / IMAGE_AUDIT_NAME
    if not path.is_file():
        return None
    try:
        return TypeAdapter(list[ImageFinding]).validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DatasetError(f"{path}: not an image audit ({reason}). Remove {folder} and prepare again.") from None


def summarise_images(findings: Sequence[ImageFinding], splits: Splits) -> dict[str, Any]:
    """Return the audit of a data set free of identifiers, for the report."""
    flagged = {finding.case_id for finding in findings if finding.is_flagged}
    stored, shown = [finding.stored for finding in findings], [finding.shown for finding in findings]
    counts = Counter(name for finding in findings for name in finding.list_counts())
    return {
        "cases": len(findings),
        "modes": _count(values.mode for values in stored),
        "bits": _count(str(values.bits) for values in stored),
        "mask_modes": _count(finding.mask_mode for finding in findings),
        "values": [min(values.low for values in stored), max(values.high for values in stored)],
        "distinct": [min(values.distinct for values in stored), max(values.distinct for values in stored)],
        "heights": [min(finding.height for finding in findings), max(finding.height for finding in findings)],
        "widths": [min(finding.width for finding in findings), max(finding.width for finding in findings)],
        "extreme_share": _summarise([values.extreme_share for values in stored]),
        "shown_extreme_share": _summarise([values.extreme_share for values in shown]),
        "counts": {name: counts[name] for name in COUNTS},
        "flagged": len(flagged),
        "flagged_by_split": {
            name: len(flagged.intersection(getattr(splits, name))) for name in ("train", "val", "test")
        },
    }


def check_images(findings: Sequence[ImageFinding], path: Path) -> None:
    """Refuse a data set with flagged images or masks.

    Args:
        path: the file that names them.

    Raises:
        DatasetError: with each reason, how many, and the file.
    """
    counts = Counter(name for finding in findings for name in finding.list_counts() if name in FLAGS)
    if counts:
        what = "; ".join(f"{counts[name]} {COUNTS[name]}" for name in FLAGS if counts[name])
        raise DatasetError(f"{what}; {path} names them. Correct them, or run prepare without strict to keep them.")


def describe_images(summary: Mapping[str, Any]) -> list[str]:
    """Return the summary in sentences, for the terminal."""
    found = [f"{count} {COUNTS[name]}" for name, count in summary["counts"].items() if count]
    flagged = f"{summary['flagged']} of {summary['cases']} cases flagged"
    return [f"images: {describe_storage(summary)}", f"image audit: {flagged}; {'; '.join(found) or 'nothing counted'}"]


def describe_storage(summary: Mapping[str, Any]) -> str:
    """Return how images and masks are stored, and how many pixels around the boxes stand at an extreme."""
    low, high = summary["values"]
    heights, widths = ("-".join(f"{size}" for size in dict.fromkeys(summary[name])) for name in ("heights", "widths"))
    parts = [
        "modes " + _list_counts(summary["modes"]),
        "bits " + _list_counts(summary["bits"]),
        f"values {low:g} to {high:g}",
        f"{widths} x {heights} px",
        "masks " + _list_counts(summary["mask_modes"]),
        "pixels at one extreme in and around the box: " + _show_shares(summary["extreme_share"]),
    ]
    if summary["shown_extreme_share"] != summary["extreme_share"]:
        parts[-1] += ", after windowing " + _show_shares(summary["shown_extreme_share"])
    return "; ".join(parts)


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _show_shares(shares: Sequence[float]) -> str:
    return f"median {shares[0]:.1%}, at most {shares[1]:.1%}"


def _count(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _summarise(shares: Sequence[float]) -> list[float]:
    """Return the median and the largest."""
    return [round(float(np.median(shares)), 4), round(max(shares), 4)]
