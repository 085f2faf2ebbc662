"""Four test cases with outlines: the median, the worst, and those that the text helps and harms most."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import BASELINE, REFERENCE
from t2m_bench.reporting.drawing import LABEL, ORANGE, SKY, Figure
from t2m_bench.reporting.forest import WIDTH
from t2m_bench.reporting.results import Crops, Reference, Results

OUTLINES: dict[str, tuple[str, Any]] = {
    "reference": ("white", "-"),
    "text-guided": (ORANGE, "--"),
    "no text": (SKY, ":"),
}
"""Each outline's colour and dash: the dash tells them apart in grey."""


@dataclass(frozen=True)
class ShownCase:
    """One case of the figure: its pseudonym, why it is shown, and the number that says so."""

    case: str
    why: str
    shown: str


def draw_cases(results: Results, method: str | None) -> Figure | None:
    """Return outlines of four cases with pictures; None where no run left any.

    Cases are chosen among all of a test fold that have pictures, or of a large fold among as many, spread beforehand.
    """
    pictured = list_pictured(results)
    if not pictured:
        return None
    chosen = choose_cases(results, method, list(pictured))
    columns = 2
    lines = -(-len(chosen) // columns)
    canvas = Canvas(figsize=(WIDTH, lines * (WIDTH / columns + 0.25) + 0.3))
    grid = canvas.subplots(lines, columns, squeeze=False).ravel()
    for axes, shown in zip(grid, chosen, strict=False):
        _draw_case(axes, shown, find_masks(results, pictured[shown.case], shown.case, method))
    for axes in grid:
        axes.set_axis_off()
    handles = [Line2D([], [], color=colour, linestyle=dash, linewidth=2) for colour, dash in OUTLINES.values()]
    canvas.subplots_adjust(left=0, right=1, bottom=0.3 / canvas.get_figheight(), top=0.96, wspace=0.04, hspace=0.12)
    legend = canvas.legend(handles, list(OUTLINES), loc="lower center", ncols=3, fontsize=9, facecolor="#777777")
    for text in legend.get_texts():
        text.set_color("white")
    caption = "Numbers are means of all training repeats, outlines those of the first."
    return Figure("cases", "Four cases", "Outlines of four test cases", caption, canvas)


def list_pictured(results: Results) -> dict[str, Reference]:
    """Return the cases that have pictures, with the results of their test fold."""
    return {
        name.removesuffix("/image"): reference
        for reference in results.references
        for name in reference.crops
        if name.endswith("/image")
    }


def choose_cases(results: Results, method: str | None, cases: list[str]) -> list[ShownCase]:
    """Return the median and the worst case of an arm, then those of its largest gain and loss over text_free.

    A case that is shown for one reason is shown for no other: the next in order takes its place.
    """
    arm = method or (REFERENCE if REFERENCE in results.arms else BASELINE)
    dice = _average_dice(results, arm, cases)
    if dice.empty:
        return [ShownCase(case, "", "") for case in cases[:4]]
    gains = (dice - _average_dice(results, REFERENCE, cases)).dropna() if method else pd.Series(dtype=float)
    from_median = (dice - dice.iloc[len(dice) // 2]).abs().sort_values(kind="stable")
    ranked = [
        ("worst", dice, "Dice {:.3f}"),
        ("largest gain", gains.sort_values(ascending=False, kind="stable"), "{:+.3f}"),
        ("largest loss" if len(gains) and gains.min() < 0 else "smallest gain", gains.sort_values(), "{:+.3f}"),
        ("median", from_median, "Dice {:.3f}"),
    ]
    found: dict[str, ShownCase] = {}
    for why, order, shown in ranked:
        case = next((str(name) for name in order.index if name not in found), None)
        if case is not None:
            value = gains[case] if order is not from_median and order is not dice else dice[case]
            found[case] = ShownCase(case, why, shown.format(value))
    return sorted(found.values(), key=lambda item: item.why != "median")


def _average_dice(results: Results, arm: str, cases: list[str]) -> pd.Series:
    main = results.select_main(arm)
    return main[main["case"].isin(cases)].groupby("case")[DICE].mean().sort_values(kind="stable")


def find_masks(results: Results, reference: Reference, case: str, method: str | None) -> Mapping[str, Any]:
    """Return "image" and each outline's mask: predictions are those of the first seed that has one."""
    crops: Crops = reference.crops
    found = {"image": crops[f"{case}/image"], "reference": crops[f"{case}/mask"] > 0}
    for name, arm in (("text-guided", method), ("no text", REFERENCE)):
        runs = [run for run in results.list_runs(arm or "") if case in run.masks]
        if runs:
            found[name] = min(runs, key=lambda run: int(run.summary["seed"])).masks[case]
    return found


def _draw_case(axes: Any, shown: ShownCase, masks: Mapping[str, Any]) -> None:
    axes.imshow(masks["image"], cmap="gray", vmin=0, vmax=255, interpolation="none")
    for name, (colour, dash) in OUTLINES.items():
        if name in masks and np.any(masks[name]) and not np.all(masks[name]):
            axes.contour(masks[name], levels=[0.5], colors=colour, linestyles=dash, linewidths=1.8)
    axes.set_title(f"{shown.why}: {shown.shown}", fontsize=9, pad=3).set_gid(LABEL)
