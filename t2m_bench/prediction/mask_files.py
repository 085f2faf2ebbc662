"""Writes a predicted mask in the form that its image has: PNG, NIfTI, or DICOM SEG."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.table.nifti import import_nibabel
from t2m_bench.data.images import write_png
from t2m_bench.files import write_atomically
from t2m_bench.prediction.dicom_seg import write_dicom_seg
from t2m_bench.prediction.image_input import ImageInput


def write_mask(folder: Path, stem: str, mask: NDArray[np.bool_], image: ImageInput) -> Path:
    """Write a mask (H, W) below `folder` and return its file.

    NIfTI holds the whole volume's grid, empty but for the image's slice; DICOM SEG refers to the image it was given.

    Raises:
        DatasetError: a package for the form is not installed, or the image lacks what a DICOM SEG must say.
    """
    if image.place.is_volume:
        path = folder / f"{stem}.nii.gz"
        _write_nifti(path, mask, image)
    elif image.is_dicom:
        path = folder / f"{stem}.dcm"
        write_dicom_seg(path, mask, image.place.path)
    else:
        path = folder / f"{stem}.png"
        write_png(path, mask)
    return path


def _write_nifti(path: Path, mask: NDArray[np.bool_], image: ImageInput) -> None:
    nibabel = import_nibabel()
    source = nibabel.load(image.place.path)
    columns, rows = mask.shape[1], mask.shape[0]
    values = np.zeros((columns, rows, image.stored.depth), dtype=np.uint8)
    values[:, :, image.place.slice_index or 0] = mask.T
    # a header of its own with the geometry alone: free text and extensions of the source may name somebody
    made = nibabel.Nifti1Image(values, source.affine, dtype=np.uint8)
    made.header.set_zooms(source.header.get_zooms()[:3])
    made.header.set_xyzt_units(*source.header.get_xyzt_units())
    for read, write in ((source.get_qform, made.set_qform), (source.get_sform, made.set_sform)):
        affine, code = read(coded=True)
        write(affine, int(code))
    with write_atomically(path) as partial:
        whole = partial.with_name(f"{partial.name}.nii.gz")  # the form is told by the ending
        nibabel.save(made, whole)
        whole.replace(partial)
