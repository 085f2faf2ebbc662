"""A figure in three formats: SVG for pages, PNG and PDF for papers; colours that the colour-blind tell apart."""

import html
import io
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas

matplotlib.use("Agg")

DPI = 150

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
"""The palette of Okabe and Ito (2008). Black turns into the colour of the page's text."""

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
"""Every series has its own colour and its own marker or dash, so that a print in grey can be read."""

ESTIMATE, LABEL = "estimate", "row-name"
"""Names of text in a figure, `text.set_gid(ESTIMATE)`, which become its classes in a page."""

_LEFT_OUT = (
    re.compile(r"<metadata>.*?</metadata>", re.DOTALL),
    re.compile(r"<style.*?</style>", re.DOTALL),  # would hold for the whole page
    re.compile(r' id="[A-Za-z0-9.]+_\d+"'),  # several figures of a page would share these names
    re.compile(r" font-family: [^;\"]*;"),  # the page's own
)
"""What of matplotlib's SVG does not belong in a page."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure in three formats.

    Attributes:
        name: of its files. title: above it. alt: what it shows, for those who cannot see it. caption: one sentence.
        canvas: what is drawn. has_paper: whether it needs a white ground, as other packages' figures do.
    """

    name: str
    title: str
    alt: str
    caption: str
    canvas: Canvas
    has_paper: bool = False

    @cached_property
    def png(self) -> bytes:
        """The figure as pixels."""
        return self._save("png", dpi=DPI)

    @cached_property
    def pdf(self) -> bytes:
        """The figure for LaTeX, without a date, so that it can be made again to the byte."""
        return self._save("pdf", metadata={"CreationDate": None})

    @cached_property
    def svg(self) -> str:
        """The figure as an element of a page: text that can be searched, ink in the colour of the page's text."""
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            drawn = self._save("svg", transparent=not self.has_paper, metadata={"Date": None}).decode()
        drawn = drawn[drawn.index("<svg") :]
        for pattern in _LEFT_OUT:
            drawn = pattern.sub("", drawn)
        drawn = re.sub(rf'<g id="({ESTIMATE}|{LABEL})">', r'<g class="\1">', drawn)
        ground = "paper" if self.has_paper else "drawing"
        about = f'<svg class="{ground}" role="img" aria-label="{html.escape(self.alt)}"'
        drawn = drawn.replace("<svg", about, 1)
        return drawn if self.has_paper else drawn.replace(BLACK, "currentColor")

    def _save(self, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        self.canvas.savefig(stream, format=kind, bbox_inches="tight", **options)
        return stream.getvalue()
