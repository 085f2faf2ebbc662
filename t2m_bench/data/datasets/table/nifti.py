"""Reads slices of NIfTI files: which axis is which, what lies where, how far pixels are apart."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.table.places import Place
from t2m_bench.data.datasets.table.stored import Stored
from t2m_bench.errors import DatasetError, find_first_line

UNIT_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}


def import_nibabel() -> Any:
    """Return nibabel, which only NIfTI files need.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise DatasetError(
            "reading NIfTI needs nibabel, which is not installed. In the checkout: pip install '.[nifti]'"
        ) from None
    return nibabel


def load_volume(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], str]:
    """Return a NIfTI file's values (columns, rows, slices), scaled as its header says, its affine and unit.

    Raises:
        DatasetError: the file cannot be read, has no three axes or complex or coloured values.
    """
    nibabel = import_nibabel()
    try:
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        affine, unit = np.asarray(image.affine, dtype=np.float64), str(image.header.get_xyzt_units()[0])
    except Exception as error:  # damaged files fail in as many ways as there are headers and codecs
        raise DatasetError(f"{path}: cannot be read as NIfTI ({find_first_line(error)}).") from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.dtype.kind not in "biuf":
        raise DatasetError(
            f"{path}: has the shape {values.shape} and values of {values.dtype}; three axes of real numbers are "
            "needed. Convert the file."
        )
    return values, affine, unit


def take_slice(place: Place, volume: tuple[NDArray[Any], NDArray[np.float64], str]) -> Stored:
    """Return one slice: rows run along the second stored axis, columns along the first.

    Raises:
        DatasetError: no slice is named of a file with several, or one that it does not have.
    """
    values, affine, unit = volume
    depth = values.shape[2]
    if place.slice_index is None and depth > 1:
        raise DatasetError(
            f"{place.path}: has {depth} slices, but a case is one slice. Name it: {place.path.name}#z=0 to {depth - 1}."
        )
    index = place.slice_index or 0
    if index >= depth:
        raise DatasetError(
            f"{place.path}: has {depth} slices, counted from 0, so z = {index} does not exist. Correct the number."
        )
    scale = UNIT_MM.get(unit, 1.0)  # a file that names no unit is taken to be in mm, as most are
    column_mm, row_mm = (float(np.linalg.norm(affine[:3, axis])) * scale for axis in (0, 1))
    pixels = np.ascontiguousarray(values[:, :, index].T)
    bits = 8 if pixels.dtype == np.uint8 else 8 * pixels.dtype.itemsize
    spacing_mm = (row_mm, column_mm) if row_mm > 0 and column_mm > 0 else None
    return Stored(pixels, f"NIfTI {pixels.dtype}", bits, spacing_mm, affine=affine, depth=depth)
