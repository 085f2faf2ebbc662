"""Everything that is measured of one prediction: the measured columns of the results table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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
from t2m_bench.metrics.surface import PIXEL, SurfaceMeasures, compute_diagonal, measure_surface
from t2m_bench.recipe.conditions import NO_TEXT, is_condition_in_full
from t2m_bench.recipe.measures import MEASURE_TABLE
from t2m_bench.recipe.registry import load_object

EMPTINESS = ("pred_empty", "ref_empty")
"""Columns that say whether a mask is empty, 0 or 1."""

FULL_BOX = "tight"

DIAGONAL_SHARES = {"surface_dice": 0.02, "surface_dice_1": 0.01, "surface_dice_5": 0.05}
"""Tolerances as shares of the box's diagonal, where no spacing is known: a pixel means another thing in every image."""

TOLERANCES_MM = {"surface_dice": 1.0, "surface_dice_2": 2.0}


def list_measured() -> tuple[str, ...]:
    """Return the measured columns of the results table, in their order."""
    return (*(entry.name for entry in MEASURE_TABLE), *EMPTINESS)


def list_always_measured() -> tuple[str, ...]:
    """Return the columns that every row of results has, whatever its condition and box."""
    return (*(entry.name for entry in MEASURE_TABLE if entry.is_always), *EMPTINESS)


def is_measured_in_full(condition: str, box: str) -> bool:
    """Return whether rows of a condition and a box carry more than overlap and emptiness."""
    return box == FULL_BOX and (condition == NO_TEXT or is_condition_in_full(condition))


def name_distance_unit(spacing_mm: tuple[float, float] | None) -> str:
    """Return the unit of the distances of a case: px or mm."""
    return "px" if spacing_mm is None else "mm"


@dataclass(frozen=True)
class MaskPair:
    """A predicted mask beside its reference, and what several measures share.

    Attributes:
        mask_pred, mask_ref: (H, W).
        box_xyxy: the reference's tight box, half open, pixels.
        spacing_mm: (row, column) size of a pixel; None where unknown, and then distances are pixels.
    """

    mask_pred: NDArray[np.bool_]
    mask_ref: NDArray[np.bool_]
    box_xyxy: Sequence[int]
    spacing_mm: tuple[float, float] | None

    @cached_property
    def diagonal(self) -> float:
        """Length of the box's diagonal, mm or pixels."""
        x0, y0, x1, y1 = self.box_xyxy
        return compute_diagonal(y1 - y0, x1 - x0, self.spacing_mm or PIXEL)

    @cached_property
    def surface(self) -> SurfaceMeasures:
        """Distances between the edges, with the surface Dice of each of the tolerances."""
        tolerances = list(self._tolerances.values())
        return measure_surface(self.mask_pred, self.mask_ref, tolerances, self.spacing_mm or PIXEL)

    @property
    def _tolerances(self) -> Mapping[str, float]:
        if self.spacing_mm is not None:
            return TOLERANCES_MM
        return {name: share * self.diagonal for name, share in DIAGONAL_SHARES.items()}

    def get_surface_dice(self, name: str) -> float:
        """Return the surface Dice of a tolerance, by its measure's name; NaN where it has none in this unit."""
        names = list(self._tolerances)
        return self.surface.surface_dice[names.index(name)] if name in names else UNDEFINED


def measure_mask(
    mask_pred: NDArray[np.bool_],
    mask_ref: NDArray[np.bool_],
    box_xyxy: Sequence[int],
    spacing_mm: tuple[float, float] | None,
    in_full: bool = True,
) -> dict[str, float]:
    """Return every measure of two (H, W) masks.

    Args:
        box_xyxy: the reference's tight box, half open, pixels.
        spacing_mm: (row, column) size of a pixel; None where unknown, and then distances are pixels.
        in_full: without it only what is always measured is computed, the rest is NaN.
    """
    pair = MaskPair(mask_pred, mask_ref, box_xyxy, spacing_mm)
    measured = {
        entry.name: float(load_object(entry.compute)(pair)) if in_full or entry.is_always else UNDEFINED
        for entry in MEASURE_TABLE
    }
    return measured | {"pred_empty": float(not mask_pred.any()), "ref_empty": float(not mask_ref.any())}


def get_dice(pair: MaskPair) -> float:
    """Return Dice, in [0, 1]; 1 where both masks are empty."""
    return compute_dice(pair.mask_pred, pair.mask_ref)


def get_iou(pair: MaskPair) -> float:
    """Return intersection over union, in [0, 1]; 1 where both masks are empty."""
    return compute_iou(pair.mask_pred, pair.mask_ref)


def get_precision(pair: MaskPair) -> float:
    """Return the share of the prediction inside the reference; NaN where nothing is predicted."""
    return compute_precision(pair.mask_pred, pair.mask_ref)


def get_recall(pair: MaskPair) -> float:
    """Return the share of the reference that is predicted; NaN where it is empty."""
    return compute_recall(pair.mask_pred, pair.mask_ref)


def get_hd95(pair: MaskPair) -> float:
    """Return the larger of the two directed 95th percentiles, mm or pixels."""
    return pair.surface.hd95


def get_assd(pair: MaskPair) -> float:
    """Return the average symmetric surface distance, mm or pixels."""
    return pair.surface.assd


def get_surface_dice(pair: MaskPair) -> float:
    """Return the share of both edges within 1 mm, or 2 % of the box's diagonal."""
    return pair.get_surface_dice("surface_dice")


def get_surface_dice_1(pair: MaskPair) -> float:
    """Return the share of both edges within 1 % of the box's diagonal; NaN in mm."""
    return pair.get_surface_dice("surface_dice_1")


def get_surface_dice_2(pair: MaskPair) -> float:
    """Return the share of both edges within 2 mm; NaN in pixels."""
    return pair.get_surface_dice("surface_dice_2")


def get_surface_dice_5(pair: MaskPair) -> float:
    """Return the share of both edges within 5 % of the box's diagonal; NaN in mm."""
    return pair.get_surface_dice("surface_dice_5")


def get_area_error(pair: MaskPair) -> float:
    """Return (predicted - reference) / reference area; NaN where the reference is empty."""
    return compute_area_error(pair.mask_pred, pair.mask_ref)


def get_box_diagonal(pair: MaskPair) -> float:
    """Return the length of the box's diagonal, mm or pixels."""
    return pair.diagonal
