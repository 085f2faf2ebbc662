import base64
from pathlib import Path

import numpy as np
import pytest
from inspected import STROKE, PageReader, fill_outline, open_picture
from messages import check_names
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.data.images import compute_tight_box
from t2m_bench.data.prompts import load_prompts
from t2m_bench.reporting.inspection import (
    MOST_BYTES,
    MOST_RUNS,
    MOST_SIDE,
    Card,
    Page,
    cut_picture,
    describe_size,
    find_close_up,
    make_card,
    render_page,
    trace_outline,
)

BOOK = load_prompts("birads", "category")


def make_case(height: int, width: int, box: tuple[int, int, int, int], **changes: object) -> Case:
    fields = {"birads": "4"}
    case = Case("case-1", "patient-1", Path("i"), Path("m"), height, width, box, fields, 1, None, (), "", "")
    return Case(**(vars(case) | changes))


def make_square() -> tuple[NDArray[np.uint8], NDArray[np.bool_], Case]:
    image = np.random.default_rng(0).integers(0, 256, (80, 100), np.uint8)
    mask = np.zeros((80, 100), bool)
    mask[20:40, 30:60] = True
    return image, mask, make_case(80, 100, (30, 20, 60, 40))


def test_a_square_is_outlined_by_four_strokes() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    assert set(STROKE.findall(trace_outline(mask))) == {
        ("2", "1", "H", "5"),
        ("2", "3", "H", "5"),
        ("2", "1", "V", "3"),
        ("5", "1", "V", "3"),
    }


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_an_outline_encloses_its_mask_with_holes_specks_and_borders(share: float) -> None:
    mask = np.random.default_rng(1).random((37, 53)) < share
    assert np.array_equal(fill_outline(trace_outline(mask), *mask.shape), mask)


def test_the_outline_of_noise_is_coarser_and_keeps_its_place() -> None:
    mask = np.zeros((600, 600), bool)
    mask[200:, 100:] = np.random.default_rng(2).random((400, 500)) < 0.5
    strokes = STROKE.findall(trace_outline(mask))
    assert 100 < len(strokes) <= MOST_RUNS
    assert min(int(x) for x, *_ in strokes) == 100
    assert min(int(y) for _, y, *_ in strokes) == 200
    assert max(int(end) for *_, way, end in strokes if way == "V") == 600


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ((100, 100, 140, 120), (88, 78, 64, 64)),  # 40 px and 30 % of that on each side
        ((0, 0, 40, 20), (0, 0, 64, 64)),
        ((260, 180, 300, 200), (236, 136, 64, 64)),
        ((10, 10, 290, 60), (0, 0, 300, 200)),
        ((50, 50, 52, 53), (39, 39, 24, 24)),
    ],
)
def test_a_close_up_is_the_lesion_with_surroundings_inside_the_image(
    box: tuple[int, int, int, int], part: tuple[int, int, int, int]
) -> None:
    assert find_close_up(make_case(200, 300, box)) == part


def test_a_close_up_of_an_image_smaller_than_it_is_the_image() -> None:
    assert find_close_up(make_case(9, 11, (3, 3, 6, 6))) == (0, 0, 11, 9)


def decode(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def test_a_picture_holds_its_part_pixel_by_pixel_and_nothing_else() -> None:
    image = np.arange(80 * 100, dtype=np.uint64).astype(np.uint8).reshape(80, 100)
    content = decode(cut_picture(image, (10, 20, 30, 40)).uri)
    assert np.array_equal(open_picture(content), image[20:60, 10:40])
    chunks, place = [], 8
    while place < len(content):
        chunks.append(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_large_picture_becomes_smaller_in_pixels_and_bytes() -> None:
    speckle = np.random.default_rng(3).normal(90, 30, (900, 1200)).clip(0, 255).astype(np.uint8)
    content = decode(cut_picture(speckle, (0, 0, 1200, 900)).uri)
    assert open_picture(content).shape == (MOST_SIDE * 900 // 1200, MOST_SIDE)
    assert len(content) <= MOST_BYTES
    assert b"Exif" not in content


def test_sizes_are_said_across_and_down() -> None:
    _, mask, _ = make_square()
    said = " ".join(describe_size(make_case(80, 100, (30, 20, 60, 40), spacing_mm=(0.5, 2.0)), mask))
    check_names(said, "100 x 80", "2 x 0.5", "30 x 20", "60.0 x 10.0", 600)


def render(*cards: Card, flags: dict[str, tuple[str, ...]] | None = None) -> PageReader:
    cases = [card.case for card in cards]
    return PageReader(render_page(Page("small", "phantoms", 0, "", cases, BOOK, flags or {}), cards, []))


def test_a_card_shows_what_it_was_given() -> None:
    image, mask, case = make_square()
    (shown,) = render(make_card(case, BOOK, ("bbox_disagrees",), image, mask)).shown
    assert shown.name == "case-1"
    assert np.array_equal(fill_outline(shown.outline, *mask.shape), mask)
    assert shown.boxes == {(30, 20, 30, 20)}
    whole, close = shown.pictures
    assert whole[0] == (0, 0, 100, 80)
    assert np.array_equal(open_picture(whole[1]), image)
    x, y, width, height = close[0]
    assert np.array_equal(open_picture(close[1]), image[y : y + height, x : x + width])
    check_names(shown.words, BOOK.sentences("birads", "4", "training")[0], "bbox", "birads")
    assert all(0 < len(label) < 40 for label in shown.labels)


def test_what_a_data_set_says_is_text_and_no_markup() -> None:
    image, mask, case = make_square()
    case = make_case(80, 100, case.box_xyxy, case_id="<script>alert(1)</script>")
    (shown,) = render(make_card(case, BOOK, ("<b>flag</b>",), image, mask)).shown
    assert shown.name == case.case_id
    check_names(shown.words, "<b>flag</b>")


def test_an_empty_mask_and_a_missing_image_are_shown_as_such() -> None:
    image, mask, case = make_square()
    empty, missing = render(
        make_card(case, BOOK, (), image, np.zeros_like(mask)), make_card(case, BOOK, (), None, None, "gone")
    ).shown
    assert empty.outline == ""
    assert len(empty.pictures) == 2
    check_names(missing.words, "gone", BOOK.sentences("birads", "4", "training")[0])
    assert missing.pictures == []


def test_a_lesion_at_the_border_of_a_wide_image_keeps_its_box() -> None:
    mask = np.zeros((50, 400), bool)
    mask[0:9, 380:400] = True
    case = make_case(50, 400, compute_tight_box(mask))
    (shown,) = render(make_card(case, BOOK, (), np.zeros((50, 400), np.uint8), mask)).shown
    (_, close) = shown.pictures
    x, y, width, height = close[0]
    x0, y0, x1, y1 = case.box_xyxy
    assert x <= x0 < x1 <= x + width <= 400
    assert y <= y0 < y1 <= y + height <= 50
