"""A measure: how far the centre of the prediction lies from that of the reference mask."""

import math

import numpy as np

from t2m_bench.metrics.measures import MaskPair
from t2m_bench.recipe.measures import DISTANCE, MeasureEntry


def get_centroid_shift(pair: MaskPair) -> float:
    """Return the distance between the centroids, mm where the spacing is known, else pixels; NaN for an empty mask."""
    if not (pair.mask_pred.any() and pair.mask_ref.any()):
        return math.nan
    spacing = np.array(pair.spacing_mm or (1.0, 1.0))  # (row, column)
    one, other = (np.argwhere(mask).mean(axis=0) * spacing for mask in (pair.mask_pred, pair.mask_ref))
    return float(np.linalg.norm(one - other))


CENTROID_SHIFT = MeasureEntry(
    name="centroid_shift",
    label="Centroid shift",
    compute="t2m_shapes.measure:get_centroid_shift",
    unit=DISTANCE,
    better="lower",
    high=math.inf,
)
