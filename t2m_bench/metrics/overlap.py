"""Overlap of one predicted mask with one reference mask."""

import numpy as np
from numpy.typing import NDArray


def compute_dice(mask_pred: NDArray[np.bool_], mask_ref: NDArray[np.bool_]) -> float:
    """Return Dice in [0, 1] of two (H, W) masks; 1 when both are empty, 0 when one is."""
    total = int(np.count_nonzero(mask_pred)) + int(np.count_nonzero(mask_ref))
    return 1.0 if total == 0 else 2.0 * int(np.count_nonzero(mask_pred & mask_ref)) / total


def compute_iou(mask_pred: NDArray[np.bool_], mask_ref: NDArray[np.bool_]) -> float:
    """Return intersection over union in [0, 1] of two (H, W) masks; 1 when both are empty, 0 when one is."""
    union = int(np.count_nonzero(mask_pred | mask_ref))
    return 1.0 if union == 0 else int(np.count_nonzero(mask_pred & mask_ref)) / union
