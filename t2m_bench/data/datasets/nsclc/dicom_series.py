"""Finds the CT slices and segmentations in a folder of any layout by their DICOM headers."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2m_bench.data.exclusions import Exclusion, Reason
from t2m_bench.data.parallel import map_items
from t2m_bench.errors import DatasetError

CT, SEG = "CT", "SEG"
TAGS = (
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "ContentDate",
    "ContentTime",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "AcquisitionNumber",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "BitsAllocated",
    "SamplesPerPixel",
    "NumberOfFrames",
    "GantryDetectorTilt",
    "BurnedInAnnotation",
    "PhotometricInterpretation",
)
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
"""A DICOMDIR, which has no modality."""

PREAMBLE = 128
MAGIC = b"DICM"
LEAST_CROSS = 1e-3
"""The sine of the angle below which row and column direction give no plane."""

WORTH_A_PROCESS = 1000
"""Headers read in about a second by one process."""

OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Header:
    """What is asked of a file before its pixels are read.

    Attributes:
        modality: CT or SEG. written: date and time of the content, sortable, empty where it is not said.
        acquisition: its number as text, empty where it is not said.
        position, orientation, spacing_mm: of a CT slice; None where the file gives none. Spacing is (row, column).
        tilt_degrees: of the gantry. syntax: the transfer syntax, a UID, that says how pixels are stored.
    """

    path: Path
    modality: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    acquisition: str
    frame_of_reference: str
    written: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    rows: int
    columns: int
    tilt_degrees: float
    inverted: bool
    burned_in: bool
    syntax: str


@dataclass
class PatientFiles:
    """One patient's files: CT slices by series, and segmentations."""

    ct: dict[str, list[Header]] = field(default_factory=dict)
    segs: list[Header] = field(default_factory=list)


def import_pydicom() -> Any:
    """Return pydicom, which only this data set needs.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise DatasetError(
            "reading DICOM needs pydicom, which is not installed. In the checkout: pip install '.[nsclc]'"
        ) from None
    # old files break small rules by the thousand; what matters here is checked here
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def list_decodable_syntaxes() -> list[str]:
    """Return the compressed transfer syntaxes that pydicom can decode here, with the codecs that are installed.

    Raises:
        DatasetError: pydicom is not installed.
    """
    import_pydicom()
    from pydicom.pixels.decoders.base import get_decoder  # where it is defined: pydicom.pixels does not export it
    from pydicom.uid import AllTransferSyntaxes

    found = []
    for syntax in AllTransferSyntaxes:
        try:
            is_decodable = syntax.is_compressed and get_decoder(syntax).is_available
        except NotImplementedError:  # video, for instance: pydicom has no decoder at all
            continue
        if is_decodable:
            found.append(str(syntax))
    return sorted(found)


def find_missing_codec(syntax: str) -> Reason | None:
    """Return why pixels of a transfer syntax cannot be decoded here; None where they can, or no package could do it."""
    import_pydicom()
    from pydicom import uid
    from pydicom.pixels.decoders.base import get_decoder

    reasons = {**dict.fromkeys((*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes), Reason.NO_JPEG)}
    reasons |= dict.fromkeys(uid.JPEG2000TransferSyntaxes, Reason.NO_JPEG_2000)
    if syntax not in reasons:
        return None
    try:
        plugins = set(get_decoder(uid.UID(syntax)).available_plugins)
    except NotImplementedError:  # JPEG 2000 of several components, for instance: pydicom has no decoder at all
        return None
    if syntax == uid.JPEGExtended12Bit:
        plugins.discard("pillow")  # it decodes 8 bits alone, and a CT has 12
    return None if plugins else reasons[uid.UID(syntax)]


def name_syntax(syntax: str) -> str:
    """Return what DICOM calls a transfer syntax."""
    return str(import_pydicom().uid.UID(syntax).name)


def find_patients(root: Path, on_file: OnFile | None = None) -> tuple[dict[str, PatientFiles], list[Exclusion]]:
    """Return patient_id -> files, and what was left out.

    Args:
        on_file: called with (files read, files in all) for progress.

    Raises:
        DatasetError: pydicom is not installed, or a folder cannot be read.
    """
    import_pydicom()
    paths = list_files(root)
    patients: dict[str, PatientFiles] = {}
    exclusions = []
    strangers, folders_of_dicom = [], set()
    for done, (path, found) in enumerate(zip(paths, map_items(read_header, paths, WORTH_A_PROCESS), strict=True), 1):
        if found == Reason.NOT_DICOM:
            strangers.append(path)
        else:
            folders_of_dicom.add(path.parent)
        if isinstance(found, Header):
            _add(patients.setdefault(found.patient_id, PatientFiles()), found)
        elif found is not None and found != Reason.NOT_DICOM:
            exclusions.append(Exclusion(found, str(path.relative_to(root))))
        if on_file is not None:
            on_file(done, len(paths))
    # tables and licences that lie beside the folders of images are no defect
    between = [path for path in strangers if path.parent in folders_of_dicom]
    exclusions += [Exclusion(Reason.NOT_DICOM, str(path.relative_to(root))) for path in between]
    return patients, exclusions


def list_files(root: Path) -> list[Path]:
    """Return every file below a folder, sorted; symbolic links to folders are followed, each folder once.

    Raises:
        DatasetError: a folder cannot be read.
    """
    return sorted(_walk(root))


def _walk(root: Path) -> Iterator[Path]:
    visited = set()
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # links may lead round in a circle
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()  # of two ways to one folder the same is taken everywhere
        yield from (Path(folder, name) for name in names)


def _refuse_folder(error: OSError) -> None:
    raise DatasetError(
        f"{error.filename}: the folder cannot be read ({error.strerror}). "
        "Make it readable, or move it out of dataset.root."
    ) from None


def _add(files: PatientFiles, header: Header) -> None:
    if header.modality == SEG:
        files.segs.append(header)
    else:
        files.ct.setdefault(header.series_uid, []).append(header)


def read_header(path: Path) -> Header | Reason | None:
    """Return the header of a CT slice or a segmentation, why there is none, or None for an object of another kind."""
    pydicom = import_pydicom()
    try:
        with path.open("rb") as stream:
            stream.seek(PREAMBLE)
            if stream.read(len(MAGIC)) != MAGIC:
                return Reason.NOT_DICOM
            stream.seek(0)
            found = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
            left = os.fstat(stream.fileno()).st_size - stream.tell()
        if found.get("Modality", CT) not in (CT, SEG) or found.file_meta.MediaStorageSOPClassUID == DIRECTORY_CLASS:
            return None
        if left < _count_pixel_bytes(found):
            return Reason.UNREADABLE
        header = _parse(path, found)
    except Exception:  # whatever a damaged file does to the parser: it is counted, and the others go on
        return Reason.UNREADABLE
    if header.burned_in:
        return Reason.BURNED_IN
    if header.modality == CT and "LOCALIZER" in (found.get("ImageType") or ()):
        return None
    if header.modality == CT and not _lies_in_space(header):
        return Reason.UNUSABLE_CT
    return header


def _count_pixel_bytes(found: Any) -> int:
    """Return the least that must follow the header: tag, length and pixels; of compressed ones just something."""
    syntax = found.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
        return 0  # one stream, read whole with the header
    if syntax.is_encapsulated:
        return 1
    element_head = 8 if syntax.is_implicit_VR else 12  # DICOM PS3.5, 7.1.2 and 7.1.3
    bits = found.Rows * found.Columns * found.BitsAllocated * found.get("SamplesPerPixel", 1)
    return element_head - (-int(bits * int(found.get("NumberOfFrames") or 1)) // 8)


def _parse(path: Path, found: Any) -> Header:
    return Header(
        path=path,
        modality=str(found.Modality),
        patient_id=str(found.PatientID).strip(),
        study_uid=str(found.StudyInstanceUID),
        series_uid=str(found.SeriesInstanceUID),
        sop_uid=str(found.SOPInstanceUID),
        acquisition=_read_text(found.get("AcquisitionNumber")),
        frame_of_reference=str(found.get("FrameOfReferenceUID") or ""),
        written=f"{found.get('ContentDate') or ''} {found.get('ContentTime') or ''}".strip(),
        position=_read_numbers(found.get("ImagePositionPatient"), 3),
        orientation=_read_numbers(found.get("ImageOrientationPatient"), 6),
        spacing_mm=_read_numbers(found.get("PixelSpacing"), 2),
        rows=int(found.Rows),
        columns=int(found.Columns),
        tilt_degrees=float(found.get("GantryDetectorTilt") or 0.0),
        inverted=found.get("PhotometricInterpretation") == "MONOCHROME1",
        burned_in=str(found.get("BurnedInAnnotation") or "").upper() == "YES",
        syntax=str(found.file_meta.TransferSyntaxUID),
    )


def _read_text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _lies_in_space(header: Header) -> bool:
    """Whether the header says where each of its pixels lies."""
    if header.position is None or header.orientation is None or header.spacing_mm is None:
        return False
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite either
        normal = np.cross(header.orientation[:3], header.orientation[3:])
        is_plane = bool(LEAST_CROSS < np.linalg.norm(normal) < np.inf)
    numbers = [*header.position, *header.orientation, *header.spacing_mm]
    return is_plane and bool(np.isfinite(numbers).all()) and min(header.spacing_mm) > 0


def _read_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None or len(value) != count:
        return None
    return tuple(float(number) for number in value)
