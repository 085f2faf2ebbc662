"""Image-free floors: what the box alone gives, with no image and no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from t2m_bench.metrics.overlap import compute_dice

Box = tuple[int, int, int, int]
Mask = NDArray[np.bool_]

FRAME = 64
"""Side of the square into which every box is stretched for mean masks, pixels."""

THRESHOLDS = tuple(np.linspace(0.2, 0.8, 25).tolist())


def predict_box(height: int, width: int, box_xyxy: Box) -> Mask:
    """Return (H, W): the half-open box filled."""
    mask = np.zeros((height, width), dtype=bool)
    x0, y0, x1, y1 = box_xyxy
    mask[y0:y1, x0:x1] = True
    return mask


def predict_ellipse(height: int, width: int, box_xyxy: Box) -> Mask:
    """Return (H, W): the pixels whose centres lie in the ellipse inscribed in the half-open box."""
    x0, y0, x1, y1 = box_xyxy
    rows, columns = np.ogrid[:height, :width]
    u = (columns + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    v = (rows + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    inside: Mask = u**2 + v**2 <= 1.0
    return inside


@dataclass(frozen=True)
class MeanMask:
    """The mean training mask in the frame of the box, (FRAME, FRAME) in [0, 1], and where to cut it."""

    mean: NDArray[np.float64]
    threshold: float

    def predict(self, height: int, width: int, box_xyxy: Box) -> Mask:
        """Return (H, W): the mean mask stretched into the half-open box and cut."""
        x0, y0, x1, y1 = box_xyxy
        mask = np.zeros((height, width), dtype=bool)
        mask[y0:y1, x0:x1] = _resize(self.mean, y1 - y0, x1 - x0) > self.threshold
        return mask


def fit_mean_mask(crops: Sequence[Mask]) -> MeanMask:
    """Average training masks cropped to their boxes; the threshold is the best mean Dice on the same masks."""
    frames = np.stack([_resize(crop.astype(np.float64), FRAME, FRAME) for crop in crops])
    mean = frames.mean(axis=0)
    stretched = [_resize(mean, *crop.shape) for crop in crops]

    def score(threshold: float) -> float:
        dices = [compute_dice(soft > threshold, crop) for soft, crop in zip(stretched, crops, strict=True)]
        return float(np.mean(dices))

    return MeanMask(mean, max(THRESHOLDS, key=score))


def fit_class_mean_masks(crops: Sequence[Mask], classes: Sequence[str], known: Sequence[str]) -> Mapping[str, MeanMask]:
    """Fit one mean mask a known class; a class without training masks gets the one of all."""
    overall = fit_mean_mask(crops)
    by_class = {name: [crop for crop, given in zip(crops, classes, strict=True) if given == name] for name in known}
    return {name: fit_mean_mask(own) if own else overall for name, own in by_class.items()}


def _resize(image: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Stretch bilinearly, pixel areas aligned."""
    rows = np.clip((np.arange(height) + 0.5) * image.shape[0] / height - 0.5, 0, image.shape[0] - 1)
    columns = np.clip((np.arange(width) + 0.5) * image.shape[1] / width - 0.5, 0, image.shape[1] - 1)
    grid = np.meshgrid(rows, columns, indexing="ij")
    resized: NDArray[np.float64] = ndimage.map_coordinates(image, grid, order=1, mode="nearest")
    return resized
