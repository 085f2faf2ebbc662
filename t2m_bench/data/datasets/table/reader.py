"""Makes cases of the rows of a user's own table: reads images and masks and writes 8-bit copies that all else reads."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.table.dicom import is_dicom
from t2m_bench.data.datasets.table.files import Volumes, load_file
from t2m_bench.data.datasets.table.rows import Row
from t2m_bench.data.datasets.table.stored import Intensity, Stored, ValuesError, to_eight_bits
from t2m_bench.data.free_text import TEXT
from t2m_bench.data.image_audit import PixelValues, measure_pixels
from t2m_bench.data.images import (
    compute_image_sha256,
    compute_tight_box,
    cut_mask,
    load_label_file,
    load_mask_file,
    write_png,
)
from t2m_bench.errors import DatasetError

IMAGES, MASKS = "images", "masks"
SAME_AFFINE = 1e-3
"""Largest difference between entries of the affines of an image and its mask."""

SAME_SPACING = 0.01
"""Largest difference between the spacing of the table and the file's, as a share of it."""

MOST_NAMED = 10
"""Values of a mask that a message names."""

Size = tuple[int, int]


@dataclass(frozen=True)
class PixelRule:
    """Rules by which pixels become 8 bits: of Hounsfield units by a window (width, level), of others by `intensity`."""

    intensity: Intensity
    window_hu: tuple[float, float]


@dataclass(frozen=True)
class Made:
    """A case, and its image's values before they became 8 bits."""

    case: Case
    values: PixelValues


def make_cases(
    table: Path, rows: Sequence[Row], out: Path, rule: PixelRule, on_case: Callable[[int, int], None]
) -> list[Made]:
    """Write each lesion's image and mask below `out` as PNG; return the cases in the order of the rows.

    Args:
        table: named in messages. on_case: called with (rows done, rows in all) for progress.

    Raises:
        DatasetError: names the row and the file, what was found and what to do.
    """
    for name in (IMAGES, MASKS):
        (out / name).mkdir(parents=True, exist_ok=True)
    by_file: dict[Path, list[Row]] = defaultdict(list)
    for row in rows:
        by_file[row.image.path].append(row)
    made: dict[int, list[Made]] = {}
    with ThreadPoolExecutor() as pool:
        for found in pool.map(partial(_make_of_file, table, out, rule), by_file.values()):
            made |= found
            on_case(len(made), len(rows))
    return [lesion for row in rows for lesion in made[row.number]]


def _make_of_file(table: Path, out: Path, rule: PixelRule, rows: Sequence[Row]) -> dict[int, list[Made]]:
    volumes = Volumes()
    made = {}
    for row in rows:
        try:
            made[row.number] = _make_of_row(out, rule, row, volumes)
        except DatasetError as error:
            raise DatasetError(f"{table}, row {row.number}: {error}") from None
    return made


def _make_of_row(out: Path, rule: PixelRule, row: Row, volumes: Volumes) -> list[Made]:
    stored = load_file(row.image, volumes)
    try:
        pixels = to_eight_bits(stored, rule.intensity, rule.window_hu)
    except ValuesError as error:
        raise DatasetError(f"{row.image.path}: {error}") from None
    height, width = pixels.shape
    box = row.box_xyxy
    if box is not None and (min(box) < 0 or box[2] > width or box[3] > height):
        raise DatasetError(f"its box {box} reaches outside the image of {width} x {height} px. Correct it.")
    return [
        _make_case(out, row, label, stored, pixels, *_load_lesion(row, label, stored, volumes))
        for label in row.labels or (None,)
    ]


def _load_lesion(
    row: Row, label: int | None, image: Stored, volumes: Volumes
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return the mask of a lesion, and flags.

    Raises:
        DatasetError: it is empty, or does not lie on the image.
    """
    path, size = row.mask.path, image.values.shape
    is_plain = not row.mask.is_volume and not is_dicom(path)
    flags: tuple[str, ...] = ()
    if is_plain and label is None:
        file = load_mask_file(path)
        mask, flags = file.mask, ("mask_cut_at_half",) if file.num_values > 2 else ()
    else:
        stored = Stored(load_label_file(path), "", 8) if is_plain else load_file(row.mask, volumes)
        _check_geometry(row, image, stored)
        mask = cut_mask(path, stored.values)[0] if label is None else stored.values == label
        if label is not None and not mask.any():
            found = ", ".join(f"{value:g}" for value in np.unique(stored.values)[:MOST_NAMED])
            raise DatasetError(f"{path}: has no label {label}; its values are {found}. Correct the label.")
    if mask.shape != size:
        raise DatasetError(
            f"{path}: {_show(mask.shape)} px, but its image is {_show(size)} px. Give both the same size."
        )
    if not mask.any():
        raise DatasetError(f"{path}: the mask is empty, so there is no lesion to box. Remove the row, or exclude it.")
    return mask, flags


def _check_geometry(row: Row, image: Stored, mask: Stored) -> None:
    """Refuse a mask of another slice or another place than its image's."""
    if image.affine is None or mask.affine is None:
        return
    if not np.allclose(image.affine, mask.affine, rtol=0, atol=SAME_AFFINE):
        furthest = float(np.abs(image.affine - mask.affine).max())
        raise DatasetError(
            f"{row.mask.path}: its affine is not that of {row.image.path} (they differ by up to {furthest:g}), so the "
            "mask lies elsewhere. Resample it to its image."
        )
    if image.depth == mask.depth and (row.image.slice_index or 0) != (row.mask.slice_index or 0):
        raise DatasetError(
            f"{row.mask.path}: slice {row.mask.slice_index} is named as the mask of slice {row.image.slice_index}, and "
            "both volumes lie in the same place. Name the same slice of both."
        )


def _show(shape: Sequence[int]) -> str:
    return " x ".join(str(length) for length in reversed(shape))


def _make_case(
    out: Path,
    row: Row,
    label: int | None,
    stored: Stored,
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    flags: tuple[str, ...],
) -> Made:
    suffix = "" if label is None else f"-label-{label}"
    stem = f"row-{row.number:05d}{suffix}"
    image_path, mask_path = Path(IMAGES, f"{stem}.png"), Path(MASKS, f"{stem}.png")
    write_png(out / image_path, pixels)
    write_png(out / mask_path, mask)
    box = row.box_xyxy or compute_tight_box(mask)
    marks = {
        "box_cuts_mask": mask.sum() > mask[box[1] : box[3], box[0] : box[2]].sum(),
        "spacing_disagrees": _disagrees(row.spacing_mm, stored.spacing_mm),
    }
    case = Case(
        case_id=f"{row.case}{suffix}" if row.case else stem,
        patient_id=row.patient_id,
        image_path=image_path,
        mask_path=mask_path,
        height=pixels.shape[0],
        width=pixels.shape[1],
        box_xyxy=box,
        text_fields=row.text_fields,
        fold=row.fold,
        spacing_mm=row.spacing_mm or stored.spacing_mm,
        flags=(*flags, *(name for name, marked in marks.items() if marked)),
        image_sha256=compute_image_sha256(pixels),
        mask_sha256=compute_image_sha256(mask.astype(np.uint8)),
        strata=row.strata,
        source=f"row {row.number}" if TEXT in row.text_fields and row.text else "",
        text=row.text,
        paraphrase=row.paraphrase,
    )
    return Made(case, measure_pixels(stored.values, box, stored.mode, stored.bits))


def _disagrees(stated: tuple[float, float] | None, stored: tuple[float, float] | None) -> bool:
    return bool(stated and stored) and not np.allclose(stated or (), stored or (), rtol=SAME_SPACING, atol=0)
