"""Finds the CT slices and segmentations in a folder of any layout by their DICOM headers."""

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from t2m_bench.data.exclusions import Exclusion, Reason
from t2m_bench.data.parallel import map_items
from t2m_bench.data.pseudonyms import KEY_NAME
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
    "BitsStored",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
)
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
"""A DICOMDIR, which has no modality."""

PREAMBLE = 128
MAGIC = b"DICM"
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""First bytes of a data set without a preamble, in either byte order."""

LAST_FIRST_ELEMENT = 0x0020
"""No data set begins with a later element of its first group."""

LEFT_BY_VIEWERS = frozenset({"Thumbs.db", "desktop.ini"})
"""Files that file browsers write into a folder; hidden files are not part of a data set either."""

SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
PACKED = frozenset({".gz", ".bz2", ".xz", ".zst", ".part", ".partial", ".tmp"})
PLAIN_NAMES = frozenset({"license", "licence", "readme", "copying", "changes", "version", "makefile", "dicomdir"})
"""Files without an ending that lie in folders of data and are no images."""

HOUNSFIELD_TYPES = frozenset({"", "HU", "US"})
"""US is "unspecified"; others, such as electron density, are no Hounsfield units (DICOM PS3.3, C.11.1.1.2)."""

MOST_RESCALE = 1e5
"""Slopes and intercepts beyond this, of either sign, are no Hounsfield units'."""

LEAST_CROSS = 1e-3
"""The sine of the angle below which row and column direction give no plane."""

WORTH_A_PROCESS = 1000
"""Headers read in about a second by one process."""

DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
"""A number as DICOM writes one in text (PS3.5, 6.2, DS and IS); Python takes more, such as `1_0` for ten."""

OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Header:
    """DICOM tags that are read before any pixels.

    Attributes:
        modality: CT or SEG. written: date and time of the content, sortable, empty where it is not said.
        acquisition: its number as text, empty where it is not said.
        position, orientation, spacing_mm: of a CT slice; None where the file gives none. Spacing is (row, column).
        tilt_degrees: of the gantry. syntax: the transfer syntax, a UID, that says how pixels are stored.
        bits: of a pixel. slope, intercept: from stored values to Hounsfield units; None where they are not usable.
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
    bits: int
    slope: float | None
    intercept: float | None


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
    between = [path for path in strangers if path.parent in folders_of_dicom or _is_named_as_image(path)]
    exclusions += [Exclusion(Reason.NOT_DICOM, str(path.relative_to(root))) for path in between]
    return patients, exclusions


def _is_named_as_image(path: Path) -> bool:
    """Return whether a file is named as DICOM files are: .dcm (packed too), without an ending, or by a UID."""
    name, suffixes = path.name.lower(), [suffix.lower() for suffix in path.suffixes]
    if name.startswith(".") or name in PLAIN_NAMES:
        return False
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return (
        name.isdecimal()
        or not path.suffixes
        or (bool(suffixes) and (suffixes[-1] in SUFFIXES or suffixes[-1][1:].isdecimal()))
    )


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
        if KEY_NAME in names:  # a runs folder below the data set's own changes with every command
            subfolders.clear()
            continue
        # sorted, so that of two ways to one folder the same is taken everywhere
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith(".") and name not in LEFT_BY_VIEWERS)


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
            head = stream.read(PREAMBLE + len(MAGIC))
            if not head.endswith(MAGIC) or len(head) < PREAMBLE + len(MAGIC):
                return Reason.NO_PREAMBLE if _begins_as_dicom(head) else Reason.NOT_DICOM
            stream.seek(0)
            found = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
            left = os.fstat(stream.fileno()).st_size - stream.tell()
        if found.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY_CLASS:
            return None
        modality = _read_text(_get(found, "Modality")).upper()
        if modality not in (CT, SEG, ""):
            return None
        header = _parse(path, found, modality)
        if header is None:
            return Reason.INCOMPLETE if left > 0 else Reason.UNREADABLE  # cut off before its pixels
        if left < _count_pixel_bytes(found, header):
            return Reason.UNREADABLE
        if header.burned_in:
            return Reason.BURNED_IN
        return header if modality == SEG else _check_slice(header, found)
    except Exception:  # whatever a damaged file does to the parser: it is counted, and the others go on
        return Reason.UNREADABLE


def _check_slice(header: Header, found: Any) -> Header | Reason | None:
    """Return the header of a CT slice with place and units, None of a scout image."""
    if "LOCALIZER" in (_get(found, "ImageType") or ()):
        return None
    if not _lies_in_space(header):
        return Reason.UNUSABLE_CT
    form = _read_text(_get(found, "PhotometricInterpretation")) or "MONOCHROME2"
    if not form.startswith("MONOCHROME") or _read_count(found, "SamplesPerPixel", 1) != 1:
        return Reason.NOT_GREY
    if _read_count(found, "NumberOfFrames", 1) != 1:
        return Reason.NOT_GREY
    if header.slope is None or header.intercept is None:
        return Reason.NO_RESCALE
    return header


def _begins_as_dicom(head: bytes) -> bool:
    """Return whether a file begins with a data set, or with the magic word, and no preamble before it."""
    if head.startswith(MAGIC):
        return True
    order: Literal["little", "big"] = "little" if head[1:2] == b"\0" else "big"
    has_place = head[:2] in FIRST_GROUPS and int.from_bytes(head[2:4], order) <= LAST_FIRST_ELEMENT
    return has_place and len(head) > 8


def _count_pixel_bytes(found: Any, header: Header) -> int:
    """Return the fewest bytes after the header: tag, length and pixels; of compressed pixels, at least one byte."""
    syntax = found.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
        return 0  # one stream, read whole with the header
    if syntax.is_encapsulated:
        return 1
    element_head = 8 if syntax.is_implicit_VR else 12  # DICOM PS3.5, 7.1.2 and 7.1.3
    samples, frames = _read_count(found, "SamplesPerPixel", 1), _read_count(found, "NumberOfFrames", 1)
    bits = header.rows * header.columns * _read_count(found, "BitsAllocated", 0) * samples * frames
    return element_head - (-bits // 8)


def _parse(path: Path, found: Any, modality: str) -> Header | None:
    """Return what a header says, None where it does not say whose image it is, of what kind or of what size."""
    uids = [_read_text(_get(found, name)) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    patient_id = _read_text(_get(found, "PatientID"))
    sizes = [_read_count(found, name, 0) for name in ("Rows", "Columns", "BitsAllocated")]
    if not (modality and patient_id and all(uids) and min(sizes) > 0):
        return None
    slope, intercept = (read_number(_get(found, name)) for name in ("RescaleSlope", "RescaleIntercept"))
    is_sensible = slope != 0.0 and max(abs(slope or 0.0), abs(intercept or 0.0)) <= MOST_RESCALE
    is_hounsfield = is_sensible and _read_text(_get(found, "RescaleType")).upper() in HOUNSFIELD_TYPES
    return Header(
        path=path,
        modality=modality,
        patient_id=patient_id,
        study_uid=uids[0],
        series_uid=uids[1],
        sop_uid=uids[2],
        acquisition=_read_text(_get(found, "AcquisitionNumber")),
        frame_of_reference=_read_text(_get(found, "FrameOfReferenceUID")),
        written=f"{_get(found, 'ContentDate') or ''} {_get(found, 'ContentTime') or ''}".strip(),
        position=read_numbers(_get(found, "ImagePositionPatient"), 3),
        orientation=read_numbers(_get(found, "ImageOrientationPatient"), 6),
        spacing_mm=read_numbers(_get(found, "PixelSpacing"), 2),
        rows=sizes[0],
        columns=sizes[1],
        tilt_degrees=read_number(_get(found, "GantryDetectorTilt")) or 0.0,
        inverted=_get(found, "PhotometricInterpretation") == "MONOCHROME1",
        burned_in=_read_text(_get(found, "BurnedInAnnotation")).upper() == "YES",
        syntax=str(found.file_meta.TransferSyntaxUID),
        bits=_read_count(found, "BitsStored", sizes[2]),
        slope=slope if is_hounsfield else None,
        intercept=intercept,
    )


def _get(found: Any, keyword: str) -> Any:
    """Return a tag's value; None where it is absent, empty, or what its type cannot hold."""
    try:
        value = found.get(keyword)
    except Exception:  # as many kinds as there are types of values
        return None
    return None if value == "" else value


def _read_text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _lies_in_space(header: Header) -> bool:
    """Return whether the header locates each of its pixels."""
    if header.position is None or header.orientation is None or header.spacing_mm is None:
        return False
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite either
        normal = np.cross(header.orientation[:3], header.orientation[3:])
        is_plane = bool(LEAST_CROSS < np.linalg.norm(normal) < np.inf)
    numbers = [*header.position, *header.orientation, *header.spacing_mm]
    return is_plane and bool(np.isfinite(numbers).all()) and min(header.spacing_mm) > 0


def read_number(value: Any) -> float | None:
    """Return a finite number; None where the value is none, of a type (VR) for text, or written as `1_0`."""
    written = getattr(value, "original_string", None)
    if isinstance(value, str | bytes) or (isinstance(written, str) and not DECIMAL.fullmatch(written.strip())):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Return a given number of finite numbers; None if the value holds another number of them, or other values."""
    try:
        numbers = tuple(read_number(number) for number in value)
    except TypeError:
        return None
    finite = tuple(number for number in numbers if number is not None)
    return finite if len(finite) == len(numbers) == count else None


def _read_count(found: Any, keyword: str, absent: int) -> int:
    """Return a whole number; -1 if the value is not one."""
    value = _get(found, keyword)
    number = absent if value is None else read_number(value)
    return int(number) if number is not None and number == int(number) else -1
