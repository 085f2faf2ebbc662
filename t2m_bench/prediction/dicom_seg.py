"""Writes a mask as a DICOM Segmentation object that refers to its source image."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2m_bench import __version__
from t2m_bench.data.datasets.nsclc.dicom_series import import_pydicom
from t2m_bench.errors import DatasetError, find_first_line
from t2m_bench.files import write_atomically

SERIES_NUMBER = 9000
"""Series number of the segmentations; a viewer lists them last."""


def write_dicom_seg(path: Path, mask: NDArray[np.bool_], source: Path) -> None:
    """Write a binary segmentation of one lesion on a single-frame DICOM image.

    Raises:
        DatasetError: highdicom is not installed, or the image lacks an attribute that a segmentation must repeat.
    """
    pydicom, highdicom = import_pydicom(), _import_highdicom()
    image = pydicom.dcmread(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of patients without a caret, as pseudonyms are
            made = _make(highdicom, image, mask)
    except Exception as error:  # highdicom refuses in its own way each attribute that is absent or not standard
        raise DatasetError(
            f"{source}: no DICOM SEG can refer to it ({find_first_line(error)}). Correct the file, or convert the "
            "image to PNG or NIfTI, whose masks have that form."
        ) from None
    with write_atomically(path, private=True) as partial:  # it names the patient, as its image does
        made.save_as(partial)


def _import_highdicom() -> Any:
    try:
        import highdicom
    except ImportError:
        raise DatasetError(
            "writing DICOM SEG needs highdicom, which is not installed. In the checkout: pip install '.[dicom]'"
        ) from None
    return highdicom


def _make(highdicom: Any, image: Any, mask: NDArray[np.bool_]) -> Any:
    from pydicom.sr.codedict import codes

    described = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,  # a person draws the box
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="t2m-bench", version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
    )
    return highdicom.seg.Segmentation(
        source_images=[image],
        pixel_array=mask[None].astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[described],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="t2m-bench",
        manufacturer_model_name="t2m-bench",
        software_versions=__version__,
        device_serial_number="0",
        omit_empty_frames=False,
    )
