"""Reads NSCLC-Radiogenomics' DICOM and clinical table into cases: one annotated CT slice between its two neighbours.

Rule of choice: the slices on which at least `min_pixels` are marked, in the order of their positions, are cut into
`slices_per_patient` runs of equal length and one slice is drawn from each; a patient with fewer gives all of them.
Where a drawn slice or a neighbour of it cannot be decoded, the nearest of its run takes its place.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.nsclc.clinical import find_clinical_table, read_clinical
from t2m_bench.data.datasets.nsclc.ct_volume import GAP_FACTOR, CtVolume, PixelsError, build_volume, load_hounsfield
from t2m_bench.data.datasets.nsclc.dicom_series import (
    CT,
    Header,
    PatientFiles,
    find_missing_codec,
    find_patients,
    name_syntax,
)
from t2m_bench.data.datasets.nsclc.seg import (
    Masks,
    SegError,
    find_source_instances,
    find_source_series,
    is_automatic,
    load_seg,
    read_masks,
)
from t2m_bench.data.exclusions import Exclusion, Reason, find_remedy
from t2m_bench.data.image_audit import PixelValues, measure_pixels
from t2m_bench.data.images import compute_image_sha256, compute_tight_box, write_png
from t2m_bench.data.parallel import map_items
from t2m_bench.errors import DatasetError

WINDOWS_HU = {"lung": (1500.0, -600.0), "mediastinal": (400.0, 40.0)}
"""(width, level): MedSAM's documentation for the chest, and its script for CT (pre_CT_MR.py)."""

IMAGES, MASKS = "slices", "masks"
WORTH_A_PROCESS = 8
"""Patients read in some seconds by one process."""

Advance = Callable[[int, int], None]
OnValues = Callable[[str, PixelValues], None]
Watch = Callable[[str], AbstractContextManager[Advance]]
"""Shows how far a piece of work is: named, then called with (done, in all)."""


@dataclass(frozen=True)
class SliceRule:
    """Rules by which slices become cases and are windowed.

    Attributes:
        window_hu: (width, level) that becomes 0 to 255.
        slices_per_patient, min_pixels, seed: of the rule above; the draw of a patient depends on no other patient.
    """

    window_hu: tuple[float, float]
    slices_per_patient: int
    min_pixels: int
    seed: int

    def describe(self) -> str:
        """Return the rule in words, for the audit."""
        width, level = self.window_hu
        return (
            f"window W{width:g} L{level:g}; of the slices with at least {self.min_pixels} marked pixels up to "
            f"{self.slices_per_patient} a patient, one drawn from each of as many equal runs along the tumour, "
            f"seed {self.seed}, or the nearest of its run where it cannot be decoded; "
            "each between its two neighbours as channels"
        )


@dataclass(frozen=True)
class Patient:
    """Input of a process that makes one patient's cases; `number` stands for the identifier in file names."""

    number: int
    patient_id: str
    files: PatientFiles
    text_fields: dict[str, str]


@dataclass(frozen=True)
class _Source:
    """The segmentation that is used, on its CT."""

    volume: CtVolume
    masks: Masks
    seg: Header
    flags: tuple[str, ...]


def unwatched(what: str) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda done, total: None)


def read_nsclc(
    root: Path,
    clinical: Path | None,
    out: Path,
    rule: SliceRule,
    watch: Watch = unwatched,
    on_values: OnValues = lambda case_id, values: None,
) -> tuple[list[Case], list[Exclusion]]:
    """Make the cases of a folder as TCIA or IDC delivers it; their images and masks are written below `out` as PNG.

    Args:
        clinical: the clinical table; None looks for it in `root`.
        on_values: called with each case's id and the values of its slice before windowing.

    Returns:
        The cases, maybe none, and what was left out.

    Raises:
        DatasetError: no clinical table, a folder that cannot be read, or pydicom or the codec of all images is not
            installed.
    """
    fields = read_clinical(clinical or find_clinical_table(root))
    with watch("files looked at") as advance:
        found, excluded = find_patients(root, advance)
    names = sorted(found.keys() & fields.keys())
    excluded += [Exclusion(Reason.NO_ROW, name) for name in sorted(found.keys() - fields.keys())]
    excluded += [Exclusion(Reason.NO_IMAGES, name) for name in sorted(fields.keys() - found.keys())]
    patients = [Patient(number, name, found[name], fields[name]) for number, name in enumerate(names, start=1)]
    _check_codecs(root, patients)
    for folder in (IMAGES, MASKS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    cases: list[Case] = []
    with watch("patients read") as advance:
        for done, made in enumerate(map_items(partial(make_cases, out, rule), patients, WORTH_A_PROCESS), start=1):
            cases += made[0]
            excluded += made[1]
            for case, values in zip(made[0], made[2], strict=True):
                on_values(case.case_id, values)
            advance(done, len(patients))
    return cases, excluded


def _check_codecs(root: Path, patients: Sequence[Patient]) -> None:
    """Refuse a folder of which no CT slice can be decoded: no patient needs to be read to know it.

    Raises:
        DatasetError: names the transfer syntaxes, and the command that installs what decodes them.
    """
    slices = Counter(header.syntax for patient in patients for series in patient.files.ct.values() for header in series)
    missing = [find_missing_codec(syntax) for syntax in slices]
    reasons = [reason for reason in missing if reason is not None]
    if slices and len(reasons) == len(slices):
        names = ", ".join(f"{count} in {name_syntax(syntax)}" for syntax, count in slices.items())
        raise DatasetError(
            f"{root}: no installed codec decodes any of its CT slices ({names}). Run `{find_remedy(reasons)}`, then "
            "this command again."
        )


def make_cases(out: Path, rule: SliceRule, patient: Patient) -> tuple[list[Case], list[Exclusion], list[PixelValues]]:
    """Write the chosen slices of one patient; return their cases, what was left out, and each case's CT values."""
    source, excluded = _find_source(patient)
    if source is None:
        return [], excluded, []
    areas = {index: int(mask.sum()) for index, mask in source.masks.items()}
    chosen = choose_slices(areas, rule, source.volume.slices[0].series_uid)
    if not chosen:
        return [], [*excluded, Exclusion(Reason.TOO_SMALL, patient.patient_id)], []
    cases: list[Case] = []
    values: list[PixelValues] = []
    damaged: dict[str, Reason] = {}  # a damaged file spoils its neighbours' cases too, and is counted once
    for place, indices in enumerate(chosen, start=1):
        for index in indices:
            try:
                case, found = _make_case(out, rule, patient, source, index, f"ct-{patient.number:04d}-{place}")
            except DatasetError as error:
                damaged[str(error)] = error.reason if isinstance(error, PixelsError) else Reason.PIXELS
                continue
            cases.append(case)
            values.append(found)
            break
    excluded += [Exclusion(reason, what) for what, reason in damaged.items()]
    if not cases:
        excluded.append(Exclusion(Reason.NO_PIXELS, patient.patient_id))
    return cases, excluded, values


def choose_slices(areas: dict[int, int], rule: SliceRule, series_uid: str) -> list[list[int]]:
    """Return for each case its slices in order of preference: the drawn one, then the rest of its run, nearest first.

    The cases stand in the order of their positions.

    Args:
        areas: slice -> marked pixels.
    """
    marked = sorted(index for index, area in areas.items() if area >= rule.min_pixels)
    digest = hashlib.sha256(series_uid.encode()).digest()
    rng = np.random.default_rng([rule.seed, int.from_bytes(digest[:8], "big")])
    runs = np.array_split(np.array(marked, dtype=int), min(rule.slices_per_patient, len(marked)) or 1)
    return [_sort_by_distance(run.tolist(), int(rng.choice(run))) for run in runs if len(run)]


def _sort_by_distance(indices: list[int], start: int) -> list[int]:
    return sorted(indices, key=lambda index: (abs(index - start), index))


def apply_window(hounsfield: NDArray[np.float32], window_hu: tuple[float, float]) -> NDArray[np.uint8]:
    """Return 0 at the window's lower end, 255 at its upper end, cut off beyond."""
    width, level = window_hu
    share = (hounsfield - (level - width / 2)) / width
    pixels: NDArray[np.uint8] = np.round(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)
    return pixels


def _find_source(patient: Patient) -> tuple[_Source | None, list[Exclusion]]:
    """Return the newest segmentation of the patient that can be used, and what was left out."""
    files, excluded = patient.files, []
    used: _Source | None = None
    if files.ct and not files.segs:
        excluded.append(Exclusion(Reason.NO_SEG, patient.patient_id))
    for seg in sorted(files.segs, key=lambda header: (header.written, header.sop_uid), reverse=True):
        if used is not None:
            excluded.append(Exclusion(Reason.FURTHER_SEG, str(seg.path)))
            continue
        try:
            used = _open_source(files, seg)
        except SegError as error:
            excluded.append(Exclusion(error.reason, str(seg.path)))
        except Exception:  # whatever a malformed file does to its reading: it is counted, and the others go on
            excluded.append(Exclusion(Reason.BAD_SEG, str(seg.path)))
    if used is not None:
        studies = {series[0].study_uid for series in files.ct.values()} - {used.volume.slices[0].study_uid}
        excluded += [Exclusion(Reason.FURTHER_STUDY, f"{patient.patient_id} {study}") for study in sorted(studies)]
    return used, excluded


def _open_source(files: PatientFiles, seg: Header) -> _Source:
    dataset = load_seg(seg.path)
    if is_automatic(dataset):
        raise SegError(Reason.AUTOMATIC)
    volume = build_volume(_find_series(files, seg, dataset), find_source_instances(dataset))
    segments, lost = read_masks(dataset, volume)
    if not segments:
        raise SegError(Reason.NO_FIT if lost else Reason.EMPTY_SEG)
    if len(segments) > 1:
        raise SegError(Reason.SEVERAL_SEGMENTS)
    (masks,) = segments.values()
    marks = {"marked_slices_missing": lost > 0, "several_segs": len(files.segs) > 1}
    return _Source(volume, masks, seg, tuple(name for name, marked in marks.items() if marked))


def _find_series(files: PatientFiles, seg: Header, dataset: Any) -> list[Header]:
    """Return the CT series that a segmentation names, else the one with slices it names, else the largest of its frame.

    Raises:
        SegError: none of them is there.
    """
    for uid in find_source_series(dataset):
        if uid in files.ct:
            return files.ct[uid]
    instances = find_source_instances(dataset)
    candidates = sorted(files.ct.values(), key=len, reverse=True)
    for series in candidates:
        if any(header.sop_uid in instances for header in series):
            return series
    for series in candidates:
        if seg.frame_of_reference and series[0].frame_of_reference == seg.frame_of_reference:
            return series
    raise SegError(Reason.NO_CT)


def _make_case(
    out: Path, rule: SliceRule, patient: Patient, source: _Source, index: int, case_id: str
) -> tuple[Case, PixelValues]:
    volume, mask = source.volume, source.masks[index]
    neighbours = (max(index - 1, 0), index, min(index + 1, len(volume.slices) - 1))
    hounsfield = [load_hounsfield(volume, i) for i in neighbours]
    image = np.stack([apply_window(slice_, rule.window_hu) for slice_ in hounsfield], axis=-1)
    image_path, mask_path = Path(IMAGES, f"{case_id}.png"), Path(MASKS, f"{case_id}.png")
    write_png(out / image_path, image)
    write_png(out / mask_path, mask)
    height, width = mask.shape
    header, box = volume.slices[index], compute_tight_box(mask)
    case = Case(
        case_id=case_id,
        patient_id=patient.patient_id,
        image_path=image_path,
        mask_path=mask_path,
        height=height,
        width=width,
        box_xyxy=box,
        text_fields=patient.text_fields,
        fold=None,
        spacing_mm=volume.spacing_mm,
        flags=(*volume.flags, *source.flags, *_find_flags(volume, mask, index)),
        image_sha256=compute_image_sha256(image),
        mask_sha256=compute_image_sha256(mask.astype(np.uint8)),
        channels=len(neighbours),
        source=f"CT series {header.series_uid}, slice {header.sop_uid}, SEG {source.seg.sop_uid}",
    )
    return case, measure_pixels(hounsfield[1], box, CT, header.bits)


def _find_flags(volume: CtVolume, mask: NDArray[np.bool_], index: int) -> Sequence[str]:
    steps = np.diff(volume.distances_mm)[max(index - 1, 0) : index + 1]
    marks = {
        "first_or_last_slice": len(steps) < 2,  # it stands for the neighbour that it lacks
        "gap_beside_slice": bool((steps > GAP_FACTOR * volume.slice_distance_mm).any()),
        "several_parts": ndimage.label(mask, structure=np.ones((3, 3)))[1] > 1,
    }
    return [name for name, marked in marks.items() if marked]
