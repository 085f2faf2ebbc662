import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist

from t2m_bench.metrics.floors import predict_box, predict_ellipse
from t2m_bench.metrics.surface import find_edge, measure_surface

SPACING = (0.7, 1.9)


def make_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two blobs that overlap more or less, some of them in parts or at the rim."""
    masks = []
    for _ in range(2):
        x0, y0 = rng.integers(0, 25, 2)
        blob = predict_ellipse(48, 60, (x0, y0, x0 + rng.integers(6, 35), y0 + rng.integers(6, 23)))
        blob |= ndimage.gaussian_filter(rng.random((48, 60)), 2.5) > 0.58
        masks.append(blob)
    return masks[0], masks[1]


def measure_by_brute_force(pred: np.ndarray, ref: np.ndarray, tolerance: float, spacing: tuple[float, float]) -> list:
    edges = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (pred, ref)]
    pairwise = cdist(*edges)
    forth, back = pairwise.min(axis=1), pairwise.min(axis=0)
    both = np.concatenate([forth, back])
    return [max(np.percentile(forth, 95), np.percentile(back, 95)), both.mean(), (both <= tolerance).mean()]


def measure_with_monai(pred: np.ndarray, ref: np.ndarray, tolerance: float, spacing: tuple[float, float]) -> list:
    masks = [torch.from_numpy(mask)[None, None] for mask in (pred, ref)]
    given = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = [
            compute_hausdorff_distance(*masks, percentile=95, **given),
            compute_average_surface_distance(*masks, symmetric=True, **given),
            compute_surface_dice(*masks, [tolerance], **given),
        ]
    return [float(value) for value in found]


@pytest.mark.parametrize("spacing", [(1.0, 1.0), SPACING])
@pytest.mark.parametrize("reference", [measure_by_brute_force, measure_with_monai])
def test_agrees_with_references_of_others(reference, spacing: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        pred, ref = make_pair(rng)
        tolerance = float(rng.uniform(0.5, 4))
        found = measure_surface(pred, ref, [tolerance], spacing)
        ours = [found.hd95, found.assd, *found.surface_dice]
        assert ours == pytest.approx(reference(pred, ref, tolerance, spacing), rel=1e-5, abs=1e-6)


def test_two_pixels_apart_with_uneven_spacing() -> None:
    one, other = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    one[2, 3] = other[4, 6] = True  # two rows of 0.7 and three columns of 1.9 apart
    distance = np.hypot(2 * 0.7, 3 * 1.9)
    found = measure_surface(one, other, [distance - 0.01, distance + 0.01], SPACING)
    assert found.hd95 == pytest.approx(distance)
    assert found.assd == pytest.approx(distance)
    assert found.surface_dice == (0.0, 1.0)


def test_a_square_shifted_by_one_pixel() -> None:
    """Of the 12 edge pixels of a 4 x 4 square, a shift to the right leaves 6 on the other's edge, 6 are 1 px off it."""
    one, other = predict_box(12, 12, (2, 2, 6, 6)), predict_box(12, 12, (3, 2, 7, 6))
    found = measure_surface(one, other, [0.0, 1.0])
    assert found.hd95 == pytest.approx(1.0)
    assert found.assd == pytest.approx(0.5)
    assert found.surface_dice == (0.5, 1.0)


def test_the_directions_are_not_pooled() -> None:
    """A far speck is 10 of the prediction's 110 edge pixels, but under 5 % of both edges' 210."""
    ref = predict_box(60, 120, (2, 2, 28, 28))
    pred = ref.copy()
    pred[50, 100:110] = True
    found = measure_surface(pred, ref, [1.0])
    assert found.surface_dice[0] == pytest.approx(200 / 210)
    assert found.hd95 > np.hypot(50 - 27, 100 - 27)


def test_empty_masks() -> None:
    empty, full = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    both = measure_surface(empty, empty, [1.0, 2.0])
    assert (both.hd95, both.assd, both.surface_dice) == (0.0, 0.0, (1.0, 1.0))
    for pair in ((empty, full), (full, empty)):
        one = measure_surface(*pair, [1.0])
        assert (one.hd95, one.assd, one.surface_dice) == (50.0, 50.0, (0.0,))
        assert measure_surface(*pair, [1.0], SPACING).hd95 == pytest.approx(np.hypot(30 * 0.7, 40 * 1.9))


def test_equal_masks_are_at_no_distance() -> None:
    mask = predict_ellipse(30, 40, (3, 3, 33, 25))
    found = measure_surface(mask, mask, [0.0])
    assert (found.hd95, found.assd, found.surface_dice) == (0.0, 0.0, (1.0,))


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (2, 2), (20, 20)])
def test_the_edge_is_the_mask_without_its_erosion(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).random(shape) > 0.3
    np.testing.assert_array_equal(find_edge(mask), mask & ~ndimage.binary_erosion(mask))
