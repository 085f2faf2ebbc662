"""Images and masks of a dataset folder as arrays."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from t2m_bench.data.case import Case
from t2m_bench.errors import DatasetError
from t2m_bench.files import write_atomically


def load_image(root: Path, case: Case) -> NDArray[np.uint8]:
    """Return the case's image, (H, W) uint8, or (H, W, 3) of three neighbouring slices.

    Raises:
        DatasetError: the file is absent, truncated or no image.
    """
    return _load(root / case.image_path, "L" if case.channels == 1 else "RGB")


def load_annotated(root: Path, case: Case) -> NDArray[np.uint8]:
    """Return what the reference mask was drawn on, (H, W) uint8: the image, or its middle slice.

    Raises:
        DatasetError: the file is absent, truncated or no image.
    """
    image = load_image(root, case)
    return image if image.ndim == 2 else image[:, :, 1]


def load_mask(root: Path, case: Case) -> NDArray[np.bool_]:
    """Return the case's reference mask, (H, W) bool.

    Raises:
        DatasetError: the file is absent, truncated or no image.
    """
    return load_grey(root / case.mask_path) > 0


def load_grey(path: Path) -> NDArray[np.uint8]:
    """Read an image file as 8-bit grey.

    Raises:
        DatasetError: the file is absent, truncated or no image.
    """
    return _load(path, "L")


def _load(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode), dtype=np.uint8)
    except FileNotFoundError:
        raise DatasetError(f"{path}: absent. Unpack the data set again, or prepare it again.") from None
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: cannot be read as an image ({error}). Unpack the data set again.") from None


def write_png(path: Path, image: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write (H, W) or (H, W, 3) pixels by atomic rename; a mask becomes one bit a pixel."""
    with write_atomically(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")


def compute_image_sha256(image: NDArray[np.uint8]) -> str:
    """Return the sha256 of an image's shape and pixels, equal for equal pixels in any file format."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{height}x{width}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def compute_tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the half-open (x0, y0, x1, y1) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
