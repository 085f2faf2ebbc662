"""The figures of a report's supplement: violins, heat maps, curves."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from t2m_bench.recipe.conditions import RIGHT, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import REFERENCE, TEXTLESS_CONDITION, is_trained
from t2m_bench.reporting.counterfactuals import list_swaps
from t2m_bench.reporting.drawing import BLACK, BLUE, COLOURS, DASHES, MARKERS, Figure
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.subgroups import name_box
from t2m_bench.reporting.table import Table

INK_ON_PALE = "#111111"
"""Of text on a coloured ground, which a dark page does not change."""


def draw_violins(results: Results) -> Figure:
    """The distribution of each arm's Dice over cases, seeds averaged."""
    arms = results.arms
    values = [results.select_main(arm).groupby("case")[DICE].mean().to_numpy() for arm in arms]
    canvas = Canvas(figsize=(1.1 * len(arms) + 1.5, 4.2))
    axes = canvas.subplots()
    parts: Any = axes.violinplot(values, showextrema=False, widths=0.85)
    for body in parts["bodies"]:
        body.set_facecolor(BLUE)
        body.set_alpha(0.55)
    quartiles = [np.percentile(value, [25, 50, 75]) for value in values]
    for place, (low, middle, high) in enumerate(quartiles, start=1):
        axes.vlines(place, low, high, color=BLACK, linewidth=3)
        axes.plot(place, middle, "o", color="white", markeredgecolor=BLACK, markersize=5)
    axes.set_xticks(range(1, len(arms) + 1), [arm.replace("_", "\n") for arm in arms], fontsize=8)
    axes.set_ylabel("Dice (right or no text)")
    axes.grid(axis="y", alpha=0.3)
    caption = "Dice over test cases with tight boxes: distribution, quartiles (bar) and median (dot)."
    return Figure("violin", "Dice over test cases", "Violins of Dice, one an arm", caption, canvas)


def draw_swaps(results: Results, arm: str) -> list[Figure]:
    """A heat map a text field: what each class loses with each other class's text."""
    swaps = list_swaps(results, arm)
    figures = []
    for field in dict.fromkeys(swap.field for swap in swaps):
        cells = {(swap.own, swap.given): swap for swap in swaps if swap.field == field}
        owns, givens = (results.sort_values(field, {cell[side] for cell in cells}) for side in (0, 1))
        costs = np.full((len(owns), len(givens)), np.nan)
        for (own, given), swap in cells.items():
            costs[owns.index(own), givens.index(given)] = swap.contrast.mean
        largest = float(np.nanmax(np.abs(costs))) or 1e-6
        canvas = Canvas(figsize=(1.15 * len(givens) + 2.6, 0.8 * len(owns) + 1.6))
        axes = canvas.subplots()
        image = axes.imshow(costs, cmap="RdBu_r", vmin=-largest, vmax=largest)
        for row, own in enumerate(owns):
            for column, given in enumerate(givens):
                if (own, given) in cells:
                    contrast = cells[own, given].contrast
                    text = f"{contrast.mean:+.3f}\nn={contrast.num_patients}"
                    ink = "white" if abs(contrast.mean) > 0.6 * largest else INK_ON_PALE
                    axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(givens)), givens, fontsize=8)
        axes.set_yticks(range(len(owns)), owns, fontsize=8)
        axes.set_xlabel(f"{field} in the text given")
        axes.set_ylabel(f"{field} of the case")
        canvas.colorbar(image, label="Dice lost against right text")
        caption = f"Dice that {arm} loses when a case's {results.name_field(field)} is replaced in its text."
        alt = f"Heat map of {field} by {field} in the text"
        figures.append(Figure(f"swaps_{field}", f"Swap matrix: {field}", alt, caption, canvas))
    return figures


def draw_boxes(table: Table, method: str) -> Figure:
    """Dice over box quality for right, wrong and no text: means of `make_box_table`, of the same cases."""
    boxes = list(table.numbers["box"])
    lines = {
        RIGHT: "right text",
        WRONG: "extreme wrong text",
        TEXTLESS_CONDITION: f"no text ({REFERENCE})",
        "baseline": "baseline",
    }
    canvas = Canvas(figsize=(1.3 * len(boxes) + 3, 3.8))
    axes = canvas.subplots()
    for (column, label), colour, marker, dash in zip(lines.items(), COLOURS, MARKERS, DASHES, strict=False):
        means = table.numbers[column].to_numpy()
        if not np.isnan(means).all():
            axes.plot(range(len(boxes)), means, marker=marker, linestyle=dash, color=colour, label=label)
    axes.set_xticks(range(len(boxes)), [name_box(box).replace(" by ", "\nby ") for box in boxes], fontsize=8)
    axes.set_ylabel("Dice")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    caption = f"Dice of {method} as boxes get looser, with right, extreme wrong and no text."
    return Figure("boxes", "Box and text together", "Dice over box quality", caption, canvas)


def draw_learning_curves(results: Results) -> Figure | None:
    """Validation Dice and training loss over epochs, the mean over an arm's runs; None without histories."""
    arms = [arm for arm in results.arms if is_trained(arm) and results.list_runs(arm)]
    wanted = {"val_dice": "validation Dice", "loss": "training loss"}
    if not arms or not all(name in results.list_runs(arms[0])[0].history for name in wanted):
        return None
    canvas = Canvas(figsize=(9, 3.6))
    for axes, (column, label) in zip(canvas.subplots(1, 2), wanted.items(), strict=True):
        for arm, colour, marker in zip(arms, cycle(COLOURS), cycle(MARKERS), strict=False):
            epochs, means = _average_curves([run.history for run in results.list_runs(arm)], column)
            axes.plot(epochs, means, marker=marker, markersize=4, color=colour, label=arm)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    caption = "Validation Dice and training loss over epochs, means over the runs of an arm."
    return Figure("curves", "Learning curves", "Curves of validation Dice and training loss", caption, canvas)


def draw_gates(results: Results) -> Figure | None:
    """Each gate's opening over the epochs, the mean over an arm's runs; None where no arm has a gate."""
    curves = {}
    for arm in results.arms:
        histories = [run.history for run in results.list_runs(arm)]
        for column in sorted({name for rows in histories for name in rows.columns if name.startswith("gates.")}):
            curves[f"{arm}, {column.removeprefix('gates.')}"] = _average_curves(histories, column)
    if not curves:
        return None
    canvas = Canvas(figsize=(6.5, 3.6))
    axes = canvas.subplots()
    styles = zip(curves.items(), cycle(COLOURS), cycle(MARKERS), strict=False)
    for (label, (epochs, means)), colour, marker in styles:
        axes.plot(epochs, means, marker=marker, markersize=4, color=colour, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("opening of the gate")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    caption = "Opening of each gate over epochs, means over the runs of an arm."
    return Figure("gates", "Gate openings", "Curves of gate openings", caption, canvas)


def _average_curves(histories: Sequence[pd.DataFrame], column: str) -> tuple[list[int], Any]:
    """Return epochs from 1, and the mean over the runs that reached each."""
    together = [rows.set_index("epoch")[column] for rows in histories if column in rows]
    means = pd.concat(together, axis=1).mean(axis=1).sort_index()
    return [int(epoch) + 1 for epoch in means.index], means.to_numpy()
