"""Square crops around a lesion, for pictures in a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2m_bench.evaluation.conditions import Question
from t2m_bench.files import write_atomically

CROP_SIDE = 160
"""Side of every crop, pixels."""

MARGIN = 0.25
"""Margin of a crop around the box, as a share of the box's longer side."""

MAX_SHOWN = 512
"""Cases of a test fold that have crops: 18 KiB each for image and reference, 0.5 KiB an arm and seed (on lungs)."""


def choose_shown(count: int) -> list[int]:
    """Return the positions of the cases that may be shown: all, or as many evenly spread, not picked by result."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(MAX_SHOWN, count))})


def find_shown(questions: Sequence[Question]) -> dict[str, int]:
    """Return case -> position of its main question, for the cases that pictures show."""
    asked = {q.case.case_id: position for position, q in enumerate(questions) if q.is_main}
    return {list(asked)[place]: list(asked.values())[place] for place in choose_shown(len(asked))}


def cut_out(image: NDArray[np.uint8] | NDArray[np.bool_], box_xyxy: Sequence[int]) -> NDArray[np.uint8]:
    """Return (CROP_SIDE, CROP_SIDE) uint8: the square around a box; a mask's pixels become 0 and 1, outside is 0."""
    x0, y0, x1, y1 = box_xyxy
    half = (0.5 + MARGIN) * max(x1 - x0, y1 - y0)
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    is_mask = image.dtype == bool
    square = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    picture = Image.fromarray(image.astype(np.uint8))
    transform = Image.Transform.EXTENT
    how = Image.Resampling.NEAREST if is_mask else Image.Resampling.BILINEAR
    crop: NDArray[np.uint8] = np.array(picture.transform((CROP_SIDE, CROP_SIDE), transform, square, how))
    return crop


def write_crops(path: Path, crops: Mapping[str, NDArray[np.uint8] | NDArray[np.bool_]]) -> None:
    """Write named crops by atomic rename, to be read without unpickling."""
    with write_atomically(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **dict(crops))
