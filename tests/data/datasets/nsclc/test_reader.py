import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from messages import raises_naming
from PIL import Image
from scans import SEED

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.nsclc.reader import SliceRule, apply_window, choose_slices, read_nsclc
from t2m_bench.data.exclusions import Exclusion, Reason, check_exclusions, count_exclusions
from t2m_bench.data.images import load_annotated, load_image, load_mask
from t2m_bench.data.phantoms.nsclc import draw_patients, draw_scan, write_nsclc_phantom
from t2m_bench.data.phantoms.nsclc_dicom import STYLES, Style, list_written, write_ct, write_scan, write_seg
from t2m_bench.errors import DatasetError

RULE = SliceRule((1500.0, -600.0), 5, 16, 0)
NUM_PATIENTS = 8  # every style once


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nsclc") / "data"
    write_nsclc_phantom(folder, num_cases=NUM_PATIENTS, seed=SEED, text_effect=1.0)
    return folder


@pytest.fixture(scope="module")
def made(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case], list[Exclusion]]:
    out = tmp_path_factory.mktemp("made")
    return out, *read_nsclc(phantom, None, out, RULE)


def test_every_case_is_its_slice_between_its_neighbours(made: tuple[Path, list[Case], list[Exclusion]]) -> None:
    out, cases, _ = made
    assert Counter(case.patient_id for case in cases).most_common()[-1][1] == 5
    for patient, style in zip(draw_patients(SEED, NUM_PATIENTS, False), STYLES, strict=True):
        scan = draw_scan(SEED, patient)
        written = list_written(scan, style)
        truth = scan.masks[written]
        shown = apply_window(scan.hounsfield[written].astype(np.float32), RULE.window_hu)
        found = []
        for case in (case for case in cases if case.patient_id == patient.patient_id):
            mask = load_mask(out, case)
            (index,) = [k for k in range(len(written)) if np.array_equal(truth[k], mask)]
            assert np.array_equal(load_image(out, case), np.stack(shown[index - 1 : index + 2], axis=-1))
            assert np.array_equal(load_annotated(out, case), shown[index])
            assert (case.height, case.width, case.channels, case.spacing_mm) == (128, 128, 3, (1.25, 1.25))
            x0, y0, x1, y1 = case.box_xyxy
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0:y1, [x0, x1 - 1]].any(axis=0).all()
            assert mask[[y0, y1 - 1], x0:x1].any(axis=1).all()
            found.append(index)
        marked = np.flatnonzero(truth.any(axis=(1, 2)))
        runs = np.array_split(marked, 5)
        assert all(index in run for index, run in zip(found, runs, strict=True))


def test_texts_flags_and_sources_are_recorded_and_no_identifier_is_in_a_name(
    made: tuple[Path, list[Case], list[Exclusion]], phantom: Path
) -> None:
    out, cases, excluded = made
    assert [exclusion.reason for exclusion in excluded] == [Reason.NO_IMAGES] * 2
    patients = {patient.patient_id: patient for patient in draw_patients(SEED, NUM_PATIENTS, False)}
    for case in cases:
        patient = patients[case.patient_id]
        stage = "unknown" if case.patient_id.startswith("AMC") else patient.stage
        assert case.text_fields == {"t_stage": stage, "histology": patient.histology.partition(" (")[0]}
        assert (
            pydicom.dcmread(next((phantom / "NSCLC-Radiogenomics" / case.patient_id).glob("*/*/1-02.dcm"))).get(
                "SeriesInstanceUID"
            )
            in case.source
        )
    flags = {case.patient_id: case.flags for case in cases}
    found = [flags[patient_id] for patient_id in patients]
    assert found == [(), (), (), (), ("unequal_spacing",), ("monochrome1",), ("gap",), ("gantry_tilt",)]
    names = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert len(names) == 2 * len(cases)
    assert not any("R01" in name or "AMC" in name for name in names)
    for path in out.rglob("*.png"):
        assert Image.open(path).info == {}


def test_processes_make_what_one_makes(
    made: tuple[Path, list[Case], list[Exclusion]], phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2m_bench.data.datasets.nsclc.reader.WORTH_A_PROCESS", 4)
    monkeypatch.setattr("t2m_bench.data.datasets.nsclc.dicom_series.WORTH_A_PROCESS", 70)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    told = []

    def watch(what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        return nullcontext(lambda done, total: told.append((what, done, total)))

    assert read_nsclc(phantom, None, tmp_path, RULE, watch) == made[1:]
    assert told[-1] == ("patients read", 8, 8)
    assert ("files looked at", 100, 153) in told  # phrase: what is counted, which callers show


def test_the_choice_is_spread_never_too_small_and_apart_for_each_patient() -> None:
    areas = {index: (5 if index % 4 == 0 else 50) for index in range(40)}
    chosen = {seed: choose_slices(areas, replace(RULE, seed=seed), "1.2.3") for seed in range(20)}
    for preferences in chosen.values():
        indices = [run[0] for run in preferences]
        assert len(indices) == 5
        assert all(areas[index] == 50 for index in indices)
        assert all(8 * place <= index < 8 * (place + 1) for place, index in enumerate(indices))
    assert len({tuple(run[0] for run in preferences) for preferences in chosen.values()}) > 15
    assert choose_slices(areas, RULE, "1.2.3") == choose_slices(areas, RULE, "1.2.3")
    assert choose_slices(areas, RULE, "1.2.3") != choose_slices(areas, RULE, "1.2.4")
    assert choose_slices({3: 20, 9: 20}, RULE, "1.2.3") == [[3], [9]]
    assert choose_slices({3: 2}, RULE, "1.2.3") == []


def test_behind_the_drawn_slice_stands_the_rest_of_its_run_nearest_first() -> None:
    areas = dict.fromkeys(range(10, 17), 50)
    drawn = set()
    for seed in range(40):
        ((first, *rest),) = choose_slices(areas, replace(RULE, slices_per_patient=1, seed=seed), "1.2.3")
        assert sorted([first, *rest]) == list(range(10, 17))
        assert [abs(index - first) for index in rest] == sorted(abs(index - first) for index in rest)
        drawn.add(first)
    assert drawn == set(range(10, 17))
    uids = [f"1.2.{number}" for number in range(8)]
    first = [[run[0] for run in choose_slices(areas, replace(RULE, slices_per_patient=2), uid)] for uid in uids]
    as_ever = [[10, 14], [11, 16], [13, 15], [11, 14], [11, 16], [10, 15], [11, 15], [10, 16]]
    assert first == as_ever, "what was drawn before preferences were given"


def test_windows_by_hand() -> None:
    hounsfield = np.array([[-2000, -1350, -600, 150, 900]], dtype=np.float32)
    assert apply_window(hounsfield, (1500.0, -600.0)).tolist() == [[0, 0, 128, 255, 255]]
    assert apply_window(np.array([[-160, 40, 240]], np.float32), (400.0, 40.0)).tolist() == [[0, 128, 255]]


@pytest.fixture
def folder(phantom: Path, tmp_path: Path) -> Path:
    """A copy of the first four patients, to be spoilt."""
    copy = tmp_path / "data"
    for number in range(1, 5):
        name = f"NSCLC-Radiogenomics/R01-{number:03d}"
        shutil.copytree(phantom / name, copy / name)
    shutil.copy(phantom / "clinical_labels.csv", copy)
    return copy


WITHOUT_IMAGES = NUM_PATIENTS + 2 - 4


def list_series(folder: Path, modality: str) -> list[Path]:
    """The first patient's series folders of a kind."""
    found = {path.parent for path in folder.rglob("*.dcm") if pydicom.dcmread(path).Modality == modality}
    return sorted(found)


def scan_of(number: int) -> object:
    return draw_scan(SEED, draw_patients(SEED, number, False)[-1])


def cut_ct_slice(folder: Path) -> None:
    """Truncate a slice in the middle of the first patient's tumour."""
    dataset = pydicom.dcmread(list_series(folder / "NSCLC-Radiogenomics" / "R01-001", "SEG")[0] / "1-1.dcm")
    marked = int(np.flatnonzero(dataset.pixel_array.any(axis=(1, 2)))[4])  # of descending frames, as instances are
    path = list_series(folder / "NSCLC-Radiogenomics" / "R01-001", "CT")[0] / f"1-{marked + 1:02d}.dcm"
    os.truncate(path, path.stat().st_size - 600)


def spoilable(folder: Path) -> list[Path]:
    """The fourth patient's CT slices, which are compressed."""
    return sorted(list_series(folder / "NSCLC-Radiogenomics" / "R01-004", "CT")[0].iterdir())


def spoil_pixels(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\x07" * 90])
    dataset.save_as(path)


def edit_seg(change: Callable[[pydicom.Dataset], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = list_series(folder / "NSCLC-Radiogenomics" / "R01-002", "SEG")[0] / "1-1.dcm"
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)

    return edit


def spoil_seg(*path: str) -> Callable[[Path], None]:
    """Take the element at the end of a path of sequences away from the SEG."""

    def spoil(dataset: pydicom.Dataset) -> None:
        *sequences, last = path
        for sequence in sequences:
            dataset = dataset[sequence].value[0]
        del dataset[last]

    return edit_seg(spoil)


def empty_identification(dataset: pydicom.Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence = [pydicom.Dataset()]


def claim_rows(dataset: pydicom.Dataset) -> None:
    dataset.Rows, dataset.Columns = 100, 100


def cut_position(dataset: pydicom.Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0]


def empty(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = bytes(len(dataset.PixelData))


def mark_two_segments(dataset: pydicom.Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


def shrink(dataset: pydicom.Dataset) -> None:
    frames = np.zeros_like(dataset.pixel_array)
    frames[:, 60, 60:70] = 1
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()


def lift(dataset: pydicom.Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 1000]


def drop_groups(dataset: pydicom.Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence


def add_row(folder: Path) -> None:
    path = folder / "clinical_labels.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row in rows if row["Case ID"] != "R01-003")


def tell_automatic(dataset: pydicom.Dataset) -> None:
    dataset.SegmentSequence[0].SegmentAlgorithmType = "AUTOMATIC"


def tell_labelmap(dataset: pydicom.Dataset) -> None:
    dataset.SegmentationType = "LABELMAP"


def edit_ct(change: Callable[[pydicom.Dataset], None], patient: str = "R01-001") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for path in sorted(list_series(folder / "NSCLC-Radiogenomics" / patient, "CT")[0].iterdir()):
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)

    return edit


def drop_rescale(dataset: pydicom.Dataset) -> None:
    del dataset.RescaleSlope, dataset.RescaleIntercept


def empty_slope(dataset: pydicom.Dataset) -> None:
    dataset.RescaleSlope = None


def strip_preambles(folder: Path) -> None:
    for path in (folder / "NSCLC-Radiogenomics" / "R01-001").rglob("*.dcm"):
        raw = path.read_bytes()
        path.write_bytes(raw[144 + int.from_bytes(raw[140:144], "little") :])


BAD = {
    "CT without rescale tags": (edit_ct(drop_rescale), {Reason.NO_RESCALE: 18, Reason.NO_CT: 1}, -5),
    "CT with an empty slope": (edit_ct(empty_slope), {Reason.NO_RESCALE: 18, Reason.NO_CT: 1}, -5),
    "no preambles": (strip_preambles, {Reason.NO_PREAMBLE: 19, Reason.NO_IMAGES: 1}, -5),
    "SEG of type LABELMAP": (edit_seg(tell_labelmap), {Reason.LABELMAP: 1}, -5),
    "SEG by an algorithm": (edit_seg(tell_automatic), {Reason.AUTOMATIC: 1}, -5),
    "SEG without its CT": (
        lambda folder: shutil.rmtree(list_series(folder / "NSCLC-Radiogenomics" / "R01-001", "CT")[0]),
        {Reason.NO_CT: 1},
        -5,
    ),
    "CT without its SEG": (
        lambda folder: shutil.rmtree(list_series(folder / "NSCLC-Radiogenomics" / "R01-001", "SEG")[0]),
        {Reason.NO_SEG: 1},
        -5,
    ),
    "truncated slice": (cut_ct_slice, {Reason.UNREADABLE: 1}, 0),
    "truncated SEG": (
        lambda folder: os.truncate(list_series(folder / "NSCLC-Radiogenomics" / "R01-001", "SEG")[0] / "1-1.dcm", 3000),
        {Reason.UNREADABLE: 1, Reason.NO_SEG: 1},
        -5,
    ),
    "no DICOM in between": (
        lambda folder: shutil.copy(
            __file__, list_series(folder / "NSCLC-Radiogenomics" / "R01-001", "CT")[0] / "1-99.dcm"
        ),
        {Reason.NOT_DICOM: 1},
        0,
    ),
    "two studies": (
        lambda folder: write_ct(folder / "NSCLC-Radiogenomics", scan_of(1), Style(), study=2),
        {Reason.FURTHER_STUDY: 1},
        0,
    ),
    "two studies with a SEG each": (
        lambda folder: write_scan(folder / "NSCLC-Radiogenomics", scan_of(1), Style(seg="modern"), study=2),
        {Reason.FURTHER_STUDY: 1, Reason.FURTHER_SEG: 1},
        0,
    ),
    "row without images": (
        lambda folder: shutil.rmtree(folder / "NSCLC-Radiogenomics" / "R01-001"),
        {Reason.NO_IMAGES: 1},
        -5,
    ),
    "images without a row": (add_row, {Reason.NO_ROW: 1}, -5),
    "SEG that marks nothing": (edit_seg(empty), {Reason.EMPTY_SEG: 1}, -5),
    "SEG of two segments": (edit_seg(mark_two_segments), {Reason.SEVERAL_SEGMENTS: 1}, -5),
    "SEG of ten pixels": (edit_seg(shrink), {Reason.TOO_SMALL: 1}, -5),
    "SEG elsewhere": (edit_seg(lift), {Reason.NO_FIT: 1}, -5),
    "SEG without groups": (edit_seg(drop_groups), {Reason.BAD_SEG: 1}, -5),
    "SEG without spacing": (
        spoil_seg("SharedFunctionalGroupsSequence", "PixelMeasuresSequence", "PixelSpacing"),
        {Reason.BAD_SEG: 1},
        -5,
    ),
    "SEG without orientation": (
        spoil_seg("SharedFunctionalGroupsSequence", "PlaneOrientationSequence", "ImageOrientationPatient"),
        {Reason.BAD_SEG: 1},
        -5,
    ),
    "SEG of a series without a name": (
        spoil_seg("ReferencedSeriesSequence", "SeriesInstanceUID"),
        {Reason.BAD_SEG: 1},
        -5,
    ),
    "SEG with empty identification": (edit_seg(empty_identification), {Reason.BAD_SEG: 1}, -5),
    "SEG of another size than its pixels": (edit_seg(claim_rows), {Reason.BAD_SEG: 1}, -5),
    "SEG with half a position": (edit_seg(cut_position), {Reason.BAD_SEG: 1}, -5),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_counted_and_stops_no_other(folder: Path, tmp_path: Path, name: str, made: tuple) -> None:
    spoil, reasons, change = BAD[name]
    spoil(folder)
    cases, excluded = read_nsclc(folder, None, tmp_path / "out", RULE)
    counted = Counter(exclusion.reason for exclusion in excluded)
    counted[Reason.NO_IMAGES] -= WITHOUT_IMAGES
    assert +counted == reasons
    assert len(cases) == 4 * 5 + change
    unhurt = {case.image_sha256 for case in cases if case.patient_id not in ("R01-001", "R01-002")}
    assert unhurt <= {case.image_sha256 for case in made[1]}
    with raises_naming(
        DatasetError, *(f"{count} {reason}" for reason, count in count_exclusions(excluded).items()), "there.json"
    ) as caught:
        check_exclusions(excluded, Path("there.json"))
    assert "R01-" not in str(caught.value)


def read_fourth(folder: Path, out: Path) -> tuple[list[Case], Counter]:
    """Return the fourth patient's cases, and the reasons for what was left out."""
    cases, excluded = read_nsclc(folder, None, out, RULE)
    reasons = Counter(exclusion.reason for exclusion in excluded if exclusion.reason != Reason.NO_IMAGES)
    return [case for case in cases if case.patient_id == "R01-004"], reasons


def draw_fourth_masks() -> np.ndarray:
    patients = draw_patients(SEED, NUM_PATIENTS, False)
    return draw_scan(SEED, next(patient for patient in patients if patient.patient_id == "R01-004")).masks


def test_a_slice_that_no_codec_reads_costs_no_case_where_others_can_stand_for_it(
    folder: Path, tmp_path: Path, made: tuple
) -> None:
    before = [case for case in made[1] if case.patient_id == "R01-004"]
    drawn = before[2].source
    path = next(path for path in spoilable(folder) if f"slice {pydicom.dcmread(path).SOPInstanceUID}," in drawn)
    spoil_pixels(path)
    cases, reasons = read_fourth(folder, tmp_path / "out")
    assert reasons == {Reason.PIXELS: 1}
    assert len(cases) == 5
    masks = [load_mask(tmp_path / "out", case) for case in cases]
    uids = [case.source.partition("slice ")[2].partition(",")[0] for case in cases]
    assert pydicom.dcmread(path).SOPInstanceUID not in uids
    truth = draw_fourth_masks()
    runs = np.array_split(np.flatnonzero(truth.any(axis=(1, 2))), 5)
    for mask, run in zip(masks, runs, strict=True):
        assert any(np.array_equal(mask, truth[index]) for index in run), "another slice of the same run"


def test_a_patient_of_whom_no_slice_decodes_is_counted_and_each_file_once(folder: Path, tmp_path: Path) -> None:
    for path in spoilable(folder):
        spoil_pixels(path)
    cases, reasons = read_fourth(folder, tmp_path / "out")
    assert cases == []
    marked = draw_fourth_masks().any(axis=(1, 2)).sum()
    assert reasons == {Reason.PIXELS: marked, Reason.NO_PIXELS: 1}


def test_a_series_with_every_slice_doubled_gives_the_cases_of_the_segmented_acquisition(
    folder: Path, tmp_path: Path, made: tuple
) -> None:
    for number, path in enumerate(spoilable(folder)):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.{9 * (number % 2)}.{number}"
        dataset.AcquisitionNumber, dataset.RescaleIntercept = 0, dataset.RescaleIntercept + 300
        dataset.save_as(path.with_name(f"twin-{number}.dcm"))
    cases, reasons = read_fourth(folder, tmp_path / "out")
    assert reasons == {}
    before = [case for case in made[1] if case.patient_id == "R01-004"]
    assert [case.image_sha256 for case in cases] == [case.image_sha256 for case in before]


def test_a_truncated_slice_leaves_a_gap_and_its_mask_is_not_moved_to_another(folder: Path, tmp_path: Path) -> None:
    cut_ct_slice(folder)
    cases, _ = read_nsclc(folder, None, tmp_path / "out", RULE)
    truth = draw_scan(SEED, draw_patients(SEED, 1, False)[0]).masks
    hurt = [case for case in cases if case.patient_id == "R01-001"]
    beside = [case.case_id for case in hurt if "gap_beside_slice" in case.flags]
    assert len(beside) < len(hurt)
    assert {case.flags[:2] for case in hurt} == {("gap", "marked_slices_missing")}
    for case in hurt:
        assert any(np.array_equal(load_mask(tmp_path / "out", case), mask) for mask in truth)


def forget_series(dataset: pydicom.Dataset) -> None:
    del dataset.ReferencedSeriesSequence


def forget_images(dataset: pydicom.Dataset) -> None:
    forget_series(dataset)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence


def name_another_series(dataset: pydicom.Dataset) -> None:
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


@pytest.mark.parametrize("change", [forget_series, forget_images, name_another_series])
def test_a_seg_finds_its_ct_by_whatever_it_names(folder: Path, tmp_path: Path, made: tuple, change: object) -> None:
    write_ct(folder / "NSCLC-Radiogenomics", scan_of(2), Style(without=(0, 1, 2)), study=2)
    edit_seg(change)(folder)
    cases, excluded = read_nsclc(folder, None, tmp_path / "out", RULE)
    assert [e.reason for e in excluded if e.reason != Reason.NO_IMAGES] == [Reason.FURTHER_STUDY]
    found, before = ([c.source for c in all_of if c.patient_id == "R01-002"] for all_of in (cases, made[1]))
    assert found == before


def test_slices_at_the_ends_and_in_parts_are_flagged(folder: Path, tmp_path: Path) -> None:
    def mark_ends(dataset: pydicom.Dataset) -> None:
        frames = np.zeros_like(dataset.pixel_array)
        frames[[0, 1, 17], 40:50, 40:50] = 1
        frames[0, 60:70, 60:70] = 1
        dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()

    path = list_series(folder / "NSCLC-Radiogenomics" / "R01-001", "SEG")[0] / "1-1.dcm"
    dataset = pydicom.dcmread(path)
    mark_ends(dataset)
    dataset.save_as(path)
    cases, _ = read_nsclc(folder, None, tmp_path / "out", RULE)
    flags = [case.flags for case in cases if case.patient_id == "R01-001"]
    # frames descend: the first frame is the highest slice
    assert flags == [("first_or_last_slice",), (), ("first_or_last_slice", "several_parts")]


def test_of_two_segs_the_newest_is_used(folder: Path, tmp_path: Path) -> None:
    scan = scan_of(1)
    style = Style()
    _, references = write_ct(tmp_path / "unused", scan, style)
    moved = replace(scan, masks=np.roll(scan.masks, 3, axis=2))
    write_seg(folder / "NSCLC-Radiogenomics", moved, style, references, copy=2)
    cases, excluded = read_nsclc(folder, None, tmp_path / "out", RULE)
    assert [e.reason for e in excluded if e.reason != Reason.NO_IMAGES] == [Reason.FURTHER_SEG]
    hurt = [case for case in cases if case.patient_id == "R01-001"]
    assert {case.flags for case in hurt} == {("several_segs",)}
    for case in hurt:
        assert any(np.array_equal(load_mask(tmp_path / "out", case), mask) for mask in moved.masks)


def test_a_folder_without_any_case_gives_what_was_left_out(phantom: Path, tmp_path: Path) -> None:
    shutil.copy(phantom / "clinical_labels.csv", tmp_path)
    cases, excluded = read_nsclc(tmp_path, None, tmp_path / "out", RULE)
    assert cases == []
    assert [exclusion.reason for exclusion in excluded] == [Reason.NO_IMAGES] * 10
