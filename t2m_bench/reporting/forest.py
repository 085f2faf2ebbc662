"""The figure that a reader sees first: what the text-guided model gains over each other, and what wrong text costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from t2m_bench.recipe.arms import IN_LOSS_ARM, LABEL_ARM
from t2m_bench.recipe.conditions import RIGHT
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import BASELINE, REFERENCE
from t2m_bench.reporting.comparisons import find_best_floor, list_wrong_texts, name_wrong_text
from t2m_bench.reporting.drawing import BLACK, BLUE, ESTIMATE, LABEL, ORANGE, SKY, Figure
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import Table, flatten_contrast, make_table, show_contrast
from t2m_bench.statistics.crossed import Contrast, estimate_crossed, estimate_given_models, make_fold_tables

GAIN, COST = "gain", "cost"

WIDTH, ROW, HEAD = 4.9, 0.38, 0.95
"""Inches of a plot of intervals: its width, the height of a row, and that of axis and headings."""


@dataclass(frozen=True)
class Bar:
    """One mean difference of Dice with its interval, and the mean of each test fold.

    Attributes:
        key: in numbers. label: for a reader. is_main: whether it stands out.
    """

    key: str
    label: str
    contrast: Contrast
    by_fold: tuple[float, ...] = ()
    is_main: bool = False


def list_gains(results: Results, method: str) -> list[Bar]:
    """Return what the text-guided arm gains over each other that has results, the main question first."""
    floor = find_best_floor(results)
    others = {
        REFERENCE: "the same model, no text (main question)",
        IN_LOSS_ARM: "the same training loss, no text given",
        LABEL_ARM: "the category alone, no sentences",
        BASELINE: "the frozen model",
        **({floor: "the best shape drawn without the image"} if floor else {}),
    }
    bars = []
    for other, label in others.items():
        tables = make_fold_tables(results.select_main(method), results.select_main(other), DICE)
        if tables:
            by_fold = tuple(float(table.mean()) for table in tables)
            key, is_main = f"{method} - {other}", other == REFERENCE
            bars.append(Bar(key, label, estimate_crossed(tables), by_fold, is_main))
    return bars


def list_costs(results: Results, method: str) -> list[Bar]:
    """Return what each wrong category costs the text-guided arm, given these trained models."""
    bars = []
    for condition, field in list_wrong_texts(results):
        label = _label_wrong_text(condition, results.name_field(field) if field else "category")
        tables = make_fold_tables(results.select(method, RIGHT), results.select(method, condition), DICE)
        if tables:
            by_fold = tuple(float(table.mean()) for table in tables)
            contrast = estimate_given_models(tables)
            bars.append(Bar(f"{method}: {RIGHT} - {condition}", label, contrast, by_fold))
    return bars


def _label_wrong_text(condition: str, of_what: str) -> str:
    name = name_wrong_text(condition)
    kind, is_wrong, _ = name.partition(" wrong text")
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind} wrong {of_what}" if is_wrong else name


def make_forest_table(gains: Sequence[Bar], costs: Sequence[Bar]) -> Table | None:
    """Numbers behind the figure; None where there are none."""
    rows, numbers = [], []
    for kind, bars in ((GAIN, gains), (COST, costs)):
        for bar in bars:
            folds = ", ".join(f"{value:+.3f}" for value in bar.by_fold)
            rows.append((bar.key, show_contrast(bar.contrast), folds, str(bar.contrast.num_patients)))
            found = flatten_contrast("difference", bar.contrast)
            numbers.append({"comparison": bar.key, "kind": kind, **found, "patients": bar.contrast.num_patients})
    if not rows:
        return None
    columns = ("Comparison", "Dice difference [95 %]", "By test fold", "Patients")
    return make_table("forest", "Numbers of the first figure", "", columns, rows, numbers)


def draw_forest(gains: Sequence[Bar], costs: Sequence[Bar], margin: float) -> Figure | None:
    """Intervals of gains, and below them of costs on an axis of their own; None without any."""
    panels = [
        ("Dice gained by the text-guided model over …", gains, BLUE),
        ("Dice the text-guided model loses with …", costs, ORANGE),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    heights = [ROW * len(bars) + HEAD for _, bars, _ in panels]
    canvas = Canvas(figsize=(WIDTH, sum(heights)), layout="constrained")
    grid = canvas.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, bars, colour) in zip(grid, panels, strict=True):
        draw_bars(axes, bars, margin, colour)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("worse with text ← Dice difference → better with text" if bars is gains else "Dice lost")
    folds = max(len(bar.by_fold) for bar in gains) if gains else 0
    caption = (
        f"Mean difference with 95 % interval{'; small circles are test folds' if folds > 1 else ''}; "
        f"within the band (±{margin:g}) a difference does not matter."
    )
    return Figure("forest", "Main differences", "Forest plot of paired Dice differences", caption, canvas)


def draw_bars(axes: Any, bars: Sequence[Bar], margin: float, colour: str, has_numbers: bool = True) -> None:
    """Draw a row a bar, from above, with its label over it and, where asked, its numbers at the right."""
    for place, bar in enumerate(bars):
        contrast, height = bar.contrast, -place
        axes.fill_between((-margin, margin), height - 0.3, height + 0.14, color=SKY, alpha=0.4, linewidth=0)
        axes.vlines(0, height - 0.3, height + 0.14, color=BLACK, linewidth=0.8)
        if not np.isnan(contrast.low):
            axes.hlines(height, contrast.low, contrast.high, color=colour, linewidth=2.6 if bar.is_main else 1.6)
        axes.plot(contrast.mean, height, "D" if bar.is_main else "s", color=colour, markersize=7 if bar.is_main else 5)
        if len(bar.by_fold) > 1:
            below = np.full(len(bar.by_fold), height - 0.22)
            axes.plot(bar.by_fold, below, "o", color=BLACK, markersize=2.6, fillstyle="none", markeredgewidth=0.7)
        weight = "bold" if bar.is_main else "normal"
        texts = [(bar.label, 0, "left"), (show_contrast(contrast, 3), 1, "right")]
        for text, x, side in texts if has_numbers else texts[:1]:
            told = axes.annotate(
                text, (x, height), (0, 6), xycoords=("axes fraction", "data"), textcoords="offset points",
                fontsize=9, fontweight=weight, ha=side,
            )  # fmt: skip
            told.set_gid(ESTIMATE if side == "right" else LABEL)
    axes.set_ylim(-len(bars) + 0.45, 0.75)
    axes.margins(x=0.06)
    axes.set_yticks([])
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_size(8)
