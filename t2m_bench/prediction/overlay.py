"""Draws a prediction on its image: outlines of masks and the box, as a colour picture."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

MASK_COLOUR = (230, 80, 0)
OTHER_COLOUR = (0, 160, 220)
REFERENCE_COLOUR = (0, 170, 90)
BOX_COLOUR = (250, 220, 0)
"""Predicted mask, the answer without text, the reference mask, the box."""


def draw_overlay(
    image: NDArray[np.uint8],
    box_xyxy: Sequence[float],
    mask: NDArray[np.bool_],
    without_text: NDArray[np.bool_] | None = None,
    reference: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8: the image (H, W) with the inner edge of each mask (H, W) and the box."""
    grey = image if image.ndim == 2 else image[:, :, 1]
    drawn = np.repeat(grey[:, :, None], 3, axis=2)
    for shown, colour in ((reference, REFERENCE_COLOUR), (without_text, OTHER_COLOUR), (mask, MASK_COLOUR)):
        if shown is not None:
            drawn[shown & ~ndimage.binary_erosion(shown)] = colour
    picture = Image.fromarray(drawn)
    x0, y0, x1, y1 = box_xyxy
    ImageDraw.Draw(picture).rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=BOX_COLOUR)
    return np.asarray(picture)
