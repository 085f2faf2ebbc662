"""Everything that is measured of one prediction: the measured columns of the results table."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from t2m_bench.metrics.overlap import (
    UNDEFINED,
    compute_area_error,
    compute_dice,
    compute_iou,
    compute_precision,
    compute_recall,
)
from t2m_bench.metrics.surface import PIXEL, compute_diagonal, measure_surface
from t2m_bench.recipe.conditions import CONDITIONS

MEASURES = (
    "dice",
    "iou",
    "precision",
    "recall",
    "hd95",
    "assd",
    "surface_dice",
    "surface_dice_1",
    "surface_dice_2",
    "surface_dice_5",
    "area_error",
    "box_diagonal",
    "pred_empty",
    "ref_empty",
)
"""In the order of `measure_mask`; the last two are 0 or 1."""

NO_TEXT = "none"
"""The condition of an arm that reads no text."""

FULL_CONDITIONS = frozenset({NO_TEXT, *(entry.name for entry in CONDITIONS if entry.in_full)})
FULL_BOX = "tight"

DIAGONAL_SHARES = {"surface_dice": 0.02, "surface_dice_1": 0.01, "surface_dice_5": 0.05}
"""Tolerances as shares of the box's diagonal, where no spacing is known: a pixel means another thing in every image."""

TOLERANCES_MM = {"surface_dice": 1.0, "surface_dice_2": 2.0}


def is_measured_in_full(condition: str, box: str) -> bool:
    """Return whether rows of a condition and a box carry more than overlap and emptiness."""
    return condition in FULL_CONDITIONS and box == FULL_BOX


def name_distance_unit(spacing_mm: tuple[float, float] | None) -> str:
    """Return the unit of the distances of a case: px or mm."""
    return "px" if spacing_mm is None else "mm"


def measure_mask(
    mask_pred: NDArray[np.bool_],
    mask_ref: NDArray[np.bool_],
    box_xyxy: Sequence[int],
    spacing_mm: tuple[float, float] | None,
    in_full: bool = True,
) -> dict[str, float]:
    """Return every one of MEASURES of two (H, W) masks.

    Args:
        box_xyxy: the reference's tight box, half open, pixels.
        spacing_mm: (row, column) size of a pixel; None where unknown, and then distances are pixels.
        in_full: without it only Dice, IoU and the two emptinesses are computed, the rest is NaN.
    """
    measured = dict.fromkeys(MEASURES, UNDEFINED)
    measured |= {"dice": compute_dice(mask_pred, mask_ref), "iou": compute_iou(mask_pred, mask_ref)}
    measured |= {"pred_empty": float(not mask_pred.any()), "ref_empty": float(not mask_ref.any())}
    if not in_full:
        return measured
    x0, y0, x1, y1 = box_xyxy
    diagonal = compute_diagonal(y1 - y0, x1 - x0, spacing_mm or PIXEL)
    tolerances = _list_tolerances(diagonal, spacing_mm is not None)
    surface = measure_surface(mask_pred, mask_ref, list(tolerances.values()), spacing_mm or PIXEL)
    measured |= dict(zip(tolerances, surface.surface_dice, strict=True))
    return measured | {
        "precision": compute_precision(mask_pred, mask_ref),
        "recall": compute_recall(mask_pred, mask_ref),
        "hd95": surface.hd95,
        "assd": surface.assd,
        "area_error": compute_area_error(mask_pred, mask_ref),
        "box_diagonal": diagonal,
    }


def _list_tolerances(diagonal: float, in_mm: bool) -> Mapping[str, float]:
    return TOLERANCES_MM if in_mm else {name: share * diagonal for name, share in DIAGONAL_SHARES.items()}
