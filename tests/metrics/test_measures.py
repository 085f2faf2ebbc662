import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plugins import install, write_package

from t2m_bench.metrics.floors import predict_box
from t2m_bench.metrics.measures import is_measured_in_full, list_measured, measure_mask, name_distance_unit

BOX = (10, 10, 40, 50)  # its diagonal is 50
REFERENCE = predict_box(80, 90, BOX)


def test_pixels_are_measured_against_the_boxs_diagonal() -> None:
    """A box one pixel larger on each side: 1 px is 2 % of the diagonal, so only the tolerance of 1 % is missed."""
    measured = measure_mask(predict_box(80, 90, (9, 9, 41, 51)), REFERENCE, BOX, None)
    assert tuple(measured) == list_measured()
    assert measured["box_diagonal"] == 50
    assert measured["hd95"] == pytest.approx(1)
    assert measured["surface_dice_1"] == 0
    assert measured["surface_dice"] > 0.97  # the four corners are sqrt(2) off
    assert measured["surface_dice_5"] == 1
    assert math.isnan(measured["surface_dice_2"])
    assert measured["recall"] == 1
    assert measured["precision"] == pytest.approx(1200 / 1344)
    assert measured["area_error"] == pytest.approx(144 / 1200)


def test_with_a_spacing_distances_are_millimetres() -> None:
    measured = measure_mask(predict_box(80, 90, (9, 9, 41, 51)), REFERENCE, BOX, (1.5, 1.5))
    assert measured["box_diagonal"] == 75
    assert measured["hd95"] == pytest.approx(1.5)
    assert measured["surface_dice"] == 0
    assert measured["surface_dice_2"] > 0.97
    assert all(math.isnan(measured[name]) for name in ("surface_dice_1", "surface_dice_5"))
    assert (name_distance_unit(None), name_distance_unit((1.5, 1.5))) == ("px", "mm")


def test_what_an_empty_mask_leaves_undefined() -> None:
    empty = np.zeros_like(REFERENCE)
    nothing_found = measure_mask(empty, REFERENCE, BOX, None)
    assert math.isnan(nothing_found["precision"])
    assert (nothing_found["recall"], nothing_found["area_error"], nothing_found["pred_empty"]) == (0, -1, 1)
    nothing_there = measure_mask(REFERENCE, empty, BOX, None)
    assert math.isnan(nothing_there["recall"])
    assert math.isnan(nothing_there["area_error"])
    assert (nothing_there["precision"], nothing_there["ref_empty"]) == (0, 1)


def test_only_main_conditions_with_tight_boxes_are_measured_in_full() -> None:
    assert all(is_measured_in_full(name, "tight") for name in ("none", "right", "wrong"))
    assert not is_measured_in_full("right", "jitter_20")
    assert not is_measured_in_full("swap:birads=2", "tight")
    measured = measure_mask(REFERENCE, REFERENCE, BOX, None, in_full=False)
    found = {name for name in list_measured() if not math.isnan(measured[name])}
    assert found == {"dice", "iou", "pred_empty", "ref_empty"}


CENTROID = """
from t2m_bench.metrics.measures import MaskPair
from t2m_bench.recipe.measures import MeasureEntry

AREA = MeasureEntry("area", "more_measures:get_area", "Area", unit="px", high=float("inf"))

def get_area(pair: MaskPair) -> float:
    return float(pair.mask_pred.sum())
"""


def test_a_measure_may_lie_in_one_file_with_its_entry(tmp_path: Path) -> None:
    """A fresh process imports either module first."""
    write_package(tmp_path, "more_measures", CENTROID, {"t2m_bench.measures": "area = more_measures:AREA"})
    code = "import sys; sys.path.insert(0, sys.argv[1]); import {}, t2m_bench.metrics.measures as measures; "
    code += "print([entry.label for entry in measures.MEASURE_TABLE][-1], measures.list_measured()[-3])"
    for first in ("more_measures", "t2m_bench.metrics.measures", "t2m_bench.metrics.results"):
        command = [sys.executable, "-c", code.format(first), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.split() == ["Area", "area"], done.stderr


def test_a_measure_of_another_package_is_computed(tmp_path: Path) -> None:
    with install(tmp_path, "more_measures", CENTROID, {"t2m_bench.measures": "area = more_measures:AREA"}):
        measured = measure_mask(REFERENCE, REFERENCE, BOX, None)
        assert tuple(measured) == list_measured()
        assert measured["area"] == 1200
