import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2m_bench.data.frame import Frame
from t2m_bench.recipe.encoders import Fit

SIDES = st.integers(1, 3000)


@st.composite
def draw_image_and_box(draw: st.DrawFn) -> tuple[int, int, tuple[float, float, float, float]]:
    height, width = draw(SIDES), draw(SIDES)
    x0, x1 = sorted(draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    y0, y1 = sorted(draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    return height, width, (x0, y0, x1, y1)


FRAMES = [Frame(256, 16), Frame(1024, 64), Frame(256, 64, "pad"), Frame(1024, 64, "pad")]


@pytest.mark.parametrize("frame", FRAMES)
@given(drawn=draw_image_and_box())
def test_a_box_comes_back_within_half_a_pixel(
    frame: Frame, drawn: tuple[int, int, tuple[float, float, float, float]]
) -> None:
    height, width, box = drawn
    back = frame.restore_box(frame.scale_box(box, height, width).tolist(), height, width)
    assert np.abs(back - np.array(box)).max() <= 0.5


@pytest.mark.parametrize("frame", FRAMES)
@given(drawn=draw_image_and_box())
def test_a_box_inside_the_image_lies_inside_the_part_of_the_input_that_shows_it(
    frame: Frame, drawn: tuple[int, int, tuple[float, float, float, float]]
) -> None:
    height, width, box = drawn
    rows, columns = frame.fit_image(height, width)
    x0, y0, x1, y1 = frame.scale_box(box, height, width).tolist()
    tolerance = 0.5 + 1e-3  # rows and columns are whole pixels
    assert 0 <= x0 <= x1 <= columns + tolerance
    assert 0 <= y0 <= y1 <= rows + tolerance
    assert max(x1, y1) <= frame.input_size * (1 + 1e-6)


@given(height=SIDES, width=SIDES)
def test_padding_keeps_the_aspect_and_fills_the_longest_side(height: int, width: int) -> None:
    rows, columns = Frame(256, 64, "pad").fit_image(height, width)
    assert max(rows, columns) == 256
    assert rows >= 1
    assert columns >= 1
    scale = 256 / max(height, width)
    assert abs(max(rows, 1) - max(height * scale, 1)) <= 0.5
    assert abs(max(columns, 1) - max(width * scale, 1)) <= 0.5


@pytest.mark.parametrize(
    ("fit", "image", "part", "box"),
    [  # 200 x 100 (H x W) into 256: the longest side by 1.28; 100 * 1.28 = 128
        ("pad", (200, 100), (256, 128), [12.8, 25.6, 64.0, 128.0]),
        ("stretch", (200, 100), (256, 256), [25.6, 25.6, 128.0, 128.0]),
        ("pad", (100, 200), (128, 256), [12.8, 25.6, 64.0, 128.0]),
    ],
)
def test_cases_worked_out_by_hand(fit: Fit, image: tuple[int, int], part: tuple[int, int], box: list[float]) -> None:
    frame = Frame(256, 64, fit)
    assert frame.fit_image(*image) == part
    assert frame.scale_box((10, 20, 50, 100), *image).tolist() == pytest.approx(box)


def test_half_pixels_are_rounded_up() -> None:
    assert Frame(256, 64, "pad").fit_image(512, 101) == (256, 51)  # 101 / 2 = 50.5
    assert Frame(256, 64, "pad").fit_image(512, 1) == (256, 1)


@pytest.mark.parametrize("side", [256, 1024])
@given(drawn=draw_image_and_box())
def test_a_stretched_frame_gives_the_boxes_of_before_bit_for_bit(
    side: int, drawn: tuple[int, int, tuple[float, float, float, float]]
) -> None:
    height, width, box = drawn
    expected = (np.array(box) * np.array([side / width, side / height] * 2)).astype(np.float32)  # as runs had them
    found = Frame(side, side // 16).scale_box(box, height, width)
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


def test_low_resolution_follows_the_grid_and_not_the_input() -> None:
    assert Frame(256, 64, "pad").low_res_size == 256
    assert Frame(256, 16).low_res_size == 64
    assert Frame(1024, 64).low_res_size == 256


def test_a_frame_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="0 px"):
        Frame(0, 16)
