"""Overlap of one predicted mask with one reference mask, and how their areas differ."""

import numpy as np
from numpy.typing import NDArray

UNDEFINED = float("nan")


def compute_dice(mask_pred: NDArray[np.bool_], mask_ref: NDArray[np.bool_]) -> float:
    """Return Dice in [0, 1] of two (H, W) masks; 1 when both are empty, 0 when one is."""
    total = int(np.count_nonzero(mask_pred)) + int(np.count_nonzero(mask_ref))
    return 1.0 if total == 0 else 2.0 * int(np.count_nonzero(mask_pred & mask_ref)) / total


def compute_iou(mask_pred: NDArray[np.bool_], mask_ref: NDArray[np.bool_]) -> float:
    """Return intersection over union in [0, 1] of two (H, W) masks; 1 when both are empty, 0 when one is."""
    union = int(np.count_nonzero(mask_pred | mask_ref))
    return 1.0 if union == 0 else int(np.count_nonzero(mask_pred & mask_ref)) / union


def compute_precision(mask_pred: NDArray[np.bool_], mask_ref: NDArray[np.bool_]) -> float:
    """Return the share of the predicted (H, W) mask that is right, in [0, 1]; NaN for an empty prediction."""
    area = int(np.count_nonzero(mask_pred))
    return UNDEFINED if area == 0 else int(np.count_nonzero(mask_pred & mask_ref)) / area


def compute_recall(mask_pred: NDArray[np.bool_], mask_ref: NDArray[np.bool_]) -> float:
    """Return the share of the (H, W) reference that was found, in [0, 1]; NaN for an empty reference."""
    return compute_precision(mask_ref, mask_pred)


def compute_area_error(mask_pred: NDArray[np.bool_], mask_ref: NDArray[np.bool_]) -> float:
    """Return (predicted - reference) / reference area, at least -1; NaN for an empty reference."""
    area = int(np.count_nonzero(mask_ref))
    return UNDEFINED if area == 0 else (int(np.count_nonzero(mask_pred)) - area) / area
