"""Reads the reference mask that a table names beside an image."""

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.table.dicom import is_dicom
from t2m_bench.data.datasets.table.files import Volumes, load_file
from t2m_bench.data.datasets.table.places import PlaceError, parse_place
from t2m_bench.data.images import compute_tight_box, cut_mask, load_mask_file
from t2m_bench.errors import DatasetError
from t2m_bench.prediction.lesions import Lesion


def load_reference(lesion: Lesion, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return the reference mask (H, W) of a lesion; None where its table names none.

    Args:
        size: H and W of its image.

    Raises:
        DatasetError: it cannot be read, is no mask of two values, or has another size than its image.
    """
    if not lesion.mask:
        return None
    try:
        place = parse_place(lesion.root, lesion.mask)
    except PlaceError as error:
        raise DatasetError(f"{lesion.mask}: {error}") from None
    if place.is_volume or is_dicom(place.path):
        mask, _ = cut_mask(place.path, load_file(place, Volumes()).values)
    else:
        mask = load_mask_file(place.path).mask
    if mask.shape != size:
        found, wanted = (f"{shape[1]} x {shape[0]} px" for shape in (mask.shape, size))
        raise DatasetError(f"{place.path}: {found}, but its image is {wanted}. Give both the same size.")
    return mask


def find_box(lesion: Lesion, reference: NDArray[np.bool_] | None) -> tuple[float, ...]:
    """Return the lesion's box, or the tight box of its reference mask.

    Raises:
        DatasetError: there is no box, and the mask is empty.
    """
    if lesion.box_xyxy is not None:
        return lesion.box_xyxy
    if reference is None or not reference.any():
        raise DatasetError(
            f"{lesion.mask}: the mask is empty, so there is no lesion to box. Give the row a box, or remove it."
        )
    return compute_tight_box(reference)
