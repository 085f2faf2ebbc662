"""Images and masks of a dataset folder as arrays: what is not plainly 8-bit grey, or two-valued, is refused by name."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from t2m_bench.data.case import Case
from t2m_bench.data.png_chunks import check_chunks
from t2m_bench.errors import DatasetError
from t2m_bench.files import write_atomically

EIGHT_BIT = frozenset({"1", "L", "P", "RGB", "LA", "PA", "RGBA"})
"""Modes of Pillow with 8 bits or fewer a channel whose grey is beyond doubt where nothing is transparent."""

DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
WIDE_CHANNELS = re.compile(r";(16|32|64)")
"""Pattern of stored forms with more than 8 bits a channel; Pillow drops the lower byte of 16-bit colour."""

REPLICATED = 257
"""An 8-bit value v stored with 16 bits is 257 v: 0 stays black, 255 becomes 65535."""

ORIENTATION = 274
"""The tag of EXIF that says how a viewer turns the image."""

TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored along the diagonal",
    6: "turned by 90 degrees clockwise",
    7: "mirrored along the other diagonal",
    8: "turned by 90 degrees counterclockwise",
}
NO_IMAGES = {
    b"": "the file is empty). Unpack the data set again.",
    b"version https://git-lfs": "it is a pointer of Git LFS). Fetch the files themselves with `git lfs pull`.",
    **dict.fromkeys((b"<!doctype html", b"<html"), "it is a web page, perhaps a login). Download the data set again."),
}
"""First bytes of files in place of images -> the rest of the message; an empty file has no more."""

FEWEST_OF_EDGES = 4
"""Values of a mask with smoothed edges; three are rather background and two labels."""

PLATEAU = (0.05, 0.95)
"""Shares of the largest value between which an area of one value is a label, not a smoothed edge."""

SOFT, EDGE_PIXELS = (0.25, 0.75), 3
"""Values between these shares of the largest lie within so many pixels of the cut where a mask has smoothed edges."""

MOST_SPECKLES = 0.05
"""Share of the pixels that differ from most of their neighbours after the cut; of masks of lesions it is below 0.01."""


@dataclass(frozen=True)
class MaskFile:
    """A reference mask as it was stored.

    Attributes:
        mask: (H, W).
        mode: as Pillow names it. num_values: distinct ones; a mask of more than two was cut at half of the largest.
    """

    mask: NDArray[np.bool_]
    mode: str
    num_values: int


@dataclass(frozen=True)
class StoredFile:
    """Grey values of an image as they are stored, (H, W), with the mode and bits a channel of the file."""

    values: NDArray[Any]
    mode: str
    bits: int


@dataclass(frozen=True)
class GreyFile:
    """An image as 8-bit grey, (H, W), with the mode and bits a channel that it was stored with."""

    pixels: NDArray[np.uint8]
    mode: str
    bits: int


def load_image(root: Path, case: Case) -> NDArray[np.uint8]:
    """Return the case's image, (H, W) uint8, or (H, W, 3) of three neighbouring slices.

    Raises:
        DatasetError: the file is absent, truncated, no image, or not plainly 8-bit.
    """
    path = root / case.image_path
    if case.channels == 1:
        return load_grey(path)
    with _open(path) as image:
        _check_opaque(path, image)
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def load_annotated(root: Path, case: Case) -> NDArray[np.uint8]:
    """Return what the reference mask was drawn on, (H, W) uint8: the image, or its middle slice.

    Raises:
        DatasetError: as `load_image`.
    """
    image = load_image(root, case)
    return image if image.ndim == 2 else image[:, :, 1]


def load_mask(root: Path, case: Case) -> NDArray[np.bool_]:
    """Return the case's reference mask, (H, W) bool.

    Raises:
        DatasetError: as `load_mask_file`.
    """
    return load_mask_file(root / case.mask_path).mask


def load_grey(path: Path) -> NDArray[np.uint8]:
    """Read an image file as 8-bit grey.

    Raises:
        DatasetError: as `load_grey_file`.
    """
    return load_grey_file(path).pixels


def load_grey_file(path: Path) -> GreyFile:
    """Read an image file as 8-bit grey; more bits are taken only where they hold 8-bit values.

    Raises:
        DatasetError: the file is absent, truncated or no image; has pixels of more than 8 bits, transparent ones or
            colours of print; has several frames, or is to be turned by its orientation tag.
    """
    stored = load_stored_file(path)
    pixels = _narrow(path, stored.mode, stored.values) if stored.mode in DEEP else stored.values
    return GreyFile(pixels, stored.mode, stored.bits)


def load_stored_file(path: Path) -> StoredFile:
    """Read an image file as grey values of whatever depth it has; colours of 8 bits become grey.

    Raises:
        DatasetError: as `load_grey_file`, but for pixels of more than 8 bits.
    """
    with _open(path) as image:
        if image.mode in DEEP:
            return StoredFile(np.asarray(image).copy(), image.mode, 16 if "16" in image.mode else 32)
        _check_opaque(path, image)
        return StoredFile(np.asarray(image.convert("L"), dtype=np.uint8), image.mode, 1 if image.mode == "1" else 8)


def load_label_file(path: Path) -> NDArray[Any]:
    """Read a mask file of several labels as their numbers, (H, W); of a palette, the indices.

    Raises:
        DatasetError: as `load_grey_file`; or the file has colours, or is compressed with loss, which alters labels.
    """
    with _open(path) as image:
        if image.format == "JPEG":
            raise DatasetError(f"{path}: is a JPEG, which alters the values of labels. Write the mask as PNG or TIFF.")
        if image.mode in {"1", "L", "P"} | DEEP:
            return np.asarray(image).copy()
        _check_opaque(path, image)
        values, is_grey = _merge_colours(np.asarray(image.convert("RGB")))
        if not is_grey:
            raise DatasetError(f"{path}: has colours, and labels are numbers. Write it with one number a label.")
        return values


def load_mask_file(path: Path) -> MaskFile:
    """Read a mask: 0 is background, the other value the lesion.

    Smoothed edges, such as JPEG or a resize leaves, are cut at one half of the largest value.

    Raises:
        DatasetError: as `load_grey_file`; or the values do not say which pixels are the lesion.
    """
    with _open(path) as image:
        if image.mode not in DEEP:
            _check_opaque(path, image)
        if image.mode in {"1", "L"} | DEEP:
            values, is_grey = np.asarray(image), True
        else:
            values, is_grey = _merge_colours(np.asarray(image.convert("RGB")))
        mask, num_values = cut_mask(path, values, is_grey)
        return MaskFile(mask, image.mode, num_values)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Yield the image with its pixels read; whatever fails names the file."""
    try:
        with Image.open(path) as image:
            _check_frames(path, image)
            stored = str(image.tile)
            orientation = image.getexif().get(ORIENTATION, 1)  # of TIFF, Pillow turns the pixels and drops the tag
            image.load()
            if image.format == "PNG":
                check_chunks(path)
            _check_form(path, image, stored, orientation)
            yield image
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"{path}: absent. Unpack the data set again, or prepare it again.") from None
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path}: is too large ({error}). Cut it to the part around the lesion.") from None
    except Exception as error:  # damaged bytes fail in as many ways as there are chunks and codecs
        raise DatasetError(f"{path}: cannot be read as an image ({_find_reason(path, error)}") from None


def _find_reason(path: Path, error: Exception) -> str:
    """Return why a file is no image, and the way out."""
    with suppress(OSError), path.open("rb") as stream:
        head = stream.read(64).lstrip().lower()
        for beginning, reason in NO_IMAGES.items():
            if head == beginning or (beginning and head.startswith(beginning)):
                return reason
    return f"{str(error) or type(error).__name__}). Unpack the data set again."


def _check_frames(path: Path, image: Image.Image) -> None:
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1:
        raise DatasetError(f"{path}: holds {num_frames} images, but only single images are read. Keep one.")


def _check_form(path: Path, image: Image.Image, stored: str, orientation: Any) -> None:
    """Refuse what would be read as something else than it shows.

    Args:
        stored: how Pillow found the pixels stored. orientation: the value of that tag.
    """
    if image.mode not in EIGHT_BIT | DEEP:
        raise DatasetError(f"{path}: has the pixel mode {image.mode}. Write it as 8-bit grey.")
    if image.mode not in DEEP and WIDE_CHANNELS.search(stored):
        raise DatasetError(f"{path}: has 16 bits a colour. Write it as 8-bit grey.")
    if orientation not in (0, 1):  # 0 is written where nothing is known
        turn = TURNS.get(orientation, "which means nothing") if isinstance(orientation, int) else "which is no number"
        raise DatasetError(
            f"{path}: has the orientation tag {orientation} ({turn}), and nothing says whether image and mask agree "
            "with or without it. Store the pixels as they are to be seen, without the tag (exiftool -Orientation=)."
        )


def _check_opaque(path: Path, image: Image.Image) -> None:
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:  # one value or colour of any mode
        alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
        if alpha.min() < 255:
            share = float((alpha < 255).mean())
            raise DatasetError(
                f"{path}: {share:.0%} of its pixels are transparent (mode {image.mode}), and nothing says what lies "
                "behind them. Write it as 8-bit grey without transparency."
            )


def _narrow(path: Path, mode: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels of more than 8 bits that hold 8-bit values, as they are or times 257."""
    low, high = values.min(), values.max()
    is_whole = bool(np.isfinite(values).all() and low >= 0 and high <= REPLICATED * 255 and (values % 1 == 0).all())
    if is_whole and high <= 255:
        return values.astype(np.uint8)
    if is_whole and not (values % REPLICATED).any():
        return (values // REPLICATED).astype(np.uint8)
    raise DatasetError(
        f"{path}: has pixels of more than 8 bits (mode {mode}, values {low:g} to {high:g}), and nothing says which of "
        "them are black and white. Write all images with 8 bits by one rule."
    )


def _merge_colours(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], bool]:
    """Return grey values, or a number for each colour, 0 for black, and whether all are grey."""
    red, green, blue = (pixels[:, :, channel].astype(np.int64) for channel in range(3))
    if (red == green).all() and (green == blue).all():
        return red, True
    return red << 16 | green << 8 | blue, False


def cut_mask(path: Path, values: NDArray[Any], is_grey: bool = True) -> tuple[NDArray[np.bool_], int]:
    """Return the mask of some values, and how many there are.

    Raises:
        DatasetError: the values do not say which pixels are the lesion.
    """
    if values.dtype == bool:
        return values.copy(), int(values.any()) + int(not values.all())  # Pillow's own memory is read-only
    found = np.unique(values)
    low, high = found[0], found[-1]
    what = f"{path}: holds {len(found)} " + (f"values from {low:g} to {high:g}" if is_grey else "colours")
    way_out = "Write it with 0 for background and one other value for the lesion."
    if not np.isfinite(found).all() or low < 0 or (len(found) > 1 and low > 0):
        raise DatasetError(f"{what}, and 0 is to be background. {way_out}")
    if len(found) <= 2:
        return values > 0, len(found)
    cut = values >= high / 2
    if not is_grey or len(found) < FEWEST_OF_EDGES or _has_labels(values, cut, float(high)):
        raise DatasetError(f"{what}, more than the two of a mask, in areas that may be several labels. {way_out}")
    return cut, len(found)


def _has_labels(values: NDArray[Any], cut: NDArray[np.bool_], high: float) -> bool:
    """Return whether values between background and lesion fill areas or vary as in a picture; edges are narrow."""
    is_between = (values > PLATEAU[0] * high) & (values < PLATEAU[1] * high)
    is_even = ndimage.maximum_filter(values, 3) == ndimage.minimum_filter(values, 3)
    is_soft = (values > SOFT[0] * high) & (values < SOFT[1] * high)
    near = ndimage.binary_dilation(cut, iterations=EDGE_PIXELS) & ~ndimage.binary_erosion(cut, iterations=EDGE_PIXELS)
    is_speckled = (ndimage.median_filter(cut, 3) != cut).mean() > MOST_SPECKLES
    return bool((is_between & is_even).any() or (is_soft & ~near).any() or is_speckled)


def write_png(path: Path, image: NDArray[np.uint8] | NDArray[np.bool_], private: bool = False) -> None:
    """Write (H, W) or (H, W, 3) pixels by atomic rename, for the owner alone if private; a mask has one bit a pixel."""
    with write_atomically(path, private) as partial:
        Image.fromarray(image).save(partial, format="PNG")


def compute_image_sha256(image: NDArray[np.uint8]) -> str:
    """Return the sha256 of an image's shape and pixels, equal for equal pixels in any file format."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{height}x{width}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def compute_tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the half-open (x0, y0, x1, y1) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
