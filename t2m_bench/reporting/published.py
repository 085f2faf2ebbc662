"""Published figures of Talk2MedSAM as reference rows, with what its protocol was."""

from collections.abc import Mapping

PUBLISHED_DICE: Mapping[str, Mapping[str, float]] = {
    "bus_bra": {"baseline": 0.7945, "gated": 0.8951, "hierarchical": 0.9131},
    "nsclc": {"baseline": 0.8025, "gated": 0.8272, "hierarchical": 0.8581},
}
"""Data set -> arm -> Dice (Zhang 2024, BME 590 final project report, Duke University)."""

MARK = "published †"

FOOTNOTE = (
    "† As published (Zhang 2024), not comparable: the split was by image, so that images of one patient lie on both "
    "sides; the epoch was chosen by the Dice of the set that is reported, and there is no test set; images went into "
    "MedSAM as 0 to 255 where it expects 0 to 1; the gain is over the frozen model, and so includes adaptation to the "
    "data set."
)
"""What was wrong with the protocol."""

FLOOR_NOTES = {
    "bus_bra": " Two thirds of the validation images share a patient with training. On that split an ellipse in the "
    "box scores 0.8913 and a mean mask of each BI-RADS class 0.8962, with no image at all."
}
"""Data set -> what was measured on the published split."""


def write_footnote(dataset: str) -> str:
    """Return the footnote of a data set's published rows."""
    return FOOTNOTE + FLOOR_NOTES.get(dataset, "")
