"""The arms: their order in every table, what they are called there, and what each stands for."""

from collections.abc import Iterable

from t2m_bench.recipe.arms import ARMS, REFERENCE_ARM
from t2m_bench.recipe.conditions import NO_TEXT, RIGHT

FLOORS = ("floor_box", "floor_ellipse", "floor_mean_mask", "floor_class_mask")
REFERENCE = REFERENCE_ARM
"""The arm of every claim about text."""

TEXT_CONDITION, TEXTLESS_CONDITION = RIGHT, NO_TEXT

BASELINE = "baseline"

UNTRAINED_LABELS = {
    "floor_box": "filled box (no image)",
    "floor_ellipse": "ellipse in the box (no image)",
    "floor_mean_mask": "mean mask in the box (no image)",
    "floor_class_mask": "mean mask of the class (no image)",
    BASELINE: "baseline (frozen, zero-shot)",
}
"""Rows without training, first in every table; the arms follow in the order of their table, then those of a recipe."""


def list_known() -> list[str]:
    """Return every arm that is not a recipe's own, in the order of tables."""
    return [*UNTRAINED_LABELS, *ARMS.names]


def sort_arms(arms: Iterable[str]) -> tuple[str, ...]:
    """Return arms in the order of tables."""
    known = list_known()
    return tuple(sorted(arms, key=lambda arm: (known.index(arm) if arm in known else len(known), arm)))


def name_arm(arm: str) -> str:
    """Return what an arm is called in tables."""
    return ARMS.find(arm).label if arm in ARMS else UNTRAINED_LABELS.get(arm, arm)


def is_trained(arm: str) -> bool:
    """Return whether an arm is trained, and so has seeds."""
    return arm not in UNTRAINED_LABELS


def list_methods() -> list[str]:
    """Return the method's own arms, the one that the primary contrast is about first."""
    ranked = [entry for entry in ARMS if entry.method_rank]
    return [entry.name for entry in sorted(ranked, key=lambda entry: entry.method_rank)]


def find_method(arms: Iterable[str]) -> str | None:
    """Return the method's arm among some, the one that the primary contrast is about first."""
    there = set(arms)
    return next((arm for arm in list_methods() if arm in there), None)
