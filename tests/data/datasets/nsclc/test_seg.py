from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from scans import make_scan, read_back, read_segment

from t2m_bench.data.datasets.nsclc.ct_volume import build_volume, load_hounsfield
from t2m_bench.data.datasets.nsclc.dicom_series import find_patients, read_header
from t2m_bench.data.datasets.nsclc.seg import (
    SegError,
    find_source_instances,
    find_source_series,
    load_seg,
    read_masks,
    round_to_grid,
)
from t2m_bench.data.exclusions import Reason
from t2m_bench.data.phantoms.nsclc_dicom import Style, list_written, write_scan

STYLES = [
    Style(seg=seg, frames=frames, **oddity)
    for seg in ("old", "modern")
    for frames in ("ascending", "descending", "shuffled")
    for oddity in ({}, {"without": (9,)}, {"nudged": (8,)}, {"tilt_degrees": 12.0}, {"compressed": True, "slope": -1})
]


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_every_marked_voxel_lies_on_its_slice(tmp_path: Path, style: Style) -> None:
    scan = make_scan()
    write_scan(tmp_path, scan, style)
    volume, (seg,) = read_back(tmp_path)
    written = list_written(scan, style)
    truth = scan.masks[written]
    assert truth.any()
    assert not np.array_equal(truth, truth[::-1])  # an upside-down reading would differ
    assert np.array_equal(read_segment(seg, volume), truth)
    dataset = load_seg(seg.path)
    assert find_source_series(dataset) == [volume.slices[0].series_uid]
    assert find_source_instances(dataset) == {header.sop_uid for header in volume.slices}


def edit_frames(path: Path, change: object) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def test_a_frame_without_a_position_is_found_by_its_source_image(tmp_path: Path) -> None:
    scan = make_scan()
    write_scan(tmp_path, scan, Style(seg="modern", frames="shuffled"))

    def drop_positions(dataset: pydicom.Dataset) -> None:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            del group.PlanePositionSequence

    volume, (seg,) = read_back(tmp_path)
    edit_frames(seg.path, drop_positions)
    assert np.array_equal(read_segment(seg, volume), scan.masks)


def test_a_grid_that_is_turned_over_or_cut_out_is_placed_where_it_lies(tmp_path: Path) -> None:
    scan = make_scan()
    write_scan(tmp_path, scan, Style(seg="modern"))
    volume, (seg,) = read_back(tmp_path)

    def turn_and_cut(dataset: pydicom.Dataset) -> None:
        frames = dataset.pixel_array[:, 20:120, 10:125][:, ::-1, :]  # from the last row up
        dataset.Rows, dataset.Columns = frames.shape[1:]
        dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
        dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
            *[1, 0, 0],
            *[0, -1, 0],
        ]
        for group in dataset.PerFrameFunctionalGroupsSequence:
            x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
            group.PlanePositionSequence[0].ImagePositionPatient = [x + 10 * 1.25, y + 119 * 1.25, z]

    edit_frames(seg.path, turn_and_cut)
    assert np.array_equal(read_segment(seg, volume), scan.masks)


def move(distance_mm: float) -> object:
    def change(dataset: pydicom.Dataset) -> None:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
            group.PlanePositionSequence[0].ImagePositionPatient = [x + distance_mm, y, z]

    return change


def scale(dataset: pydicom.Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2.5, 2.5]


def spoil_spacing(dataset: pydicom.Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = ["1.25", "nan"]


@pytest.mark.parametrize("change", [move(0.6), move(300.0), scale, spoil_spacing])
def test_a_grid_that_does_not_fit_is_refused(tmp_path: Path, change: object) -> None:
    write_scan(tmp_path, make_scan(), Style(seg="modern"))
    volume, (seg,) = read_back(tmp_path)
    edit_frames(seg.path, change)
    with pytest.raises(SegError) as caught:
        read_masks(load_seg(seg.path), volume)
    assert caught.value.reason == Reason.NO_FIT


def test_surplus_frames_are_cut_off_and_too_few_are_refused(tmp_path: Path) -> None:
    scan = make_scan()
    write_scan(tmp_path, scan, Style())
    volume, (seg,) = read_back(tmp_path)
    whole = pydicom.dcmread(seg.path).PixelData

    def give(pixels: bytes) -> object:
        return lambda dataset: setattr(dataset, "PixelData", pixels)

    edit_frames(seg.path, give(whole + b"\xff" * (2 * 128 * 128 // 8)))  # two frames, all marked
    assert np.array_equal(read_segment(seg, volume), scan.masks)
    edit_frames(seg.path, give(whole[: -128 * 128 // 8]))
    with pytest.raises(SegError) as caught:
        read_masks(load_seg(seg.path), volume)
    assert caught.value.reason == Reason.BAD_SEG


def test_numbers_that_are_none_lie_on_no_grid() -> None:
    for places in ([1.0, np.nan], [np.inf, 1.0], [np.nan]):
        with pytest.raises(SegError):
            round_to_grid(np.array(places), 128)
    assert round_to_grid(np.array([0.1, 126.9]), 128).tolist() == [0, 127]


def test_marked_frames_on_no_slice_are_counted(tmp_path: Path) -> None:
    scan = make_scan()
    write_scan(tmp_path, scan, Style())
    volume, (seg,) = read_back(tmp_path)
    marked = [index for index in range(len(volume.slices)) if scan.masks[index].any()]
    fewer = build_volume([header for index, header in enumerate(volume.slices) if index != marked[2]])
    segments, lost = read_masks(load_seg(seg.path), fewer)
    assert lost == 1
    assert len(segments[1]) == len(marked) - 1


def test_what_highdicom_writes_is_read_and_what_we_write_highdicom_reads(tmp_path: Path) -> None:
    scan = make_scan()
    write_scan(tmp_path, scan, Style(seg="modern", frames="ascending"))
    volume, (seg,) = read_back(tmp_path)
    by_highdicom = highdicom.seg.segread(str(seg.path))
    written = sorted(index for index in range(len(volume.slices)) if scan.masks[index].any())
    names = [volume.slices[index].sop_uid for index in written]
    read = by_highdicom.get_pixels_by_source_instance(names, combine_segments=True)
    assert np.array_equal(read > 0, scan.masks[written])

    sources = [pydicom.dcmread(header.path) for header in volume.slices]
    code = highdicom.sr.CodedConcept("108369006", "SCT", "Neoplasm")
    description = highdicom.seg.SegmentDescription(
        1, "anything", code, code, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    made = highdicom.seg.Segmentation(
        sources[::-1],
        scan.masks[::-1].astype(np.uint8),
        "BINARY",
        [description],
        highdicom.UID(),
        7,
        highdicom.UID(),
        1,
        "maker",
        "model",
        "1",
        "2",
    )
    made.save_as(seg.path)
    assert np.array_equal(read_segment(seg, volume), scan.masks)


def test_a_real_liver_lies_on_its_ct(real_dicom: Path) -> None:
    patients, _ = find_patients(real_dicom / "dcmqi" / "ct-3slice")
    ((series,),) = (files.ct.values() for files in patients.values())
    volume = build_volume(series)
    dataset = load_seg(real_dicom / "dcmqi" / "liver.dcm")
    assert find_source_series(dataset) == [volume.slices[0].series_uid]
    segments, lost = read_masks(dataset, volume)
    assert (lost, list(segments), sorted(segments[1])) == (0, [1], [0, 1, 2])
    frames = dataset.pixel_array  # stored from the lowest slice up, which happens to be the volume's order
    for index, mask in segments[1].items():
        assert np.array_equal(mask, frames[index] > 0)
        inside = load_hounsfield(volume, index)[mask]
        assert 40 < np.median(inside) < 150  # enhanced liver
        soft, turned = (np.abs(load_hounsfield(volume, index)[m]) < 250 for m in (mask, mask[::-1]))
        assert soft.mean() > 0.95 > turned.mean()


def test_real_overlapping_segments_keep_their_slices(real_dicom: Path) -> None:
    patients, _ = find_patients(real_dicom / "dcmqi" / "ct-3slice")
    ((series,),) = (files.ct.values() for files in patients.values())
    volume = build_volume(series)
    dataset = load_seg(real_dicom / "dcmqi" / "partial_overlaps.dcm")
    segments, lost = read_masks(dataset, volume)
    assert lost == 0
    assert {number: sorted(masks) for number, masks in segments.items()} == {
        1: [1],
        2: [1],
        3: [0, 1, 2],
        4: [0],
        5: [0],
    }
    assert np.array_equal(segments[2][1], dataset.pixel_array[1] > 0)
    assert np.array_equal(segments[3][0], dataset.pixel_array[2] > 0)


@pytest.mark.parametrize("name", ["binary", "binary_fractional", "binary_overlap", "true_fractional"])
def test_real_segs_without_their_ct_do_not_fit_another(real_dicom: Path, name: str) -> None:
    patients, _ = find_patients(real_dicom / "dcmqi" / "ct-3slice")
    ((series,),) = (files.ct.values() for files in patients.values())
    dataset = load_seg(real_dicom / "highdicom" / f"seg_image_ct_{name}.dcm")
    segments, lost = read_masks(dataset, build_volume(series))
    assert segments == {}
    assert lost > 0


def test_a_real_single_frame_lies_on_its_only_slice(real_dicom: Path) -> None:
    patients, _ = find_patients(real_dicom / "highdicom")
    ((series,),) = (files.ct.values() for files in patients.values() if files.ct)
    dataset = load_seg(real_dicom / "highdicom" / "seg_image_ct_binary_single_frame.dcm")
    segments, _ = read_masks(dataset, build_volume(series))
    assert np.array_equal(segments[1][0], dataset.pixel_array > 0)


@pytest.mark.parametrize("name", ["binary", "binary_fractional", "binary_overlap", "true_fractional"])
def test_real_segs_on_slices_where_their_frames_lie(real_dicom: Path, name: str) -> None:
    path = real_dicom / "highdicom" / f"seg_image_ct_{name}.dcm"
    dataset = load_seg(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = tuple(map(float, shared.PlaneOrientationSequence[0].ImageOrientationPatient))
    spacing = tuple(map(float, shared.PixelMeasuresSequence[0].PixelSpacing))
    places = [
        (
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
            tuple(map(float, group.PlanePositionSequence[0].ImagePositionPatient)),
        )
        for group in dataset.PerFrameFunctionalGroupsSequence
    ]
    header = read_header(path)
    headers = [
        replace(header, position=position, orientation=orientation, spacing_mm=spacing, sop_uid=str(position))
        for position in sorted({position for _, position in places}, reverse=True)
    ]
    volume = build_volume(headers)
    segments, lost = read_masks(dataset, volume)
    assert lost == 0
    half = dataset.MaximumFractionalValue / 2 if dataset.SegmentationType == "FRACTIONAL" else 1
    frames = dataset.pixel_array >= half
    for (number, position), frame in zip(places, frames, strict=True):
        index = [header.position for header in volume.slices].index(position)
        assert np.array_equal(segments.get(number, {}).get(index, np.zeros_like(frame)), frame)
    assert frames.any()
