from pathlib import Path

import numpy as np
import pytest

from t2m_bench.data.boxes import draw_box, draw_boxes, round_box
from t2m_bench.data.case import Case


def make_case(number: int, box: tuple[int, int, int, int] = (40, 30, 60, 70)) -> Case:
    path = Path("x.png")
    return Case(f"case-{number}", f"p{number}", path, path, 100, 200, box, {}, 1, None, (), "", "")


def test_loose_and_shifted_boxes_by_hand() -> None:
    assert draw_box(make_case(0), "tight", 0) == (40, 30, 60, 70)
    assert draw_box(make_case(0), "loose_10", 0) == (38, 26, 62, 74)
    corners = {draw_box(make_case(0), "shift_25", place) for place in range(40)}
    assert corners == {(40 + x, 30 + y, 60 + x, 70 + y) for x in (-5, 5) for y in (-10, 10)}


def test_jitter_stays_within_its_share_and_depends_on_the_place_alone() -> None:
    drawn = np.array([draw_box(make_case(0), "jitter_20", place) for place in range(300)])
    moved = (drawn - [40, 30, 60, 70]) / [20, 40, 20, 40]
    assert np.abs(moved).max() <= 0.2
    assert np.abs(moved).max() > 0.19
    assert np.abs(moved.mean(axis=0)).max() < 0.03
    cases = [make_case(number) for number in range(5)]
    boxes = draw_boxes(cases, ["jitter_20", "jitter_10"])
    assert boxes["jitter_20"]["case-3"] == draw_box(make_case(9), "jitter_20", 3)
    assert len(set(boxes["jitter_20"].values())) == 5
    half = np.mean([boxes["jitter_20"]["case-3"], (40, 30, 60, 70)], axis=0)
    assert boxes["jitter_10"]["case-3"] == pytest.approx(half), "P alone tells two jitters of a case apart"


def test_boxes_stay_inside_the_image() -> None:
    assert draw_box(make_case(0, (0, 0, 200, 100)), "loose_50", 0) == (0, 0, 200, 100)


def test_whole_pixels() -> None:
    assert round_box((1.4, 2.6, 1.4, 9.5)) == (1, 3, 2, 10)
