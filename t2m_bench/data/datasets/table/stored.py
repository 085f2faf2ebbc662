"""What a file holds before it becomes 8 bits, and the one rule by which it does."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.nsclc.reader import apply_window

Intensity = Literal["minmax"] | tuple[float, float]


@dataclass(frozen=True)
class Stored:
    """One image or mask as stored, (H, W).

    Attributes:
        mode: as Pillow names it, or the kind of file. bits: of a pixel.
        spacing_mm: (row, column), None where the file gives none.
        affine: (4, 4) of NIfTI. depth: slices of its file.
        is_hounsfield: whether the values are Hounsfield units. is_inverted: whether the lowest is shown white.
    """

    values: NDArray[Any]
    mode: str
    bits: int
    spacing_mm: tuple[float, float] | None = None
    affine: NDArray[np.float64] | None = None
    depth: int = 1
    is_hounsfield: bool = False
    is_inverted: bool = False


class ValuesError(ValueError):
    """What is wrong with an image's values, as the end of a sentence."""


def to_eight_bits(stored: Stored, intensity: Intensity, window_hu: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the pixels as encoders see them: 8 bits stay, all else goes by its extremes or a window.

    Args:
        intensity: of values with more than 8 bits. window_hu: (width, level) of Hounsfield units.

    Raises:
        ValuesError: a value is not finite.
    """
    values = stored.values
    if not np.isfinite(values).all():
        raise ValuesError("has values that are not finite numbers. Replace them.")
    if stored.is_hounsfield:
        return apply_window(values.astype(np.float32), window_hu)
    if values.dtype == np.uint8:
        pixels = values
    elif intensity == "minmax":
        low, high = float(values.min()), float(values.max())
        share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
        pixels = np.round(255 * share).astype(np.uint8)
    else:
        pixels = apply_window(values.astype(np.float32), intensity)
    return 255 - pixels if stored.is_inverted else pixels
