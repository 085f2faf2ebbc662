from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_iou as monai_iou
from monai.metrics.meandice import compute_dice as monai_dice

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.images import load_mask
from t2m_bench.metrics.floors import fit_class_mean_masks, fit_mean_mask, predict_box, predict_ellipse
from t2m_bench.metrics.overlap import compute_dice, compute_iou


def square(x: int, y: int, side: int) -> np.ndarray:
    return predict_box(20, 20, (x, y, x + side, y + side))


def test_a_shifted_square_by_hand() -> None:
    one, other = square(2, 2, 4), square(4, 2, 4)  # 16 pixels each, 8 shared
    assert compute_dice(one, other) == pytest.approx(0.5)
    assert compute_iou(one, other) == pytest.approx(1 / 3)


def test_empty_masks() -> None:
    empty, full = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    assert (compute_dice(empty, empty), compute_iou(empty, empty)) == (1.0, 1.0)
    assert (compute_dice(empty, full), compute_iou(full, empty)) == (0.0, 0.0)


def test_overlap_agrees_with_monai() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        pred, ref = rng.random((12, 15)) > rng.random(), rng.random((12, 15)) > 0.5
        tensors = [torch.from_numpy(mask)[None, None].float() for mask in (pred, ref)]
        assert compute_dice(pred, ref) == pytest.approx(float(monai_dice(*tensors)), abs=1e-6)
        assert compute_iou(pred, ref) == pytest.approx(float(monai_iou(*tensors)), abs=1e-6)


def test_the_ellipse_fills_its_box_as_an_ellipse_does() -> None:
    box = (10, 20, 210, 120)
    ellipse = predict_ellipse(150, 230, box)
    assert not (ellipse & ~predict_box(150, 230, box)).any()
    assert ellipse.sum() == pytest.approx(np.pi * 100 * 50, rel=0.005)


def test_the_mean_mask_returns_a_shape_that_all_share() -> None:
    crops = [predict_ellipse(height, width, (0, 0, width, height)) for height, width in ((40, 60), (80, 50), (64, 64))]
    predicted = fit_mean_mask(crops).predict(100, 100, (10, 20, 70, 60))
    assert compute_dice(predicted, predict_ellipse(100, 100, (10, 20, 70, 60))) > 0.97


def test_classes_keep_their_own_shape_and_an_unseen_class_gets_the_mean() -> None:
    full, round_ = np.ones((50, 50), bool), predict_ellipse(50, 50, (0, 0, 50, 50))
    masks = fit_class_mean_masks([full, full, round_], ["2", "2", "5"], ["2", "4", "5"])
    assert masks["2"].predict(50, 50, (0, 0, 50, 50)).all()
    assert compute_dice(masks["5"].predict(50, 50, (0, 0, 50, 50)), round_) > 0.98
    np.testing.assert_array_equal(masks["4"].mean, fit_mean_mask([full, full, round_]).mean)


def test_floors_of_the_real_folder_are_near_the_published_data_sets(bus_bra_dev: Path) -> None:
    """All 1,875 images give 0.8205 for the box and 0.8946 for the ellipse; these are 1,492 of them."""
    cases = read_bus_bra(bus_bra_dev)
    floors: dict[str, list[float]] = {"box": [], "ellipse": []}
    for case in cases:
        ref, place = load_mask(bus_bra_dev, case), (case.height, case.width, case.box_xyxy)
        floors["box"].append(compute_dice(predict_box(*place), ref))
        floors["ellipse"].append(compute_dice(predict_ellipse(*place), ref))
    assert np.mean(floors["box"]) == pytest.approx(0.8205, abs=0.004)
    assert np.mean(floors["ellipse"]) == pytest.approx(0.8946, abs=0.004)
