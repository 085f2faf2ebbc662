"""Reads the page of `inspect` back with the standard library's parser, which shares nothing with what wrote it."""

import base64
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STROKE = re.compile(r"M(\d+) (\d+)([HV])(\d+)")


@dataclass
class Shown:
    """A case as the page shows it.

    Attributes:
        name: its heading. words: all that is written of it.
        pictures: (x, y, width, height) of the part, and its file. boxes: (x, y, width, height) of each drawn one.
    """

    name: str = ""
    words: str = ""
    pictures: list[tuple[tuple[int, int, int, int], bytes]] = field(default_factory=list)
    outline: str = ""
    boxes: set[tuple[int, int, int, int]] = field(default_factory=set)
    labels: list[str] = field(default_factory=list)


class PageReader(HTMLParser):
    """Collects the cases, what the page would load, and every id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shown: list[Shown] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._open.append(tag)
        self.addresses += [given[name] for name in ("href", "src", "action", "srcset", "data") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "article":
            self.shown.append(Shown())
        if "article" not in self._open:
            return
        case = self.shown[-1]
        if tag == "image":
            case.pictures.append((find_part(given), base64.b64decode(given["href"].partition(",")[2], validate=True)))
        elif tag == "path":
            case.outline += given["d"]
        elif tag == "rect":
            case.boxes.add(find_part(given))
        elif tag == "svg":
            case.labels.append(given["aria-label"])

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "article" in self._open:
            case = self.shown[-1]
            case.words += f" {data.strip()}"
            case.name += data.strip() if self._open[-1] == "h3" else ""


def find_part(given: dict[str, str]) -> tuple[int, int, int, int]:
    """Return x, y, width and height of an element."""
    return int(given["x"]), int(given["y"]), int(given["width"]), int(given["height"])


def fill_outline(path: str, height: int, width: int) -> NDArray[np.bool_]:
    """Return what a path encloses: a pixel is inside where an odd number of upright strokes stands left of it."""
    crossings = np.zeros((height, width + 1), int)
    for x, y, way, end in STROKE.findall(path):
        if way == "V":
            crossings[int(y) : int(end), int(x)] += 1
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1


def open_picture(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a picture."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L"))
