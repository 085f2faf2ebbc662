"""An image as the square that an encoder reads: resized, normed, padded."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from t2m_bench.data.frame import Frame
from t2m_bench.recipe.encoders import InputRange, Interpolation


def preprocess_image(
    image: NDArray[np.uint8], frame: Frame, interpolation: Interpolation = "bicubic", input_range: InputRange = "unit"
) -> Tensor:
    """Bring an image into a frame's input: resized, then min-max per image, then zero padding.

    Args:
        image: (H, W), or (H, W, 3) where the channels differ (slices of a CT).
        frame: says the size, and whether the aspect is kept.
        interpolation: of the resizing, antialiased.
        input_range: "byte" leaves the values from 0 to 255, which is wrong and was published so (Talk2MedSAM).

    Returns:
        (3, S, S) float32 in [0, 1]; a constant image gives zeros.

    Sources: MedSAM's pre_CT_MR.py for the stretched frame, which rounds the resized image to uint8 as happens here;
    MedSAM's LiteMedSAM branch (data preparation of train_one_gpu.py) for the padded one.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"image has dtype {image.dtype}; uint8 is needed")
    height, width = image.shape[:2]
    rows, columns = frame.fit_image(height, width)
    how = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    resized = Image.fromarray(image).resize((columns, rows), how)  # Pillow's filters are antialiased
    pixels = np.asarray(resized, dtype=np.float32)
    if input_range == "unit":
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / max(float(high - low), 1e-8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    right, below = frame.input_size - columns, frame.input_size - rows
    if right or below:
        pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
