"""Shows the gain from text in each class, in each third of lesion sizes, and in each group of the user's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure as Canvas

from t2m_bench.recipe.measures import BOX_DIAGONAL, DICE
from t2m_bench.reporting.arms import REFERENCE
from t2m_bench.reporting.drawing import BLUE, GREEN, Figure
from t2m_bench.reporting.forest import HEAD, ROW, WIDTH, Bar, draw_bars
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import Table, flatten_contrast, make_table, show_contrast
from t2m_bench.statistics.crossed import estimate_crossed, make_fold_tables

SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class GainStrata:
    """The gains of one way to part the cases: what it parts by, and a bar a stratum."""

    title: str
    bars: tuple[Bar, ...]


def list_gain_strata(results: Results, method: str) -> list[GainStrata]:
    """Return the gains of an arm over text_free by each text field, by thirds of the box's diagonal, by own strata."""
    one, other = results.select_main(method), results.select_main(REFERENCE)
    if one.empty or other.empty:
        return []
    found = []
    for field in results.fields:
        own = results.list_values(one, field)
        order = results.sort_values(field, own.unique())
        title = f"By {results.name_field(field)}"
        found.append(GainStrata(title, tuple(_list_bars(one, other, own, order, field))))
    diagonals = one.groupby("case")[BOX_DIAGONAL].first().dropna()
    if diagonals.nunique() >= len(SIZES):
        sizes = one["case"].map(pd.qcut(diagonals.rank(method="first"), len(SIZES), list(SIZES)).astype(str))
        title = "By lesion size (thirds of the box's diagonal)"
        found.append(GainStrata(title, tuple(_list_bars(one, other, sizes, SIZES, "size"))))
    for name, group_of in results.strata.items():
        groups = one["case"].map(group_of)
        order = sorted(groups.dropna().unique())
        title = f"By {name.replace('_', ' ')}"
        found.append(GainStrata(title, tuple(_list_bars(one, other, groups, order, name))))
    return [strata for strata in found if strata.bars]


def _list_bars(
    one: pd.DataFrame, other: pd.DataFrame, stratum: pd.Series, order: Sequence[str], prefix: str
) -> list[Bar]:
    bars = []
    for name in order:
        tables = make_fold_tables(one[stratum == name], other, DICE)
        if tables:
            contrast = estimate_crossed(tables)
            bars.append(Bar(f"{prefix}: {name}", f"{name} ({contrast.num_patients} patients)", contrast))
    return bars


def make_gain_strata_table(strata: Sequence[GainStrata]) -> Table | None:
    """Numbers behind the figure; None where there are none."""
    bars = [bar for part in strata for bar in part.bars]
    if not bars:
        return None
    rows = [(bar.key, show_contrast(bar.contrast), str(bar.contrast.num_patients)) for bar in bars]
    numbers = [
        {"stratum": bar.key, **flatten_contrast("gain", bar.contrast), "patients": bar.contrast.num_patients}
        for bar in bars
    ]
    note = "Gain from text in each class, in each third of lesion sizes, and in each group that the data set names."
    columns = ("Stratum", "Gain from text [95 %]", "Patients")
    return make_table("gain_strata", "Gain from text by class and by size", note, columns, rows, numbers)


def draw_gain_strata(strata: Sequence[GainStrata], margin: float) -> Figure | None:
    """Intervals of each stratum, all on one axis; None without any."""
    if not strata:
        return None
    heights = [ROW * len(part.bars) + HEAD / 2 for part in strata]
    canvas = Canvas(figsize=(WIDTH, sum(heights) + HEAD / 2), layout="constrained")
    grid = canvas.subplots(len(strata), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, part, colour in zip(grid, strata, (BLUE, GREEN) * len(strata), strict=False):
        draw_bars(axes, part.bars, margin, colour, has_numbers=False)
        axes.set_title(part.title, loc="left", fontsize=10, fontweight="bold")
    grid[-1].set_xlabel("worse with text ← Dice difference → better with text")
    caption = "Gain from text, against the same model without it, with 95 % interval."
    return Figure(
        "gain_strata", "Gain by class and size", "Gain from text by class and by lesion size", caption, canvas
    )
