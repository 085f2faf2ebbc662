"""The page of `inspect`: two pictures of each case with mask and box drawn on them, and its text, in one HTML file."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2m_bench.data.case import Case
from t2m_bench.data.free_text import FreeTextBook
from t2m_bench.data.prompts import UNKNOWN, PromptBook
from t2m_bench.reporting.rendering import render, to_data_uri

SURROUNDING = 0.3
"""Margin of a close-up on each side of the box, as a share of the box's longer side."""

LEAST_SIDE = 24
"""Pixels that a close-up is wide at least, so that a lesion of a few pixels has surroundings too."""

MOST_SIDE = 512
"""Pixels of a picture's longer side on the page; larger ones are resampled."""

MOST_BYTES = 75_000
"""Most bytes of a PNG: a larger one becomes a JPEG, so that two pictures of 24 cases stay below 5 MB as text."""

MOST_RUNS = 8_000
"""Straight strokes of an outline; a mask of more is noise, of which every second pixel is drawn, or every fourth."""

JPEG_QUALITIES = (90, 75, 60, 40)
"""The best that is small enough is taken, or the last."""


@dataclass(frozen=True)
class Picture:
    """A part of an image, as an address that holds it.

    Attributes:
        x, y, width, height: the part, in pixels of the image.
        is_coarse: whether its pixels are shown larger than they are, and are better left as squares.
    """

    uri: str
    x: int
    y: int
    width: int
    height: int
    is_coarse: bool


@dataclass(frozen=True)
class Card:
    """Content of the page for one case.

    Attributes:
        whole, close: the image, and the lesion with some surrounding; None where `problem` says why there are none.
        outline: of the mask, as the path of an SVG in pixels of the image.
        facts: sizes and spacing in words.
        texts: (field, value, sentence) of each text field.
        problem: why the case cannot be shown; empty where it can.
    """

    case: Case
    flags: tuple[str, ...]
    facts: tuple[str, ...]
    texts: tuple[tuple[str, str, str], ...]
    whole: Picture | None = None
    close: Picture | None = None
    outline: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Page:
    """Content of the page beside the cards.

    Attributes:
        name: of the recipe. kind: what people call the data set. selection: how its cases were chosen, or empty.
        flags: case_id -> flags, of all cases that have some.
    """

    name: str
    kind: str
    seed: int
    selection: str
    cases: Sequence[Case]
    book: PromptBook | FreeTextBook
    flags: Mapping[str, tuple[str, ...]]


def make_card(
    case: Case,
    book: PromptBook | FreeTextBook,
    flags: tuple[str, ...],
    image: NDArray[np.uint8] | None,
    mask: NDArray[np.bool_] | None,
    problem: str = "",
) -> Card:
    """Draw a case; without an image or a mask the card says why.

    Args:
        case: under its pseudonym.
        image, mask: (H, W) of the case's own size.
    """
    facts, texts = describe_size(case, mask), list_texts(case, book)
    if image is None or mask is None:
        return Card(case, flags, facts, texts, problem=problem)
    whole = cut_picture(image, (0, 0, case.width, case.height))
    close = cut_picture(image, find_close_up(case))
    return Card(case, flags, facts, texts, whole, close, trace_outline(mask))


def render_page(page: Page, drawn: Sequence[Card], flagged: Sequence[Card]) -> str:
    """Return the HTML of the page.

    Args:
        drawn: the cases that chance chose. flagged: those with flags that are not among them.
    """
    values = {field: Counter(case.text_fields[field] for case in page.cases) for field in page.book.fields}
    content = {
        "page": page,
        "drawn": drawn,
        "flagged": flagged,
        "num_cases": len(page.cases),
        "num_flagged": len(page.flags),
        "flags": sorted(Counter(flag for flags in page.flags.values() for flag in flags).items()),
        "classes": [
            (
                field,
                value,
                values[field][value],
                page.book.sentences(field, value, "training"),
                page.book.sentences(field, value, "held_out"),
            )
            for field in page.book.fields
            for value in (*page.book.classes(field), UNKNOWN)
        ],
    }
    return render("inspect.html.j2", content, {"in_words": in_words})


def in_words(name: str) -> str:
    """Return the name of a flag or a field as words."""
    return name.replace("_", " ")


def list_texts(case: Case, book: PromptBook | FreeTextBook) -> tuple[tuple[str, str, str], ...]:
    """Return (field, value, sentence) of each text field; of free text its length, and no word of it."""
    return book.describe(case.text_fields)


def describe_size(case: Case, mask: NDArray[np.bool_] | None) -> tuple[str, ...]:
    """Return the sizes of image, box and mask in words."""
    x0, y0, x1, y1 = case.box_xyxy
    width, height = x1 - x0, y1 - y0
    if case.spacing_mm is None:
        spacing, measured = "pixel size not recorded", ""
    else:
        row_mm, column_mm = case.spacing_mm
        spacing = f"pixels of {column_mm:.3g} x {row_mm:.3g} mm"
        measured = f" = {width * column_mm:.1f} x {height * row_mm:.1f} mm"
    facts = [f"image {case.width} x {case.height} px, {spacing}", f"box {width} x {height} px{measured}"]
    if mask is not None:
        area = int(mask.sum())
        facts.append(
            f"mask {area:,} px: {area / max(width * height, 1):.0%} of the box, {area / mask.size:.1%} of the image"
        )
    return tuple(facts)


def find_close_up(case: Case) -> tuple[int, int, int, int]:
    """Return (x, y, width, height) around the box: a square, moved into the image or cut where it is larger."""
    x0, y0, x1, y1 = case.box_xyxy
    side = max(round((1 + 2 * SURROUNDING) * max(x1 - x0, y1 - y0)), LEAST_SIDE)
    width, height = min(side, case.width), min(side, case.height)
    x, y = (x0 + x1 - width) // 2, (y0 + y1 - height) // 2
    return min(max(x, 0), case.width - width), min(max(y, 0), case.height - height), width, height


def cut_picture(image: NDArray[np.uint8], part: tuple[int, int, int, int]) -> Picture:
    """Return a part (x, y, width, height) of an image; the picture holds pixels alone, nothing of the source's file."""
    x, y, width, height = part
    picture = Image.fromarray(np.ascontiguousarray(image[y : y + height, x : x + width]))
    picture.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
    return Picture(_encode(picture), *part, is_coarse=max(width, height) < MOST_SIDE // 4)


def _encode(picture: Image.Image) -> str:
    """Return a grey picture as PNG, or as JPEG where that is too large."""
    encoded = _save(picture, "png")
    if len(encoded) <= MOST_BYTES:
        return to_data_uri(encoded, "png")
    for quality in JPEG_QUALITIES:
        encoded = _save(picture, "jpeg", quality)
        if len(encoded) <= MOST_BYTES:
            break
    return to_data_uri(encoded, "jpeg")


def _save(picture: Image.Image, kind: str, quality: int = 0) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, optimize=True, **({"quality": quality} if quality else {}))
    return stream.getvalue()


def trace_outline(mask: NDArray[np.bool_]) -> str:
    """Return an SVG path along the edges of a mask's pixels, (H, W): a stroke for each straight run, holes included."""
    step = 1
    while len(strokes := _list_strokes(mask[::step, ::step], step)) > MOST_RUNS:
        step *= 2
    return "".join(strokes)


def _list_strokes(mask: NDArray[np.bool_], step: int) -> list[str]:
    across = [f"M{start} {line}H{end}" for line, start, end in _find_runs(mask) * step]
    down = [f"M{line} {start}V{end}" for line, start, end in _find_runs(mask.T) * step]
    return across + down


def _find_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (runs, 3), the line, start and end of each run of edges between two rows of pixels."""
    padded = np.pad(mask, 1)
    is_edge = (padded[1:] != padded[:-1]).astype(np.int8)  # (H + 1, W + 2), the first and the last column without any
    change = np.diff(is_edge, axis=1)
    lines, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    return np.stack([lines, starts, ends], axis=1)
