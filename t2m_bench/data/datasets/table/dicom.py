"""Reads single-frame DICOM files: CT in Hounsfield units, all else as stored."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.nsclc.dicom_series import (
    CT,
    MAGIC,
    PREAMBLE,
    find_missing_codec,
    import_pydicom,
    read_number,
    read_numbers,
)
from t2m_bench.data.datasets.table.stored import Stored
from t2m_bench.data.exclusions import find_remedy
from t2m_bench.errors import DatasetError, find_first_line

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R 601-2), which Pillow uses too."""


def is_dicom(path: Path) -> bool:
    """Return whether a file says that it is DICOM, whatever it is called."""
    try:
        with path.open("rb") as stream:
            return stream.read(PREAMBLE + len(MAGIC)).endswith(MAGIC)
    except OSError:
        return False


def load_dicom(path: Path) -> Stored:
    """Read a DICOM file of one frame.

    Raises:
        DatasetError: it cannot be read or decoded, has several frames, burned-in annotation, or, as CT, no rescale.
    """
    pydicom = import_pydicom()
    try:
        found = pydicom.dcmread(path)
        frames = int(found.get("NumberOfFrames") or 1)
    except Exception as error:  # whatever a damaged file does to the parser
        raise DatasetError(f"{path}: cannot be read as DICOM ({find_first_line(error)}).") from None
    if frames != 1:
        raise DatasetError(
            f"{path}: has {frames} frames, but only single-frame files are read. Write the frame as a file of its own."
        )
    if str(found.get("BurnedInAnnotation", "")).upper() == "YES":
        raise DatasetError(f"{path}: its header says that annotation is burned into the pixels. Remove it, or the row.")
    values = _decode(path, found)
    is_ct = str(found.get("Modality", "")).upper() == CT
    bits = int(found.get("BitsStored", values.dtype.itemsize * 8))
    if is_ct:
        values, bits = _to_hounsfield(path, found, values), 32
    elif bits <= 8 and values.min() >= 0:
        values = values.astype(np.uint8)
    return Stored(
        values,
        f"DICOM {found.get('Modality', '')}".strip(),
        bits,
        _read_spacing(found),
        is_hounsfield=is_ct,
        is_inverted=not is_ct and found.get("PhotometricInterpretation") == "MONOCHROME1",
    )


def _decode(path: Path, found: Any) -> NDArray[Any]:
    """Return the pixels, (H, W); of colours their grey."""
    try:
        values: NDArray[Any] = np.asarray(found.pixel_array)
        if values.ndim == 3 and values.shape[2] == 3:
            from pydicom.pixels.processing import convert_color_space

            space = str(found.PhotometricInterpretation)
            colours = convert_color_space(values, space, "RGB") if space.startswith("YBR_FULL") else values
            values = np.round(colours @ np.array(LUMA)).astype(values.dtype)
        if values.ndim != 2 or not values.size:
            raise ValueError(f"they have the shape {values.shape}")
    except Exception as error:  # damaged pixels fail in as many ways as there are codecs
        missing = find_missing_codec(str(found.file_meta.TransferSyntaxUID)) if "file_meta" in vars(found) else None
        way_out = f" Run `{find_remedy([missing])}`." if missing else ""
        raise DatasetError(f"{path}: its pixels cannot be decoded ({find_first_line(error)}).{way_out}") from None
    return values


def _to_hounsfield(path: Path, found: Any, values: NDArray[Any]) -> NDArray[np.float32]:
    slope, intercept = (read_number(found.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    if not slope or intercept is None:
        raise DatasetError(
            f"{path}: is CT without a usable rescale slope and intercept, so it has no Hounsfield units. Remove the "
            "row."
        ) from None
    return (values.astype(np.float32) * slope + intercept).astype(np.float32)


def _read_spacing(found: Any) -> tuple[float, float] | None:
    spacing = read_numbers(found.get("PixelSpacing"), 2)
    return (spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None
