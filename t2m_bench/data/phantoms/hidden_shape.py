"""Outlines whose fill of their box is hidden: for every class the box is the same, and so is all that an image shows.

What only the text knows must change neither the box nor the image. So a hidden class chooses how far a lesion fills its
box (the exponent of a superellipse), a cross of three pixels makes the tight box the same for every class, and images
are drawn from the mean over all classes. The text tells the class with a chosen probability: the effect to find.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_HARMONICS = 4
OUTLINE_SD = 0.06
CROSS_PX = 3


@dataclass(frozen=True)
class Outline:
    """A lesion's frame and unevenness, the same for every class.

    Attributes:
        height, width: of the image, pixels.
        box_xyxy: tight box, half open, pixels.
        amplitudes, phases: (4,) each, of the harmonics of theta that make the outline uneven.
    """

    height: int
    width: int
    box_xyxy: tuple[int, int, int, int]
    amplitudes: NDArray[np.float64]
    phases: NDArray[np.float64]


def draw_unevenness(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the amplitudes and phases, (4,) each, of an outline's unevenness."""
    order = np.arange(1, NUM_HARMONICS + 1)
    return rng.normal(0.0, OUTLINE_SD / order), rng.uniform(0.0, 2.0 * np.pi, NUM_HARMONICS)


def draw_mask(outline: Outline, exponent: float, bulge: float = 0.0) -> NDArray[np.bool_]:
    """Fill the superellipse of this exponent inside the outline's box; returns (H, W).

    The factor sin^2(2 theta) keeps the unevenness off the axes, and the cross reaches all four sides, so the tight box
    of the result is the outline's box for every exponent.

    Args:
        bulge: how far the outline stands out between the axes, as a share of the box's half size; negative is in.
    """
    x0, y0, x1, y1 = outline.box_xyxy
    u = ((np.arange(x0, x1) + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)).astype(np.float32)
    v = ((np.arange(y0, y1) + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)).astype(np.float32)
    theta = np.arctan2(v[:, None], u[None, :])
    unevenness = np.full_like(theta, bulge)
    for order, (amplitude, phase) in enumerate(zip(outline.amplitudes, outline.phases, strict=True), start=1):
        unevenness += np.float32(amplitude) * np.cos(order * theta + np.float32(phase))
    unevenness *= np.sin(2 * theta) ** 2
    radius = (np.abs(u)[None, :] ** exponent + np.abs(v)[:, None] ** exponent) ** (1 / exponent)
    mask = np.zeros((outline.height, outline.width), dtype=bool)
    mask[y0:y1, x0:x1] = radius <= 1 + unevenness
    middle_x, middle_y = (x0 + x1) // 2, (y0 + y1) // 2
    half = CROSS_PX // 2
    mask[y0:y1, middle_x - half : middle_x + half + 1] = True
    mask[middle_y - half : middle_y + half + 1, x0:x1] = True
    return mask


def draw_texts(
    rng: np.random.Generator, hidden_classes: Sequence[str], prior: Sequence[str], text_effect: float
) -> list[str]:
    """Each patient's text: the hidden class with probability `text_effect`, else an independent draw of the prior."""
    tells = rng.random(len(hidden_classes)) < text_effect
    other = rng.choice(list(prior), len(hidden_classes))
    return [hidden if tell else str(drawn) for hidden, tell, drawn in zip(hidden_classes, tells, other, strict=True)]
