"""A CT series as slices in the order of their positions, with Hounsfield units read slice by slice."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.nsclc.dicom_series import Header, find_missing_codec, import_pydicom
from t2m_bench.data.exclusions import Reason, find_remedy
from t2m_bench.errors import DatasetError

SIDEWAYS_MM = 1e-3
SAME_PLACE_MM = 0.05
"""Slices closer than this lie at one place: no CT has thinner ones, and scanners write positions rounded."""

SAME_GRID_PIXELS = 0.25
"""Largest distance, in pixels, between the far corners of two slices of one geometry, by spacing or orientation."""

UNEQUAL_SHARE = 0.05
GAP_FACTOR = 1.5
TILT_DEGREES = 0.1
LONGEST_REASON = 300
"""Characters of what a codec says that a message repeats."""

MATCH_SHARE = 0.25
"""Largest distance between a position and its slice, as a share of the slice spacing."""


@dataclass(frozen=True)
class CtVolume:
    """Slices of one size and orientation, from the lowest to the highest along their normal.

    Attributes:
        slices: one header a slice.
        distances_mm: (slices,) of each slice along the normal.
        normal, row_direction, column_direction: (3,) unit vectors; a row runs along `row_direction`.
        slice_distance_mm: the median step, 1 for a single slice.
        flags: "gap", "unequal_spacing", "gantry_tilt", "repeated_slices", "other_geometry", "monochrome1".
    """

    slices: tuple[Header, ...]
    distances_mm: NDArray[np.float64]
    normal: NDArray[np.float64]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]
    slice_distance_mm: float
    flags: tuple[str, ...]

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Pixel spacing (row, column)."""
        row, column = self.slices[0].spacing_mm or ()
        return row, column

    def find_slice(self, position: Sequence[float]) -> int | None:
        """Return the index of the slice in whose plane a point lies, None where there is none."""
        offsets = np.abs(self.distances_mm - np.dot(position, self.normal))
        index = int(offsets.argmin())
        return index if offsets[index] <= MATCH_SHARE * self.slice_distance_mm else None


class PixelsError(DatasetError):
    """A slice whose pixels cannot be decoded, and why."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


def build_volume(headers: Sequence[Header], named: Set[str] = frozenset()) -> CtVolume:
    """Order a series by position; slices of another size or orientation than most are left out and flagged.

    Args:
        named: SOP instances that a segmentation names; of several slices at one place they, and the acquisition that
            most of them are of, come first.
    """
    kept = _choose_geometry(headers)
    orientation = np.array(kept[0].orientation, dtype=np.float64)
    row_direction, column_direction = orientation[:3], orientation[3:]
    normal = np.cross(row_direction, column_direction)
    normal /= np.linalg.norm(normal)
    slices = _choose_at_places(_group_by_place(kept, normal), named)
    positions = np.array([header.position for header in slices], dtype=np.float64)
    distances = positions @ normal
    steps = np.diff(distances)
    step = float(np.median(steps)) if len(steps) else 1.0
    marks = {
        "gap": bool((steps > GAP_FACTOR * step).any()),
        "unequal_spacing": bool(((np.abs(steps - step) > UNEQUAL_SHARE * step) & (steps <= GAP_FACTOR * step)).any()),
        "gantry_tilt": _is_tilted(slices, positions, steps, normal),
        "repeated_slices": len(slices) < len(kept),
        "other_geometry": len(kept) < len(headers),
        "monochrome1": any(header.inverted for header in slices),
    }
    flags = tuple(name for name, marked in marks.items() if marked)
    return CtVolume(tuple(slices), distances, normal, row_direction, column_direction, step, flags)


def load_hounsfield(volume: CtVolume, index: int) -> NDArray[np.float32]:
    """Return a slice in Hounsfield units, (rows, columns).

    The units come from rescale slope and intercept alone: MONOCHROME1 says how a viewer shows the stored values, not
    what they mean (DICOM PS3.3, C.7.6.3.1.2 and C.11.1), so it inverts nothing here.

    Raises:
        PixelsError: the pixels are damaged, or of a transfer syntax whose codec is not installed.
    """
    header = volume.slices[index]
    path, slope, intercept = header.path, header.slope, header.intercept
    if slope is None or intercept is None:
        raise DatasetError(f"{path}: has no usable rescale slope and intercept, so no Hounsfield units.")
    try:
        stored = np.asarray(import_pydicom().dcmread(path).pixel_array, dtype=np.float32)
        if stored.shape != (header.rows, header.columns):
            raise ValueError(f"they have the shape {stored.shape}")
    except DatasetError:
        raise
    except Exception as error:  # damaged pixels fail in as many ways as there are codecs
        # on one line: pydicom says on the later ones which codecs would help
        reason = shorten(str(error), LONGEST_REASON, placeholder=" ...") or type(error).__name__
        missing = find_missing_codec(volume.slices[index].syntax)
        way_out = f". Run `{find_remedy([missing])}`" if missing else ""
        raise PixelsError(
            f"{path}: the pixels cannot be decoded ({reason}){way_out}", missing or Reason.PIXELS
        ) from None
    hounsfield: NDArray[np.float32] = (stored * slope + intercept).astype(np.float32)
    return hounsfield


def _group_by_place(headers: Sequence[Header], normal: NDArray[np.float64]) -> list[list[Header]]:
    """Return the slices at each place along the normal, from the lowest place up."""
    distances = {header: float(np.dot(header.position or (), normal)) for header in headers}
    places: list[list[Header]] = []
    for header in sorted(headers, key=lambda header: (distances[header], header.sop_uid)):
        if places and distances[header] - distances[places[-1][0]] <= SAME_PLACE_MM:
            places[-1].append(header)
        else:
            places.append([header])
    return places


def _choose_at_places(places: Sequence[Sequence[Header]], named: Set[str]) -> list[Header]:
    """Return a slice a place, all of the acquisition that was segmented where there are several.

    Without this rule neighbours would be of different acquisitions, as their SOP instances happen to sort.
    """
    counts = Counter(header.acquisition for place in places for header in place if header.sop_uid in named)
    usual = min(counts, key=lambda acquisition: (-counts[acquisition], acquisition), default=None)

    def rank(header: Header) -> tuple[bool, bool, str, str]:
        return header.sop_uid not in named, header.acquisition != usual, header.acquisition, header.sop_uid

    return [min(place, key=rank) for place in places]


def _choose_geometry(headers: Sequence[Header]) -> list[Header]:
    """Return the slices of the geometry that most have, the first of several; headers round it in different ways."""
    counts = Counter(_get_geometry(header) for header in headers)
    sizes = np.array([max(rows, columns) for (rows, columns), _ in counts])
    numbers = np.array([values for _, values in counts])  # (geometries, spacing and orientation)
    shapes, weights = np.array([shape for shape, _ in counts]), np.array(list(counts.values()))
    scales = np.concatenate([1 / numbers[:, :2], np.ones((len(numbers), 6))], axis=1)  # spacing as a share of itself
    best: NDArray[np.bool_] = np.zeros(len(counts), dtype=bool)
    for number, shape, size, scale in zip(numbers, shapes, sizes, scales, strict=True):
        moved = np.abs(numbers - number) * scale * size
        is_same = (moved <= SAME_GRID_PIXELS).all(axis=1) & (shapes == shape).all(axis=1)
        if weights[is_same].sum() > weights[best].sum():
            best = is_same
    common = {geometry for geometry, is_same in zip(counts, best, strict=True) if is_same}
    return [header for header in headers if _get_geometry(header) in common]


def _get_geometry(header: Header) -> tuple[tuple[int, int], tuple[float, ...]]:
    """Return (rows, columns), and spacing and orientation."""
    return (header.rows, header.columns), (*(header.spacing_mm or ()), *(header.orientation or ()))


def _is_tilted(
    slices: Sequence[Header], positions: NDArray[np.float64], steps: NDArray[np.float64], normal: NDArray[np.float64]
) -> bool:
    """Return whether the gantry is tilted, by its tag or because slices move sideways from one to the next."""
    if any(abs(header.tilt_degrees) > TILT_DEGREES for header in slices):
        return True
    sideways = np.linalg.norm(np.diff(positions, axis=0) - steps[:, None] * normal, axis=1)
    return bool((sideways > np.tan(np.radians(TILT_DEGREES)) * steps + SIDEWAYS_MM).any())
