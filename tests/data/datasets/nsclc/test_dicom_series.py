import errno
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from messages import check_names, raises_naming
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.pylibjpeg import DECODER_DEPENDENCIES
from scans import make_scan

from t2m_bench.data.datasets.nsclc.dicom_series import find_missing_codec, find_patients, list_files, read_header
from t2m_bench.data.exclusions import CODECS, Reason
from t2m_bench.data.phantoms.nsclc_dicom import Style, write_scan
from t2m_bench.errors import DatasetError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    write_scan(folder, make_scan(), Style())
    return folder


def count(folder: Path) -> dict[str, tuple[list[int], int]]:
    patients, _ = find_patients(folder)
    return {name: (sorted(map(len, files.ct.values())), len(files.segs)) for name, files in patients.items()}


def test_the_layout_of_the_folder_does_not_matter(written: Path, tmp_path: Path) -> None:
    assert count(written) == {"R01-001": ([18], 1)}
    for number, path in enumerate(sorted(written.rglob("*.dcm"))):
        shutil.copy(path, tmp_path / f"{number:04d}")  # all in one folder, without an ending
    assert count(tmp_path) == count(written)


def test_what_is_no_slice_is_told_by_its_reason_and_stops_nothing(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(written, folder)
    (folder / "LICENSE.txt").write_text("beside the folders of images, no defect\n" * 20)
    paths = sorted(folder.rglob("1-*.dcm"), key=lambda path: path.name)
    slices = [path for path in paths if read_header(path).modality == "CT"]
    (slices[0].parent / "notes.txt").write_text("among the images\n" * 20)
    os.truncate(slices[1], slices[1].stat().st_size - 2)
    os.truncate(slices[2], 200)
    for path, keyword, value in (
        (slices[3], "BurnedInAnnotation", "YES"),
        (slices[4], "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        (slices[5], "Modality", "SR"),
        (slices[6], "ImagePositionPatient", None),
    ):
        dataset = pydicom.dcmread(path)
        setattr(dataset, keyword, value)
        dataset.save_as(path)
    patients, excluded = find_patients(folder)
    assert sorted(exclusion.reason for exclusion in excluded) == sorted(
        [Reason.NOT_DICOM, Reason.UNREADABLE, Reason.UNREADABLE, Reason.BURNED_IN, Reason.UNUSABLE_CT]
    )
    ((series,),) = (files.ct.values() for files in patients.values())
    assert len(series) == 18 - 6


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", [0, 1.25]),
        ("PixelSpacing", [1.25, -1.25]),
        ("PixelSpacing", ["nan", "1.25"]),
        ("PixelSpacing", ["inf", "1.25"]),
        ("ImagePositionPatient", ["0", "0", "nan"]),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImageOrientationPatient", [0, 0, 0, 0, 1, 0]),
        ("ImageOrientationPatient", ["1", "0", "nan", "0", "1", "0"]),
        ("ImageOrientationPatient", ["1e200", "0", "0", "0", "1e200", "0"]),
    ],
)
def test_numbers_that_give_no_place_are_told(written: Path, tmp_path: Path, keyword: str, value: list) -> None:
    path = next(path for path in sorted(written.rglob("1-*.dcm")) if read_header(path).modality == "CT")
    dataset = pydicom.dcmread(path)
    setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "slice.dcm")
    assert read_header(tmp_path / "slice.dcm") == Reason.UNUSABLE_CT


def test_links_to_folders_are_followed_once_each(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copytree(written, tmp_path / "disk")
    (folder / "R01-001").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert count(folder) == count(written)
    (folder / "again").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "back").symlink_to(folder, target_is_directory=True)  # round in a circle
    assert count(folder) == count(written)
    assert {path.relative_to(folder).parts[0] for path in list_files(folder)} == {"R01-001"}, "the first by name"


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises_naming(DatasetError, tmp_path / "absent", os.strerror(errno.ENOENT)):
        list_files(tmp_path / "absent")
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir(mode=0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    is_root = os.geteuid() == 0
    if is_root:  # whom no mode keeps out
        os.seteuid(65534)
    try:
        with raises_naming(DatasetError, "closed", os.strerror(errno.EACCES)):
            list_files(Path())
    finally:
        if is_root:
            os.seteuid(0)


def test_without_pydicom_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from pathlib import Path; from t2m_bench.data.datasets.nsclc.dicom_series import find_patients\n"
        f"find_patients(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    check_names(done.stderr.splitlines()[-1], "DatasetError", "pydicom", ".[nsclc]")


def test_a_codec_is_missing_where_no_plugin_decodes_what_a_ct_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = {
        uid.JPEGLosslessSV1: {},
        uid.JPEGLSLossless: {"pyjpegls": None},
        uid.JPEGExtended12Bit: {"pillow": None},  # which takes 8 bits alone
        uid.JPEG2000Lossless: {"pillow": None},
        uid.HTJ2KLossless: {},
    }
    for syntax, available in plugins.items():
        monkeypatch.setattr(get_decoder(uid.UID(syntax)), "_available", available)
    found = {syntax: find_missing_codec(str(syntax)) for syntax in plugins}
    missing = {uid.JPEGLosslessSV1: Reason.NO_JPEG, uid.JPEGExtended12Bit: Reason.NO_JPEG}
    assert {syntax: reason for syntax, reason in found.items() if reason} == missing | {
        uid.HTJ2KLossless: Reason.NO_JPEG_2000
    }
    monkeypatch.setattr(get_decoder(uid.JPEGExtended12Bit), "_available", {"pillow": None, "pylibjpeg": None})
    always = (
        uid.JPEGExtended12Bit,
        uid.RLELossless,
        uid.ExplicitVRLittleEndian,
        uid.MPEG2MPML,
        uid.JPEG2000MC,
        "1.2.3",
        "",
    )
    assert {find_missing_codec(str(syntax)) for syntax in always} == {None}


def test_the_packages_are_those_that_pydicom_names() -> None:
    for syntax in DECODER_DEPENDENCIES.keys() - {uid.RLELossless}:
        needed = {requirement.partition(">")[0] for requirement in DECODER_DEPENDENCIES[syntax]}
        reason = Reason.NO_JPEG_2000 if syntax in uid.JPEG2000TransferSyntaxes else Reason.NO_JPEG
        assert set(CODECS[reason]) == needed, syntax


def save_slice(written: Path, to: Path, *absent: str, **tags: object) -> Path:
    """Write one CT slice with tags changed and others absent."""
    path = next(path for path in sorted(written.rglob("1-*.dcm")) if read_header(path).modality == "CT")
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    for keyword in absent:
        delattr(dataset, keyword)
    dataset.save_as(to)
    return to


OF_FIELDS = {
    Reason.NO_RESCALE: [
        {"RescaleSlope": None},
        {"RescaleIntercept": None},
        {"RescaleSlope": 0},
        {"RescaleSlope": ["1", "2"]},
        {"RescaleIntercept": "nan"},
        {"RescaleIntercept": "9e63"},
        {"RescaleType": "ED"},
    ],
    Reason.UNUSABLE_CT: [
        {"PixelSpacing": None},
        {"PixelSpacing": "1.25"},
        {"PixelSpacing": ["1.25"]},
        {"ImagePositionPatient": ["0", "0"]},
        {"ImageOrientationPatient": None},
    ],
    Reason.INCOMPLETE: [
        {"Modality": None},
        {"PatientID": ""},
        {"SeriesInstanceUID": ""},
        {"SOPInstanceUID": None},
        {"StudyInstanceUID": None},
        {"Rows": None},
        {"Columns": 0},
        {"BitsAllocated": None},
    ],
    Reason.NOT_GREY: [
        {"SamplesPerPixel": 3, "Rows": 64, "Columns": 64},
        {"NumberOfFrames": 2, "Rows": 64, "Columns": 64},
        {"PhotometricInterpretation": "PALETTE COLOR"},
    ],
}


@pytest.mark.parametrize(
    ("reason", "tags"), [(reason, tags) for reason, all_of in OF_FIELDS.items() for tags in all_of]
)
def test_what_a_slice_cannot_do_without_is_told(written: Path, tmp_path: Path, reason: Reason, tags: dict) -> None:
    assert read_header(save_slice(written, tmp_path / "slice.dcm", **tags)) == reason
    if None in tags.values():  # an empty tag is an absent one
        assert read_header(save_slice(written, tmp_path / "slice.dcm", *tags)) == reason


def test_a_number_of_a_type_for_text_is_none(written: Path, tmp_path: Path) -> None:
    """A header whose intercept is declared as a UID: pydicom refuses the value, and no Hounsfield units follow."""
    dataset = pydicom.dcmread(save_slice(written, tmp_path / "slice.dcm"))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    del dataset["RescaleIntercept"]
    dataset.add(pydicom.DataElement("RescaleIntercept", "UI", "-1"))
    dataset.save_as(tmp_path / "slice.dcm")
    assert read_header(tmp_path / "slice.dcm") == Reason.NO_RESCALE


@pytest.mark.parametrize(
    "tags",
    [
        {"GantryDetectorTilt": None},
        {"SamplesPerPixel": None},
        {"BurnedInAnnotation": ""},
        {"InstanceNumber": None},
        {"RescaleType": "HU"},
        {"PhotometricInterpretation": None},
    ],
)
def test_what_a_slice_can_do_without_is_not_asked_for(written: Path, tmp_path: Path, tags: dict) -> None:
    plain = read_header(save_slice(written, tmp_path / "slice.dcm"))
    assert read_header(save_slice(written, tmp_path / "slice.dcm", **tags)) == plain


@pytest.mark.parametrize(
    "keyword", ["PixelSpacing", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "GantryDetectorTilt"]
)
@pytest.mark.parametrize("number", [b"1,25", b"abc", b"--", b"1e999", b"1_0"])
def test_text_in_place_of_a_number_has_its_own_reason(
    written: Path, tmp_path: Path, keyword: str, number: bytes
) -> None:
    path = save_slice(written, tmp_path / "slice.dcm")
    dataset = pydicom.dcmread(path)
    times = {"PixelSpacing": 2, "ImagePositionPatient": 3}.get(keyword, 1)
    element = pydicom.dataelem.RawDataElement(
        dataset[keyword].tag, "DS", 0, b"\\".join([number.ljust(4)] * times).ljust(6 * times), 0, False, True
    )
    dataset[element.tag] = element  # pydicom itself makes no such number
    dataset.save_as(path)
    found = read_header(path)
    if keyword == "GantryDetectorTilt":
        assert found.tilt_degrees == 0.0
    else:
        assert found == (Reason.NO_RESCALE if keyword.startswith("Rescale") else Reason.UNUSABLE_CT)


def without_preamble(raw: bytes) -> bytes:
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


LOST = {
    "no preamble and no header": (without_preamble, "slice.dcm", Reason.NO_PREAMBLE),
    "no preamble": (lambda raw: raw[132:], "1.2.840.113", Reason.NO_PREAMBLE),
    "the magic word first": (lambda raw: raw[128:], "slice", Reason.NO_PREAMBLE),
    "zeros": (lambda raw: bytes(len(raw)), "IM0001", Reason.NOT_DICOM),
    "nothing": (lambda raw: b"", "slice.DCM", Reason.NOT_DICOM),
    "packed": (gzip.compress, "slice.dcm.gz", Reason.NOT_DICOM),
    "a half download": (lambda raw: b"", "slice.dcm.part", Reason.NOT_DICOM),
    "a page in place of an image": (lambda raw: b"<html>404</html>" * 20, "1.2.840.113.7", Reason.NOT_DICOM),
}


@pytest.mark.parametrize("name", LOST)
def test_a_whole_series_that_is_no_dicom_does_not_vanish(written: Path, tmp_path: Path, name: str) -> None:
    spoil, named, reason = LOST[name]
    root = tmp_path / "data"
    for number in range(3):
        (root / f"series{number}").mkdir(parents=True)
        path = save_slice(written, root / f"series{number}" / "slice")
        raw = path.read_bytes()
        path.unlink()
        path.with_name(named).write_bytes(spoil(raw))
    patients, excluded = find_patients(root)
    assert patients == {}
    assert [exclusion.reason for exclusion in excluded] == [reason] * 3


def test_what_lies_beside_a_data_set_is_no_lost_image(tmp_path: Path) -> None:
    for name in ("LICENSE", "README", "README.md", "table.csv", ".DS_Store", "notes.txt", "index.json", "a.xlsx"):
        (tmp_path / name).write_text("beside the images\n" * 20)
    assert find_patients(tmp_path) == ({}, [])


def test_names_that_are_not_utf_8_are_read_as_any_other(written: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(folder)
    for number, path in enumerate(sorted(written.rglob("*.dcm"))):
        shutil.copy(path, folder + f"/{number:04d}".encode() + b"\xff.dcm")
    assert count(tmp_path) == count(written)


def test_what_programs_leave_in_a_folder_is_no_part_of_the_data_set(tmp_path: Path) -> None:
    """Else the data set would count as changed, and be read anew, whenever somebody looked at it."""
    (tmp_path / "a" / ".cache").mkdir(parents=True)
    (tmp_path / "runs" / "prepared").mkdir(parents=True)
    left = ("a/.DS_Store", "a/Thumbs.db", "a/.cache/2.dcm", "runs/pseudonyms.key", "runs/prepared/3.png")
    for name in ("a/1.dcm", *left):
        (tmp_path / name).touch()
    assert list_files(tmp_path) == [tmp_path / "a" / "1.dcm"]
