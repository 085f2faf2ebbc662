"""The arms: their order in every table, what they are called there, and what each stands for."""

from collections.abc import Iterable

FLOORS = ("floor_box", "floor_ellipse", "floor_mean_mask", "floor_class_mask")
REFERENCE = "text_free"
"""The arm of every claim about text."""

TEXT_CONDITION, TEXTLESS_CONDITION = "right", "none"

LABELS = {
    "floor_box": "filled box (no image)",
    "floor_ellipse": "ellipse in the box (no image)",
    "floor_mean_mask": "mean mask in the box (no image)",
    "floor_class_mask": "mean mask of the class (no image)",
    "unet": "U-Net on box crops (no text)",
    "baseline": "baseline (frozen, zero-shot)",
    "tuned_decoder": "tuned_decoder (decoder trained, no text)",
    "text_free": "text_free (adapter, no text)",
    "text_train_only": "text_train_only (text in the loss alone)",
    "shuffled": "shuffled (texts of other patients)",
    "label": "label (a vector a class, no language)",
    "gated": "gated",
    "hierarchical": "hierarchical",
}
"""In the order of every table; arms that a recipe names follow."""

METHODS = ("hierarchical", "gated")
"""The method's own arms, the one that the primary contrast is about first."""


def sort_arms(arms: Iterable[str]) -> tuple[str, ...]:
    """Return arms in the order of tables."""
    known = list(LABELS)
    return tuple(sorted(arms, key=lambda arm: (known.index(arm) if arm in LABELS else len(known), arm)))


def name_arm(arm: str) -> str:
    """Return what an arm is called in tables."""
    return LABELS.get(arm, arm)


def is_trained(arm: str) -> bool:
    """Return whether an arm is trained, and so has seeds."""
    return arm not in FLOORS and arm != "baseline"


def find_method(arms: Iterable[str]) -> str | None:
    """Return the method's arm among some, the one that the primary contrast is about first."""
    there = set(arms)
    return next((arm for arm in METHODS if arm in there), None)
