from pathlib import Path

import numpy as np
import pydicom
import pydicom.pixels
import pytest
from messages import raises_naming
from scans import make_scan, read_back

from t2m_bench.data.datasets.nsclc.ct_volume import build_volume, load_hounsfield
from t2m_bench.data.datasets.nsclc.dicom_series import find_patients
from t2m_bench.data.datasets.nsclc.seg import find_source_instances, load_seg, read_masks
from t2m_bench.data.phantoms.nsclc_dicom import Style, list_written, write_ct, write_seg
from t2m_bench.errors import DatasetError


@pytest.mark.parametrize(
    ("style", "flags"),
    [
        (Style(), ()),
        (Style(slope=2), ()),
        (Style(signed=True), ()),
        (Style(slope=2, signed=True), ()),
        (Style(slope=-1), ("monochrome1",)),
        (Style(compressed=True), ()),
        (Style(without=(4,)), ("gap",)),
        (Style(nudged=(6,)), ("unequal_spacing",)),
        (Style(tilt_degrees=12.0), ("gantry_tilt",)),
        (Style(slope=2, compressed=True, without=(0,)), ()),
    ],
)
def test_every_voxel_is_what_was_drawn(tmp_path: Path, style: Style, flags: tuple[str, ...]) -> None:
    scan = make_scan()
    write_ct(tmp_path, scan, style)
    volume, _ = read_back(tmp_path)
    assert volume.flags == flags
    assert volume.spacing_mm == (1.25, 1.25)
    assert volume.slice_distance_mm == pytest.approx(2.5)
    found = np.stack([load_hounsfield(volume, index) for index in range(len(volume.slices))])
    assert np.array_equal(found, scan.hounsfield[list_written(scan, style)])


def test_slices_that_repeat_or_differ_are_left_out_and_flagged(tmp_path: Path) -> None:
    write_ct(tmp_path, make_scan(), Style())
    paths = sorted(tmp_path.rglob("*.dcm"))
    again, other = pydicom.dcmread(paths[3]), pydicom.dcmread(paths[4])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = again.SOPInstanceUID[:-1]
    again.save_as(paths[3].with_name("again.dcm"))
    other.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]  # coronal
    other.save_as(paths[4])
    volume, _ = read_back(tmp_path)
    assert volume.flags == ("gap", "repeated_slices", "other_geometry")
    assert len(volume.slices) == 17


@pytest.mark.parametrize("segmented", [1, 2])
@pytest.mark.parametrize("seg", ["old", "modern"])
def test_of_doubled_slices_all_are_of_the_acquisition_that_was_segmented(
    tmp_path: Path, segmented: int, seg: str
) -> None:
    scan, style = make_scan(), Style(seg=seg)
    ct, references = write_ct(tmp_path, scan, style)
    uids = {1: references, 2: {}}
    for path in sorted(ct.iterdir()):
        dataset = pydicom.dcmread(path)
        index = next(index for index, uid in references.items() if uid == dataset.SOPInstanceUID)
        twin = f"1.{1 if index % 2 else 9}.{index}"  # sorts before or behind the first acquisition's in turn
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uids[2][index] = twin
        dataset.AcquisitionNumber, dataset.RescaleIntercept = 2, dataset.RescaleIntercept + 50
        dataset.save_as(path.with_name(f"twin-{index}.dcm"))
    write_seg(tmp_path, scan, style, uids[segmented])
    patients, _ = find_patients(tmp_path)
    ((series,), (segmentation,)) = next((files.ct.values(), files.segs) for files in patients.values())
    assert len(series) == 2 * len(references)
    dataset = load_seg(segmentation.path)
    volume = build_volume(series, find_source_instances(dataset))
    assert [header.sop_uid for header in volume.slices] == [uids[segmented][index] for index in sorted(references)]
    assert volume.flags == ("repeated_slices",)
    marked = read_masks(dataset, volume)[0][1]
    shown = {middle + step for middle in marked for step in (-1, 0, 1)}
    for index in shown:
        assert np.array_equal(load_hounsfield(volume, index), scan.hounsfield[index] + 50 * (segmented - 1))
    unnamed = build_volume(series)
    assert {header.acquisition for header in unnamed.slices} == {"1"}, "one of the two, not a mixture"


def vary(folder: Path, change: object) -> tuple:
    """Write a series, change every slice by its number, and read it back."""
    write_ct(folder, make_scan(), Style())
    for number, path in enumerate(sorted(folder.rglob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        change(dataset, number)
        dataset.save_as(path)
    return read_back(folder)[0]


def round_spacing(dataset: pydicom.Dataset, number: int) -> None:
    if number % 2:
        dataset.PixelSpacing = ["1.250001", "1.250001"]


def vary_spacing(dataset: pydicom.Dataset, number: int) -> None:
    dataset.PixelSpacing = [f"{1.25 + number * 1e-6:.8f}", f"{1.25 - number * 1e-6:.8f}"]


def round_direction(dataset: pydicom.Dataset, number: int) -> None:
    small = "0.000049" if number % 2 else "0.000051"  # on both sides of a rounding to four digits
    dataset.ImageOrientationPatient = ["1", small, "0", "0", "1", small]


def repeat_roughly(dataset: pydicom.Dataset, number: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y, f"{float(z) + 0.003 * (number % 3):.3f}"]


@pytest.mark.parametrize("change", [round_spacing, vary_spacing, round_direction, repeat_roughly])
def test_slices_of_one_geometry_are_one_volume_however_it_is_rounded(tmp_path: Path, change: object) -> None:
    volume = vary(tmp_path, change)
    assert len(volume.slices) == 18
    assert not {"other_geometry", "repeated_slices", "gap"} & set(volume.flags)
    assert volume.slice_distance_mm == pytest.approx(2.5, abs=0.01)


def tell_apart(dataset: pydicom.Dataset, number: int) -> None:
    if number % 3 == 0:
        dataset.PixelSpacing = ["1.27", "1.27"]


def test_another_spacing_is_another_geometry(tmp_path: Path) -> None:
    volume = vary(tmp_path, tell_apart)
    assert len(volume.slices) == 12
    assert "other_geometry" in volume.flags


def test_a_second_acquisition_at_nearly_the_same_places_is_a_repetition(tmp_path: Path) -> None:
    write_ct(tmp_path, make_scan(), Style())
    for path in sorted(tmp_path.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, f"{float(z) + 0.01:.3f}"]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID[:-1] + "77"
        dataset.AcquisitionNumber = 2
        dataset.save_as(path.with_name(f"again-{path.name}"))
    volume, _ = read_back(tmp_path)
    assert len(volume.slices) == 18
    assert {header.acquisition for header in volume.slices} == {"1"}
    assert volume.flags == ("repeated_slices",)


def test_positions_find_their_slice_and_no_other(tmp_path: Path) -> None:
    write_ct(tmp_path, make_scan(), Style())
    volume, _ = read_back(tmp_path)
    for index, header in enumerate(volume.slices):
        x, y, z = header.position
        assert volume.find_slice((x + 40, y, z + 0.5)) == index
        assert volume.find_slice((x, y, z + 1.2)) is None


def test_a_codec_that_is_absent_and_spoilt_pixels_name_the_file(tmp_path: Path) -> None:
    write_ct(tmp_path, make_scan(), Style(compressed=True))
    paths = sorted(tmp_path.rglob("*.dcm"))
    absent, spoilt = pydicom.dcmread(paths[0]), pydicom.dcmread(paths[1])
    absent.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    absent.save_as(paths[0])
    spoilt.PixelData = pydicom.encaps.encapsulate([b"\x01" * 80])
    spoilt.save_as(paths[1])
    volume, _ = read_back(tmp_path)
    for index in (len(paths) - 1, len(paths) - 2):
        with raises_naming(DatasetError, volume.slices[index].path, "pixels") as caught:
            load_hounsfield(volume, index)
        assert volume.slices[index].path in paths[:2]
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < len(str(paths[0])) + 400


def test_pydicom_says_which_codec_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLossless)
    monkeypatch.setattr(decoder, "_available", {})  # wherever one is installed
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0", "pylibjpeg-libjpeg>=2.1")})
    write_ct(tmp_path, make_scan(), Style(compressed=True))
    path = min(tmp_path.rglob("*.dcm"))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLossless
    dataset.save_as(path)
    volume, _ = read_back(tmp_path)
    with raises_naming(DatasetError, path, "pixels", "pylibjpeg-libjpeg>=2.1"):
        load_hounsfield(volume, len(volume.slices) - 1)


def test_a_real_ct(real_dicom: Path) -> None:
    patients, excluded = find_patients(real_dicom / "dcmqi" / "ct-3slice")
    assert excluded == []
    ((series,),) = (files.ct.values() for files in patients.values())
    volume = build_volume(series)
    assert volume.flags == ()
    assert volume.spacing_mm == (0.810547, 0.810547)
    assert volume.distances_mm == pytest.approx([-128.690002, -127.690002, -126.690002])
    hounsfield = load_hounsfield(volume, 1)
    assert hounsfield.shape == (512, 512)
    assert hounsfield.min() < -990  # air round the body
    assert 0 < np.median(hounsfield[200:312, 200:312]) < 200  # soft tissue in the middle of it
