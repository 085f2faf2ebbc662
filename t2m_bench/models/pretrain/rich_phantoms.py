"""Richer ultrasound phantoms for training the mini model, so that it carries over to images it never saw.

Unlike the benchmark's phantoms these show the lesion's outline, and vary what differs between scanners and breasts:
layers, septa, depth gain, speckle grain, echo inside, margins, shadow or enhancement behind, other dark structures.
Levels are in decibels until the last step, as in a scanner's log compression. One image is 256x256 pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIDE = 256
FloatImage = NDArray[np.float32]

MEDIAN_BOX_WIDTH, MEDIAN_BOX_HEIGHT = 0.40, 0.20
"""Lesion size as shares of the image's sides; medians of BUS-BRA's official folds 1 to 3 are (0.40, 0.20)."""
BOX_SIZE_LOG_SD = 0.42


@dataclass(frozen=True)
class RichPhantom:
    """One image (256, 256) uint8 and its reference mask (256, 256) bool, never empty."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw_rich_phantom(rng: np.random.Generator) -> RichPhantom:
    """Draw tissue, a lesion whose outline shows, and the scanner's look."""
    mask = draw_lesion_mask(rng)
    level_db = draw_tissue_db(rng)
    level_db = add_lesion_db(rng, level_db, mask)
    image = render_ultrasound(rng, level_db)
    add_marks(rng, image, mask)
    return RichPhantom(image, mask)


def draw_smooth_field(rng: np.random.Generator, scale_y: float, scale_x: float) -> FloatImage:
    """Smooth noise of mean 0 and standard deviation 1 with structures of about (scale_y, scale_x) pixels."""
    rows, columns = (int(np.ceil(SIDE / scale)) + 3 for scale in (scale_y, scale_x))
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    crop = (1.0, 1.0, 1.0 + SIDE / scale_x, 1.0 + SIDE / scale_y)
    resized = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=crop)
    field = np.asarray(resized, dtype=np.float32)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6))


def draw_lesion_mask(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw one connected lesion without holes: oval, lobulated, angular or spiculated, tilted or not."""
    while True:
        mask = _draw_mask_once(rng)
        if mask.sum() >= 150 and not (mask[[0, -1]].any() or mask[:, [0, -1]].any()):
            return mask


def _draw_mask_once(rng: np.random.Generator) -> NDArray[np.bool_]:
    common = rng.normal(0.0, BOX_SIZE_LOG_SD)  # wide lesions tend to be high ones
    own = rng.normal(0.0, BOX_SIZE_LOG_SD, 2) * 0.6
    half_width = SIDE / 2 * np.clip(MEDIAN_BOX_WIDTH * np.exp(0.8 * common + own[0]), 0.12, 0.92)
    half_height = SIDE / 2 * np.clip(MEDIAN_BOX_HEIGHT * np.exp(0.8 * common + own[1]), 0.07, 0.60)
    center_x = SIDE * rng.normal(0.49, 0.07)
    center_y = max(SIDE * (0.31 + rng.normal(0.0, 0.11)), half_height + 8)
    tilt = np.radians(rng.normal(0.0, 14.0))
    exponent = float(np.exp(rng.normal(np.log(2.0), 0.18)))
    if rng.random() < 0.15:  # the benchmark's shapes, here in plain sight
        exponent, tilt = float(rng.uniform(0.9, 6.0)), 0.0
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    x, y = x + 0.5 - center_x, y + 0.5 - center_y
    u = ((x * np.cos(tilt) + y * np.sin(tilt)) / half_width).astype(np.float32)
    v = ((-x * np.sin(tilt) + y * np.cos(tilt)) / half_height).astype(np.float32)
    radius = (np.abs(u) ** exponent + np.abs(v) ** exponent) ** (1 / exponent)
    outline = _draw_outline_radius(rng, np.arctan2(v, u))
    roughness = rng.uniform(0.0, 0.11) * draw_smooth_field(rng, *rng.uniform(8.0, 24.0, 2))
    inside = radius < outline * (1 + roughness)
    labels, _ = ndimage.label(inside)
    at = labels[int(np.clip(center_y, 0, SIDE - 1)), int(np.clip(center_x, 0, SIDE - 1))]
    if at == 0:
        return np.zeros((SIDE, SIDE), dtype=bool)
    return np.asarray(ndimage.binary_fill_holes(labels == at), dtype=bool)


def _draw_outline_radius(rng: np.random.Generator, theta: FloatImage) -> FloatImage:
    """Radius about 1 for each angle: low harmonics for lobes, and for some lesions narrow peaks for spicules."""
    outline = np.ones_like(theta)
    unevenness = float(np.exp(rng.normal(np.log(0.07), 0.7)))
    for order in range(2, 8):
        amplitude = np.float32(rng.normal(0.0, unevenness / order**0.8))
        outline += amplitude * np.cos(order * theta + np.float32(rng.uniform(0, 2 * np.pi)))
    if rng.random() < 0.15:
        for _ in range(int(rng.integers(3, 11))):
            distance = np.angle(np.exp(1j * (theta - np.float32(rng.uniform(-np.pi, np.pi)))))
            width = rng.uniform(0.06, 0.20)
            outline += np.float32(rng.uniform(0.08, 0.35)) * np.exp(-((distance / width) ** 2)).astype(np.float32)
    return np.asarray(np.clip(outline, 0.35, 2.0))


def draw_tissue_db(rng: np.random.Generator) -> FloatImage:
    """Draw the echo level of a breast without its lesion, in decibels about 0; (256, 256)."""
    depth = np.linspace(0.0, 1.0, SIDE, dtype=np.float32)[:, None]
    rows = np.arange(SIDE, dtype=np.float32)
    profile = draw_smooth_field(rng, rng.uniform(14.0, 50.0), 400.0)[:, 0]
    warped = rows[:, None] + rng.uniform(2.0, 14.0) * draw_smooth_field(rng, 70.0, 70.0)
    layers = np.interp(warped, rows, profile).astype(np.float32)
    level = rng.uniform(1.5, 6.0) * layers
    level += rng.uniform(1.0, 4.0) * draw_smooth_field(rng, rng.uniform(6.0, 22.0), rng.uniform(16.0, 70.0))
    level += rng.uniform(0.5, 2.5) * draw_smooth_field(rng, rng.uniform(4.0, 9.0), rng.uniform(6.0, 18.0))
    if rng.random() < 0.6:  # fascia and muscle: thin bright lines, nearly level
        lines = draw_smooth_field(rng, rng.uniform(5.0, 12.0), rng.uniform(70.0, 200.0))
        level += (
            rng.uniform(2.0, 9.0) * np.clip(lines - rng.uniform(0.3, 1.3), 0.0, 1.5) * (depth > rng.uniform(0, 0.7))
        )
    septa = draw_smooth_field(rng, rng.uniform(10.0, 26.0), rng.uniform(30.0, 90.0))
    level += rng.uniform(0.0, 9.0) * np.exp(-((septa / rng.uniform(0.06, 0.22)) ** 2))
    level -= rng.uniform(-3.0, 30.0) * np.clip(depth - rng.uniform(0.0, 0.7), 0.0, 1.0)
    level += rng.uniform(0.0, 9.0) * np.exp(-depth / rng.uniform(0.02, 0.10))  # skin
    for _ in range(int(rng.poisson(1.8))):
        level -= rng.uniform(2.0, 12.0) * _draw_distractor(rng)
    if rng.random() < 0.4:  # shadow of poor contact, or a lateral fall of gain
        level += rng.uniform(1.0, 5.0) * draw_smooth_field(rng, 600.0, rng.uniform(25.0, 120.0))
    return level.astype(np.float32)


def _draw_distractor(rng: np.random.Generator) -> FloatImage:
    """Another dark structure (fat lobule, duct, rib), 1 inside and soft at its edge."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    tilt = rng.normal(0.0, 0.25)
    x, y = x - rng.uniform(0.0, 1.0), y - rng.uniform(0.05, 1.0)
    u = (x * np.cos(tilt) + y * np.sin(tilt)) / rng.uniform(0.05, 0.28)
    v = (-x * np.sin(tilt) + y * np.cos(tilt)) / rng.uniform(0.03, 0.12)
    distance = np.sqrt(u**2 + v**2) + rng.uniform(0.0, 0.2) * draw_smooth_field(rng, 14.0, 20.0)
    return np.asarray(1 / (1 + np.exp((distance - 1) * rng.uniform(4.0, 16.0))), dtype=np.float32)


def add_lesion_db(rng: np.random.Generator, level_db: FloatImage, mask: NDArray[np.bool_]) -> FloatImage:
    """Put the lesion into the tissue: its level, margin (sharp to indistinct, uneven around it), rim and shadow."""
    solid = mask.astype(np.float32)
    sharp = ndimage.gaussian_filter(solid, rng.uniform(0.5, 1.8))
    soft = ndimage.gaussian_filter(solid, rng.uniform(2.0, 6.5))
    indistinct = 1 / (1 + np.exp(-2.5 * (draw_smooth_field(rng, 45.0, 45.0) - rng.normal(0.8, 0.9))))
    lesion = sharp * (1 - indistinct) + soft * indistinct
    surround = ndimage.gaussian_filter(level_db, 20.0)
    contrast = -float(np.exp(rng.normal(np.log(9.0), 0.5)))
    inner = draw_smooth_field(rng, rng.uniform(5.0, 22.0), rng.uniform(8.0, 30.0)) * rng.uniform(0.3, 3.5)
    if rng.random() < 0.12:  # a cyst: next to no echo
        contrast, inner = contrast - rng.uniform(8.0, 20.0), inner * 0.3
    shown = float(rng.uniform(0.0, 0.35))  # how much of the tissue's own pattern goes on inside
    level = level_db * (1 - lesion * (1 - shown)) + lesion * ((1 - shown) * surround + contrast + inner)
    if rng.random() < 0.35:
        rim = np.clip(ndimage.gaussian_filter(solid, rng.uniform(2.5, 6.0)) * 2, 0, 1) * (1 - sharp)
        level = level + rng.uniform(1.0, 7.0) * rim
    behind = np.maximum.accumulate(solid, axis=0) - solid
    behind = ndimage.gaussian_filter(behind, (3.0, rng.uniform(2.0, 8.0))) * (1 - lesion)
    rows = np.arange(SIDE, dtype=np.float32)[:, None]
    decay = np.exp(-np.clip(rows - np.nonzero(mask)[0].max(), 0, None) / rng.uniform(20.0, 120.0))
    shaded: FloatImage = (level + rng.normal(-1.0, 6.0) * behind * decay).astype(np.float32)
    return shaded


def render_ultrasound(rng: np.random.Generator, level_db: FloatImage) -> NDArray[np.uint8]:
    """Add speckle, compress to grey levels and finish as scanners do; (256, 256) uint8."""
    parts = rng.standard_normal((2, SIDE, SIDE), dtype=np.float32)
    grain = (rng.uniform(0.45, 1.1), rng.uniform(0.6, 3.2))
    real, imaginary = (ndimage.gaussian_filter(part, grain) for part in parts)
    amplitude = np.hypot(real, imaginary)
    speckle_db = 20 * np.log10(amplitude / amplitude.mean() + 1e-3)
    total_db = level_db + rng.uniform(0.35, 1.0) * speckle_db
    grey = rng.uniform(0.25, 0.60) + total_db / rng.uniform(38.0, 70.0)
    grey = np.clip(grey, 0.0, 1.0) ** rng.uniform(0.75, 1.7)
    if rng.random() < 0.6:
        grey = ndimage.gaussian_filter(grey, rng.uniform(0.2, 0.9))
    if rng.random() < 0.1:  # a frame wider than the sector
        margin = int(rng.integers(5, 40))
        grey[:, :margin] = 0.0
        grey[:, SIDE - margin :] = 0.0
    pixels: NDArray[np.uint8] = np.round(255 * np.clip(grey, 0.0, 1.0)).astype(np.uint8)
    return pixels


def add_marks(rng: np.random.Generator, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """Burn in, as scanners do, what is not tissue: calipers about the lesion and strokes like letters; in place."""
    bright = int(rng.integers(140, 256))
    if rng.random() < 0.5:
        rows, columns = np.nonzero(mask)
        middle_y, middle_x = int(rows.mean()), int(columns.mean())
        ends = [(middle_y, columns.min()), (middle_y, columns.max()), (rows.min(), middle_x), (rows.max(), middle_x)]
        for y, x in ends[: 2 * int(rng.integers(1, 3))]:
            _draw_cross(image, int(y + rng.normal(0, 3)), int(x + rng.normal(0, 3)), int(rng.integers(1, 4)), bright)
    for _ in range(int(rng.poisson(0.8))):  # a line of text
        y, x = int(rng.integers(SIDE // 2, SIDE - 8)), int(rng.integers(0, SIDE - 60))
        height, width = int(rng.integers(4, 8)), int(rng.integers(15, 100))
        strokes = rng.random((height, width)) < 0.35
        patch = image[y : y + height, x : x + width]
        patch[strokes[: patch.shape[0], : patch.shape[1]]] = bright


def _draw_cross(image: NDArray[np.uint8], y: int, x: int, arm: int, value: int) -> None:
    top, left = max(y - arm, 0), max(x - arm, 0)
    if 0 <= y < SIDE and 0 <= x < SIDE:
        image[top : y + arm + 1, x] = value
        image[y, left : x + arm + 1] = value
