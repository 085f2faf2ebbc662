"""Published figures of Talk2MedSAM as reference rows, with what its protocol was."""

from collections.abc import Mapping

from t2m_bench.recipe.datasets import DATA_SETS

MARK = "published †"

FOOTNOTE = (
    "† As published (Zhang 2024), not comparable: the split was by image, so that images of one patient lie on both "
    "sides; the epoch was chosen by the Dice of the set that is reported, and there is no test set; images went into "
    "MedSAM as 0 to 255 where it expects 0 to 1; the gain is over the frozen model, and so includes adaptation to the "
    "data set."
)
"""Faults of the published protocol."""


def find_published(kind: str) -> Mapping[str, float]:
    """Return arm -> Dice as published on a kind of data set; empty where nothing was, or its package is not here."""
    entry = DATA_SETS.get(kind)
    return entry.published_dice if entry else {}


def write_footnote(kind: str) -> str:
    """Return the footnote of a data set's published rows."""
    entry = DATA_SETS.get(kind)
    return f"{FOOTNOTE} {entry.published_note if entry else ''}".rstrip()
