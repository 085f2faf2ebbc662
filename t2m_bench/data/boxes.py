"""Boxes other than the tight one: those of an evaluation, drawn once for every arm and seed, and those of training."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.recipe.schema import BOX_NAME, TIGHT

DRAW_SEED = 20
"""Seed of the box draws. It is independent of training seeds, so that all trainings share the boxes."""

FloatBox = tuple[float, float, float, float]
Boxes = Mapping[str, Mapping[str, FloatBox]]
"""Box name -> case_id -> box."""


def draw_boxes(cases: Sequence[Case], names: Sequence[str]) -> dict[str, dict[str, FloatBox]]:
    """Return box name -> case_id -> (x0, y0, x1, y1) in original pixels, inside the image.

    `jitter_P` moves each side by a uniform share of the box's size up to P percent, in or out; `loose_P` moves each
    side P percent outward; `shift_P` moves the box by P percent of its width and of its height, to a drawn corner.

    Args:
        cases: of the whole data set in the order of the manifest: a draw belongs to a case's place in it.
    """
    return {
        name: {case.case_id: draw_box(case, name, position) for position, case in enumerate(cases)} for name in names
    }


def draw_box(case: Case, name: str, position: int) -> FloatBox:
    """Return the box of one case; `position` seeds its draw."""
    x0, y0, x1, y1 = case.box_xyxy
    found = BOX_NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no box")
    size = np.array([x1 - x0, y1 - y0] * 2, dtype=np.float64)
    if name == TIGHT:
        moves = np.zeros(4)
    else:
        how, percent = found[1], int(found[2])
        rng = np.random.default_rng([DRAW_SEED, position])  # of any P, so that P alone differs
        shares = {
            "jitter": rng.uniform(-1.0, 1.0, 4),
            "loose": np.array([-1.0, -1.0, 1.0, 1.0]),
            "shift": np.tile(rng.choice([-1.0, 1.0], 2), 2),
        }
        moves = size * shares[how] * percent / 100.0
    moved = np.clip(np.array(case.box_xyxy) + moves, 0, [case.width, case.height] * 2)
    return (float(moved[0]), float(moved[1]), float(moved[2]), float(moved[3]))


def round_box(box: FloatBox) -> tuple[int, int, int, int]:
    """Return whole pixels, at least one in each direction."""
    x0, y0, x1, y1 = (round(value) for value in box)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def jitter_box(
    box_xyxy: NDArray[np.float32], share: float, extent: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Move each side of a box (4,) by up to a share of the box's width or height, in or out, inside the image.

    Args:
        extent: (x, y) where the image ends in the encoder's input: with padding it covers less than the square.
    """
    x0, y0, x1, y1 = box_xyxy
    size = np.array([x1 - x0, y1 - y0] * 2, dtype=np.float32)
    moved = box_xyxy + size * rng.uniform(-share, share, 4).astype(np.float32)
    inside: NDArray[np.float32] = np.clip(moved, 0, np.tile(extent, 2)).astype(np.float32)
    return inside
