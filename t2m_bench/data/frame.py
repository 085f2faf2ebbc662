"""The frame of an encoder: how an image becomes its square input, how a box goes in, and how a mask comes back.

Sizes, boxes and cuts only; resampling pixels is the business of whoever holds them. Legend: H, W of the original image,
S side of the encoder's square input, g side of its token grid, L = 4g side of the low-resolution logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2m_bench.recipe.encoders import Fit, ImageEncoder, Resized

LOW_RES_FACTOR = 4
"""Low-resolution logits have four pixels a side for each token (segment_anything/modeling/mask_decoder.py)."""


@dataclass(frozen=True)
class Frame:
    """The geometry of one encoder.

    Attributes:
        input_size: S, pixels.
        grid: g, tokens; independent of S (256 px with 64x64 tokens is LiteMedSAM, 1024 px with 64x64 is SAM).
        fit: how an image that is no square fills the input.
        resized: what is resized to the original image before the cut: "probability" (> 0.5) or "logits" (> 0).
    """

    input_size: int
    grid: int
    fit: Fit = "stretch"
    resized: Resized = "probability"

    def __post_init__(self) -> None:
        if self.input_size < 1 or self.grid < 1:
            raise ValueError(f"a frame of {self.input_size} px and {self.grid} tokens has no pixels")
        if self.fit == "pad" and self.input_size % self.low_res_size:
            raise ValueError(
                f"a padded frame of {self.input_size} px needs low-resolution logits of a whole part of that, not of "
                f"{self.low_res_size} px"
            )

    @classmethod
    def of(cls, entry: ImageEncoder) -> "Frame":
        """Return the frame of an entry of the table of image encoders."""
        return cls(entry.input_size, entry.grid, entry.fit, entry.resized)

    @property
    def low_res_size(self) -> int:
        """L, the side of the low-resolution logits in pixels."""
        return LOW_RES_FACTOR * self.grid

    def fit_image(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns that an image of H x W covers of the input, from its top left corner.

        Both are S where the image is stretched. With padding the longest side is S and the other is rounded to whole
        pixels (half up, as SAM's and LiteMedSAM's own preprocessing round), at least one.
        """
        if self.fit == "stretch":
            return self.input_size, self.input_size
        scale = self.input_size / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def scale_box(self, box_xyxy: Sequence[float], height: int, width: int) -> NDArray[np.float32]:
        """Return a box of an H x W image in pixels of the input: (4,), half open as the given one.

        With padding both axes have the factor of the longest side, unrounded, as LiteMedSAM's boxes have.
        """
        scale = np.array(self._find_scales(height, width) * 2)
        scaled: NDArray[np.float32] = (np.array(box_xyxy) * scale).astype(np.float32)
        return scaled

    def restore_box(self, box_xyxy: Sequence[float], height: int, width: int) -> NDArray[np.float64]:
        """Return a box of the input in pixels of the H x W image it came from: the inverse of `scale_box`."""
        scale = np.array(self._find_scales(height, width) * 2)
        restored: NDArray[np.float64] = np.array(box_xyxy, dtype=np.float64) / scale
        return restored

    def _find_scales(self, height: int, width: int) -> list[float]:
        """Return input pixels an original pixel, along x and along y."""
        if self.fit == "stretch":
            return [self.input_size / width, self.input_size / height]
        return [self.input_size / max(height, width)] * 2
