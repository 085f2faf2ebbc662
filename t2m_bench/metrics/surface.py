"""Distances between the edges of one predicted and one reference mask, in the image's plane.

An edge is MONAI's (monai/metrics/utils.py, get_mask_edges): the mask's pixels of which a 4-neighbour is outside; pixels
at the image's rim are edge. The contour elements of google-deepmind/surface-distance are another definition and give
other values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Mask = NDArray[np.bool_]
Distances = NDArray[np.float32]

PIXEL = (1.0, 1.0)

PERCENTILE = 95.0


@dataclass(frozen=True)
class SurfaceMeasures:
    """Surface distances of one pair of masks, in the unit of the spacing.

    Attributes:
        hd95: the larger of the two directed 95th percentiles. assd: mean over both edges' distances.
        surface_dice: for each tolerance the share of both edges within it, in [0, 1].
    """

    hd95: float
    assd: float
    surface_dice: tuple[float, ...]


def measure_surface(
    mask_pred: Mask, mask_ref: Mask, tolerances: Sequence[float], spacing: tuple[float, float] = PIXEL
) -> SurfaceMeasures:
    """Measure two (H, W) masks, looking only where either is set.

    Both empty: distances 0, surface Dice 1. One empty: distances are the image's diagonal, surface Dice 0.

    Args:
        tolerances: in the unit of `spacing`.
        spacing: (row, column) size of a pixel.
    """
    if not (mask_pred.any() and mask_ref.any()):
        same = mask_pred.any() == mask_ref.any()
        distance = 0.0 if same else compute_diagonal(mask_ref.shape[0], mask_ref.shape[1], spacing)
        return SurfaceMeasures(distance, distance, tuple(float(same) for _ in tolerances))
    either = mask_pred | mask_ref
    rows, columns = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    crop = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    edge_pred, edge_ref = find_edge(mask_pred[crop]), find_edge(mask_ref[crop])
    from_pred = _measure_distances(edge_pred, edge_ref, spacing)
    from_ref = _measure_distances(edge_ref, edge_pred, spacing)
    both = np.concatenate([from_pred, from_ref])
    return SurfaceMeasures(
        hd95=max(float(np.percentile(directed, PERCENTILE)) for directed in (from_pred, from_ref)),
        assd=float(both.mean(dtype=np.float64)),
        surface_dice=tuple(float((both <= np.float32(tolerance)).mean()) for tolerance in tolerances),
    )


def compute_diagonal(height: float, width: float, spacing: tuple[float, float] = PIXEL) -> float:
    """Return the diagonal of a rectangle of `height` x `width` pixels in the unit of `spacing`."""
    return float(np.hypot(height * spacing[0], width * spacing[1]))


def find_edge(mask: Mask) -> Mask:
    """Return the pixels of an (H, W) mask that have a 4-neighbour outside it or outside the image."""
    inside = mask.copy()
    inside[0, :] = inside[-1, :] = inside[:, 0] = inside[:, -1] = False
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    return mask & ~inside


def _measure_distances(edge: Mask, other: Mask, spacing: tuple[float, float]) -> Distances:
    """Return each edge pixel's distance to the nearest pixel of the other edge.

    Where the edges coincide it is 0 without a search: for good predictions that is most of the edge.
    """
    apart = np.argwhere(edge & ~other) * spacing
    distances = np.zeros(np.count_nonzero(edge), dtype=np.float32)
    if len(apart):
        distances[: len(apart)] = KDTree(np.argwhere(other) * spacing, leafsize=32).query(apart)[0]
    return distances
