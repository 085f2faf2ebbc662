"""Reads DICOM segmentations onto the slices of their CT, by position and never by the order of frames.

In plain pydicom, because files of 2010 to 2015 keep functional groups where today's readers refuse them.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.nsclc.ct_volume import CtVolume
from t2m_bench.data.datasets.nsclc.dicom_series import find_missing_codec, import_pydicom
from t2m_bench.data.exclusions import Reason

GRID_TOLERANCE = 0.25
"""Largest distance, in pixels, between the centres of a segmentation's pixel and its CT pixel."""

PADDING_BITS = 16
"""Fewer than these follow the last frame: up to the next byte, and to an even number of bytes."""

Masks = dict[int, NDArray[np.bool_]]
"""Slice index to mask (rows, columns); only slices on which something is marked."""


class SegError(Exception):
    """A segmentation that gives no masks, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


def load_seg(path: Path) -> Any:
    """Return the DICOM data set of a segmentation.

    Raises:
        SegError: it cannot be read or is none.
    """
    try:
        dataset = import_pydicom().dcmread(path)
        if dataset.get("SegmentationType") == "LABELMAP":
            raise SegError(Reason.LABELMAP)
        frames = dataset.PerFrameFunctionalGroupsSequence
        if len(frames) != int(dataset.NumberOfFrames) or dataset.SegmentationType not in ("BINARY", "FRACTIONAL"):
            raise SegError(Reason.BAD_SEG)
    except (AttributeError, ValueError, EOFError, OSError):
        raise SegError(Reason.BAD_SEG) from None
    return dataset


def find_source_series(dataset: Any) -> list[str]:
    """Return the series that a segmentation says it was made on."""
    return [str(series.SeriesInstanceUID) for series in dataset.get("ReferencedSeriesSequence") or ()]


def find_source_instances(dataset: Any) -> set[str]:
    """Return the slices that a segmentation names, in whichever of the three places it does."""
    named = set()
    for series in dataset.get("ReferencedSeriesSequence") or ():
        named |= {str(item.ReferencedSOPInstanceUID) for item in series.get("ReferencedInstanceSequence") or ()}
    groups = [*_get_shared(dataset), *dataset.PerFrameFunctionalGroupsSequence]
    for group in groups:
        named |= set(_list_sources(group))
    return named


def is_automatic(dataset: Any) -> bool:
    """Return whether no human took part, as in the segmentations that others added to public collections later."""
    kinds = {str(segment.get("SegmentAlgorithmType")) for segment in dataset.get("SegmentSequence") or ()}
    return kinds == {"AUTOMATIC"}


def read_masks(dataset: Any, volume: CtVolume) -> tuple[dict[int, Masks], int]:
    """Return segment number -> masks of the slices that it marks, and how many marked frames lie on no slice.

    Raises:
        SegError: pixels or positions are missing, or the grid is not that of the CT.
    """
    frames = _read_frames(dataset)
    shared = _get_shared(dataset)
    segments: dict[int, Masks] = defaultdict(dict)
    lost = 0
    for group, frame in zip(dataset.PerFrameFunctionalGroupsSequence, frames, strict=True):
        if not frame.any():
            continue
        groups = (group, *shared)
        position = _find_position(groups, volume)
        index = volume.find_slice(position)
        if index is None:
            lost += 1
            continue
        mask = _place(frame, groups, position, volume, index)
        number = _find_segment_number(groups)
        known = segments[number].get(index)
        segments[number][index] = mask if known is None else mask | known
    return dict(segments), lost


def _get_shared(dataset: Any) -> tuple[Any, ...]:
    return tuple(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]


def _get_item(groups: Sequence[Any], sequence: str) -> Any:
    """Return the first item of a sequence, from the frame's own groups or the shared ones; None where absent."""
    for group in groups:
        items = group.get(sequence)
        if items:
            return items[0]
    return None


def _list_sources(group: Any) -> list[str]:
    return [
        str(source.ReferencedSOPInstanceUID)
        for derivation in group.get("DerivationImageSequence") or ()
        for source in derivation.get("SourceImageSequence") or ()
        if "ReferencedSOPInstanceUID" in source
    ]


def _read_frames(dataset: Any) -> NDArray[np.bool_]:
    """Return (frames, rows, columns) bool; a fractional frame is cut at one half.

    Pixels beyond the last frame, which pydicom returns as further frames, belong to none and are cut off.
    """
    num_frames = len(dataset.PerFrameFunctionalGroupsSequence)
    missing = find_missing_codec(str(dataset.file_meta.TransferSyntaxUID))
    if missing is not None:
        raise SegError(missing)
    try:
        frames = np.asarray(dataset.pixel_array).reshape(-1, int(dataset.Rows), int(dataset.Columns))
    except Exception:  # damaged pixels fail in as many ways as there are codecs
        raise SegError(Reason.BAD_SEG) from None
    if len(frames) < num_frames or (len(frames) > num_frames and not _holds_whole_frames(dataset)):
        raise SegError(Reason.BAD_SEG)
    pixels = frames[:num_frames]
    if dataset.SegmentationType == "FRACTIONAL":
        return np.asarray(pixels >= float(dataset.get("MaximumFractionalValue") or 255) / 2)
    return pixels > 0


def _holds_whole_frames(dataset: Any) -> bool:
    """Return whether the pixel data hold whole frames plus padding; otherwise the header states another size."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return True  # each frame stands apart
    frame_bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
    return 8 * len(dataset.PixelData) % frame_bits < PADDING_BITS


def _find_position(groups: Sequence[Any], volume: CtVolume) -> tuple[float, ...]:
    """Return where a frame's first pixel lies: as it says, or where the one slice lies that it was made from."""
    plane = _get_item(groups, "PlanePositionSequence")
    if plane is not None and plane.get("ImagePositionPatient"):
        return tuple(float(value) for value in plane.ImagePositionPatient)
    sources = _list_sources(groups[0])
    places = {header.sop_uid: header.position for header in volume.slices}
    if len(sources) != 1 or places.get(sources[0]) is None:
        raise SegError(Reason.NO_FIT)
    return places[sources[0]] or ()


def _find_segment_number(groups: Sequence[Any]) -> int:
    item = _get_item(groups, "SegmentIdentificationSequence")
    return 1 if item is None else int(item.ReferencedSegmentNumber)


def _place(
    frame: NDArray[np.bool_], groups: Sequence[Any], position: tuple[float, ...], volume: CtVolume, index: int
) -> NDArray[np.bool_]:
    """Return the frame on the grid of a CT slice, turned or cut out as it may be.

    Raises:
        SegError: its pixels do not lie on the slice's pixels.
    """
    header = volume.slices[index]
    plane, measures = _get_item(groups, "PlaneOrientationSequence"), _get_item(groups, "PixelMeasuresSequence")
    orientation = header.orientation if plane is None else plane.ImageOrientationPatient
    spacing = header.spacing_mm if measures is None else measures.PixelSpacing
    along_row, along_column = np.array(orientation, dtype=np.float64).reshape(2, 3)
    row_mm, column_mm = (float(value) for value in spacing or ())
    axes = np.stack([volume.column_direction / volume.spacing_mm[0], volume.row_direction / volume.spacing_mm[1]])
    start = axes @ (np.array(position) - np.array(header.position))  # (row, column) of the frame's first pixel
    down, right = axes @ along_column * row_mm, axes @ along_row * column_mm
    height, width = frame.shape
    turned = max(abs(down[1]) * height, abs(right[0]) * width)
    scaled = max(abs(abs(down[0]) - 1) * height, abs(abs(right[1]) - 1) * width)
    if not (turned <= GRID_TOLERANCE and scaled <= GRID_TOLERANCE):  # so that NaN is refused
        raise SegError(Reason.NO_FIT)
    rows = start[0] + down[0] * np.arange(height)
    columns = start[1] + right[1] * np.arange(width)
    marked_rows, marked_columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    to_rows = round_to_grid(rows[marked_rows], header.rows)
    to_columns = round_to_grid(columns[marked_columns], header.columns)
    mask = np.zeros((header.rows, header.columns), dtype=bool)
    mask[np.ix_(to_rows, to_columns)] = frame[np.ix_(marked_rows, marked_columns)]
    return mask


def round_to_grid(places: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Return the indices, from 0 to size - 1, of places in pixels.

    Raises:
        SegError: one is off the grid by more than GRID_TOLERANCE pixels, outside it, or no number.
    """
    nearest = np.round(places)
    is_on_grid = np.abs(places - nearest).max() <= GRID_TOLERANCE and nearest.min() >= 0 and nearest.max() < size
    if not is_on_grid:  # asked so that NaN is refused
        raise SegError(Reason.NO_FIT)
    return nearest.astype(np.intp)
