"""Writes the lung phantoms' CT and SEG as DICOM, in the ways and with the oddities that real files have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.nsclc.dicom_series import import_pydicom

CT_CLASS, SEG_CLASS = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4"
SPACING_MM = (1.25, 1.25)
SLICE_DISTANCE_MM = 2.5
CORNER_MM = (-80.0, -80.0, -300.0)
ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
HIGHEST_STORED = 4095
"""Twelve bits, as CT scanners store."""

WHEN = "20200102"
CODES = {
    "tissue": ("85756007", "SCT", "Tissue"),
    "neoplasm": ("108369006", "SCT", "Neoplasm"),
    "object": ("A-00004", "SRT", "Physical Object"),
    "heart": ("T-32000", "SRT", "Heart"),
    "derivation": ("113076", "DCM", "Segmentation"),
    "purpose": ("121322", "DCM", "Source image for image processing operation"),
}


@dataclass(frozen=True)
class Scan:
    """A patient's anatomy: Hounsfield units and tumour, (slices, rows, columns) each, from the lowest slice up.

    Attributes:
        name: what all identifiers of its files are made from.
    """

    patient_id: str
    name: str
    hounsfield: NDArray[np.int16]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Style:
    """Style in which a scan is written.

    Attributes:
        seg: "old" has the groups of the published files (all but the position shared, a frame for every slice, a
            segment labelled Heart); "modern" those of highdicom (all by frame, empty frames left out).
        frames: order of the frames along the stack.
        signed: stored as signed numbers without an intercept, as most of the real scans are signed.
        slope: rescale slope; -1 stores the values turned over, as MONOCHROME1 shows them.
        compressed: RLE Lossless.
        without: slices left out, so that a gap is left. nudged: slices moved up by a third of the slice distance.
        tilt_degrees: each slice lies a little further back than the one below it.
    """

    seg: Literal["old", "modern"] = "old"
    frames: Literal["ascending", "descending", "scattered"] = "descending"
    slope: int = 1
    signed: bool = False
    compressed: bool = False
    without: tuple[int, ...] = ()
    nudged: tuple[int, ...] = ()
    tilt_degrees: float = 0.0


STYLES = (
    Style(),
    Style(seg="modern", frames="ascending"),
    Style(frames="ascending", slope=2, signed=True),
    Style(seg="modern", frames="scattered", compressed=True),
    Style(frames="scattered", nudged=(1,)),
    Style(seg="modern", frames="descending", slope=-1),
    Style(without=(1,)),
    Style(seg="modern", frames="ascending", tilt_degrees=12.0),
)
"""The ways that a phantom data set takes in turn."""


def make_uid(*parts: object) -> str:
    """Return the identifier that these parts always give."""
    uid: str = import_pydicom().uid.generate_uid(entropy_srcs=[".".join(map(str, parts))])
    return uid


def find_position(style: Style, index: int) -> tuple[float, float, float]:
    """Return where the first pixel of a slice lies, mm."""
    x, y, z = CORNER_MM
    height = (index + (1 / 3 if index in style.nudged else 0.0)) * SLICE_DISTANCE_MM
    back = height * float(np.tan(np.radians(style.tilt_degrees)))
    return x, round(y + back, 4), round(z + height, 4)


def list_written(scan: Scan, style: Style) -> list[int]:
    """Return the slices that are written, from the lowest up."""
    return [index for index in range(len(scan.hounsfield)) if index not in style.without]


def write_scan(folder: Path, scan: Scan, style: Style, study: int = 1) -> tuple[Path, Path]:
    """Write a study of one CT series and its SEG in TCIA's layout; return both series' folders."""
    ct_folder, references = write_ct(folder, scan, style, study)
    return ct_folder, write_seg(folder, scan, style, references, study)


def write_ct(folder: Path, scan: Scan, style: Style, study: int = 1) -> tuple[Path, dict[int, str]]:
    """Write the CT series, numbered from the highest slice down; return its folder and slice -> SOP instance."""
    series = _find_folder(folder, scan, "ct", study)
    series.mkdir(parents=True)
    indices = list_written(scan, style)
    references = {}
    for number, index in enumerate(reversed(indices), start=1):
        dataset = _make_dataset(scan, CT_CLASS, "ct", study, index)
        _fill_slice(dataset, scan.hounsfield[index], style, index)
        dataset.InstanceNumber = number
        references[index] = dataset.SOPInstanceUID
        if style.compressed:
            dataset.compress(import_pydicom().uid.RLELossless, generate_instance_uid=False)
        _save(dataset, series / f"1-{number:02d}.dcm")
    return series, references


def write_seg(
    folder: Path, scan: Scan, style: Style, references: dict[int, str], study: int = 1, copy: int = 1
) -> Path:
    """Write the SEG of a series; return its folder. A further `copy` is another SEG of the same series, a day newer."""
    series = _find_folder(folder, scan, f"seg{copy}", study)
    series.mkdir(parents=True)
    dataset = _make_dataset(scan, SEG_CLASS, f"seg{copy}", study, 0)
    dataset.ContentDate = str(int(WHEN) + copy)
    dataset.InstanceNumber = 1
    indices = _order_frames(scan, style, references)
    (_fill_old_seg if style.seg == "old" else _fill_modern_seg)(dataset, style, indices, references)
    dataset.ReferencedSeriesSequence = [_make_reference(scan, study, references)]
    _fill_frames(dataset, scan.masks[indices])
    _save(dataset, series / "1-1.dcm")
    return series


def _find_folder(folder: Path, scan: Scan, what: str, study: int) -> Path:
    return folder / scan.patient_id / make_uid(scan.name, study) / make_uid(scan.name, study, what)


def _make_dataset(scan: Scan, sop_class: str, what: str, study: int, index: int) -> Any:
    pydicom = import_pydicom()
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = make_uid(scan.name, study, what, index)
    dataset.Modality = "CT" if sop_class == CT_CLASS else "SEG"
    dataset.Manufacturer = "phantom"
    dataset.PatientName = dataset.PatientID = scan.patient_id
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = str(int(WHEN) + study - 1)
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
    dataset.StudyID = ""
    dataset.StudyInstanceUID = make_uid(scan.name, study)
    dataset.SeriesInstanceUID = make_uid(scan.name, study, what)
    dataset.FrameOfReferenceUID = make_uid(scan.name, study, "frame")
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = 3 if sop_class == CT_CLASS else 1000
    return dataset


def _fill_slice(dataset: Any, hounsfield: NDArray[np.int16], style: Style, index: int) -> None:
    stored, intercept = (hounsfield.astype(np.int32) + 1024) // abs(style.slope), -1024
    if style.signed:
        stored, intercept = hounsfield.astype(np.int32) // style.slope, 0
    if style.slope < 0:
        stored, intercept = HIGHEST_STORED - stored, HIGHEST_STORED - 1024
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = list(find_position(style, index))
    dataset.ImageOrientationPatient = list(ORIENTATION)
    dataset.PixelSpacing = list(SPACING_MM)
    dataset.SliceThickness = SLICE_DISTANCE_MM
    dataset.GantryDetectorTilt = style.tilt_degrees
    dataset.KVP, dataset.AcquisitionNumber, dataset.PatientPosition = 120, 1, "HFS"
    dataset.RescaleSlope, dataset.RescaleIntercept = style.slope, intercept
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if style.slope < 0 else "MONOCHROME2"
    dataset.Rows, dataset.Columns = hounsfield.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
        16,
        16,
        15,
        int(style.signed),
    )
    dataset.PixelData = stored.astype("<i2" if style.signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _order_frames(scan: Scan, style: Style, references: dict[int, str]) -> list[int]:
    indices = sorted(references)
    if style.seg == "modern":
        indices = [index for index in indices if scan.masks[index].any()]
    if style.frames == "descending":
        indices.reverse()
    if style.frames == "scattered":
        indices = [int(index) for index in np.random.default_rng(len(indices)).permutation(indices)]
    return indices


def _fill_old_seg(dataset: Any, style: Style, indices: list[int], references: dict[int, str]) -> None:
    """Write as 3D Slicer and ePAD did in 2015: all items but each frame's position are shared."""
    dataset.SegmentSequence = [_make_segment("Heart", "object", "heart")]
    shared = _make_item(
        DerivationImageSequence=[_make_derivation([references[index] for index in sorted(references)], {})],
        SegmentIdentificationSequence=[_make_item(ReferencedSegmentNumber=1)],
        **_make_plane_groups(),
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [
        _make_item(
            FrameContentSequence=[
                _make_item(StackID="1", InStackPositionNumber=index + 1, DimensionIndexValues=[1, index + 1, 1])
            ],
            PlanePositionSequence=[_make_item(ImagePositionPatient=list(find_position(style, index)))],
        )
        for index in indices
    ]
    _fill_dimensions(dataset, ((0x00209056, 0x00209111), (0x00209057, 0x00209111), (0x0062000B, 0x0062000A)))


def _fill_modern_seg(dataset: Any, style: Style, indices: list[int], references: dict[int, str]) -> None:
    """Write as highdicom does: each frame names its segment and source image."""
    dataset.SegmentSequence = [_make_segment("Neoplasm", "tissue", "neoplasm")]
    dataset.SharedFunctionalGroupsSequence = [_make_item(**_make_plane_groups())]
    ranks = {index: rank for rank, index in enumerate(sorted(indices), start=1)}
    dataset.PerFrameFunctionalGroupsSequence = [
        _make_item(
            DerivationImageSequence=[_make_derivation([references[index]], {"SpatialLocationsPreserved": "YES"})],
            FrameContentSequence=[_make_item(DimensionIndexValues=[1, ranks[index]])],
            PlanePositionSequence=[_make_item(ImagePositionPatient=list(find_position(style, index)))],
            SegmentIdentificationSequence=[_make_item(ReferencedSegmentNumber=1)],
        )
        for index in indices
    ]
    _fill_dimensions(dataset, ((0x0062000B, 0x0062000A), (0x00200032, 0x00209113)))


def _fill_dimensions(dataset: Any, pointers: tuple[tuple[int, int], ...]) -> None:
    organization = make_uid(dataset.SOPInstanceUID, "dimensions")
    dataset.DimensionOrganizationSequence = [_make_item(DimensionOrganizationUID=organization)]
    dataset.DimensionIndexSequence = [
        _make_item(
            DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=functional
        )
        for pointer, functional in pointers
    ]


def _make_plane_groups() -> dict[str, list[Any]]:
    measures = _make_item(SliceThickness=SLICE_DISTANCE_MM, PixelSpacing=list(SPACING_MM))
    orientation = _make_item(ImageOrientationPatient=list(ORIENTATION))
    return {"PlaneOrientationSequence": [orientation], "PixelMeasuresSequence": [measures]}


def _make_derivation(references: list[str], said: dict[str, str]) -> Any:
    sources = [
        _make_item(
            ReferencedSOPClassUID=CT_CLASS,
            ReferencedSOPInstanceUID=reference,
            PurposeOfReferenceCodeSequence=[_make_code("purpose")],
            **said,
        )
        for reference in references
    ]
    return _make_item(SourceImageSequence=sources, DerivationCodeSequence=[_make_code("derivation")])


def _make_segment(label: str, category: str, kind: str) -> Any:
    return _make_item(
        SegmentNumber=1,
        SegmentLabel=label,
        SegmentAlgorithmType="SEMIAUTOMATIC",
        SegmentAlgorithmName="phantom",
        SegmentedPropertyCategoryCodeSequence=[_make_code(category)],
        SegmentedPropertyTypeCodeSequence=[_make_code(kind)],
    )


def _make_reference(scan: Scan, study: int, references: dict[int, str]) -> Any:
    instances = [
        _make_item(ReferencedSOPClassUID=CT_CLASS, ReferencedSOPInstanceUID=references[index])
        for index in sorted(references)
    ]
    series = make_uid(scan.name, study, "ct")
    return _make_item(SeriesInstanceUID=series, ReferencedInstanceSequence=instances)


def _fill_frames(dataset: Any, masks: NDArray[np.bool_]) -> None:
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SegmentationType = "BINARY"
    dataset.ContentLabel, dataset.ContentDescription, dataset.ContentCreatorName = "ROI", "phantom", ""
    dataset.LossyImageCompression = "00"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = masks.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 1, 1, 0, 0
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"


def _make_code(name: str) -> Any:
    value, scheme, meaning = CODES[name]
    return _make_item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _make_item(**elements: Any) -> Any:
    item = import_pydicom().Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def _save(dataset: Any, path: Path) -> None:
    dataset.save_as(path, enforce_file_format=True)
