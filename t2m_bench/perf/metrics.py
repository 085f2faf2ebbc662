"""HD95, ASSD and surface Dice of predicted masks: MONAI's three functions, ours, and a full search alone."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree

from t2m_bench.errors import UserError
from t2m_bench.metrics.floors import predict_ellipse
from t2m_bench.metrics.surface import Mask, SurfaceMeasures, find_edge, measure_surface
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, measure

HEIGHT, WIDTH = 400, 470
"""Image size in pixels, that of most images of BUS-BRA."""

NUM_PAIRS, REPEATS = 16, 5
TOLERANCE = 3.0


@dataclass(frozen=True)
class Pair:
    """A predicted and a reference mask, (H, W)."""

    pred: Mask
    ref: Mask


def measure_metrics(device: str, num_pairs: int = NUM_PAIRS, repeats: int = REPEATS) -> Measurement:
    """Measure the three on pairs of ellipses; both ways take masks from memory, on the CPU.

    Raises:
        UserError: MONAI is not installed, or another device is asked for.
        AssertionError: the two ways do not give the same values; then no time means anything.
    """
    if device != "cpu":
        raise UserError(f"perf metrics: --device {device}: masks are measured on the CPU. Leave --device out.")
    pairs = make_pairs(num_pairs, np.random.default_rng(0))
    edges = [(np.argwhere(find_edge(pair.pred)), np.argwhere(find_edge(pair.ref))) for pair in pairs]
    run_monai = _prepare_monai(pairs)

    def run_ours() -> list[SurfaceMeasures]:
        return [measure_surface(pair.pred, pair.ref, [TOLERANCE]) for pair in pairs]

    def run_limit() -> None:
        for pred, ref in edges:
            KDTree(ref).query(pred)
            KDTree(pred).query(ref)

    ours = [(found.hd95, found.assd, *found.surface_dice) for found in run_ours()]
    np.testing.assert_allclose(ours, run_monai(), rtol=1e-5, atol=1e-5)
    return measure(
        "metrics",
        f"{num_pairs} pairs of {HEIGHT}x{WIDTH} masks, one process",
        {
            (PLAIN, "MONAI's Hausdorff distance, average surface distance and surface Dice"): run_monai,
            (OURS, "one crop, one search for all three"): run_ours,
            (LIMIT, "full search over edges that are known, alone"): run_limit,
        },
        repeats,
    )


def make_pairs(count: int, rng: np.random.Generator) -> list[Pair]:
    """Return ellipses whose outlines differ by some pixels, as predictions and references do."""
    pairs = []
    for _ in range(count):
        x0, y0 = rng.integers(20, 150, 2)
        width, height = rng.integers(80, 220, 2)
        box = np.array([x0, y0, x0 + width, y0 + height])
        masks = [predict_ellipse(HEIGHT, WIDTH, tuple((box + rng.integers(-6, 7, 4)).tolist())) for _ in range(2)]
        pairs.append(Pair(*masks))
    return pairs


def _prepare_monai(pairs: list[Pair]) -> Callable[[], list[tuple[float, ...]]]:
    try:
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
        from monai.metrics.surface_dice import compute_surface_dice
        from monai.metrics.surface_distance import compute_average_surface_distance
    except ImportError:
        raise UserError("perf metrics compares with MONAI, which is not installed: pip install monai") from None
    tensors = [(torch.from_numpy(pair.pred)[None, None], torch.from_numpy(pair.ref)[None, None]) for pair in pairs]

    def run() -> list[tuple[float, ...]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return [
                (
                    float(compute_hausdorff_distance(*pair, include_background=True, percentile=95)),
                    float(compute_average_surface_distance(*pair, include_background=True, symmetric=True)),
                    float(compute_surface_dice(*pair, [TOLERANCE], include_background=True)),
                )
                for pair in tensors
            ]

    return run
