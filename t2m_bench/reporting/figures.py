"""The figures of a report, as PNG bytes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from t2m_bench.recipe.conditions import RIGHT, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import REFERENCE, TEXTLESS_CONDITION, is_trained
from t2m_bench.reporting.counterfactuals import list_swaps
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.subgroups import name_box
from t2m_bench.reporting.table import Table

matplotlib.use("Agg")

DPI = 110
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#bab0ac")
VIOLIN = "#4c78a8"


@dataclass(frozen=True)
class Figure:
    """A picture, and in words what it shows."""

    name: str
    title: str
    alt: str
    png: bytes


def draw_violins(results: Results) -> Figure:
    """The distribution of each arm's Dice over cases, seeds averaged."""
    arms = results.arms
    values = [results.select_main(arm).groupby("case")[DICE].mean().to_numpy() for arm in arms]
    canvas = Canvas(figsize=(1.1 * len(arms) + 1.5, 4.2))
    axes = canvas.subplots()
    parts: Any = axes.violinplot(values, showextrema=False, widths=0.85)
    for body in parts["bodies"]:
        body.set_facecolor(VIOLIN)
        body.set_alpha(0.55)
    quartiles = [np.percentile(value, [25, 50, 75]) for value in values]
    for place, (low, middle, high) in enumerate(quartiles, start=1):
        axes.vlines(place, low, high, color="black", linewidth=3)
        axes.plot(place, middle, "o", color="white", markeredgecolor="black", markersize=5)
    axes.set_xticks(range(1, len(arms) + 1), [arm.replace("_", "\n") for arm in arms], fontsize=8)
    axes.set_ylabel("Dice (right or no text)")
    axes.grid(axis="y", alpha=0.3)
    middles = "; ".join(f"{arm} {quartile[1]:.3f}" for arm, quartile in zip(arms, quartiles, strict=True))
    alt = f"Violins of Dice over test cases, tight boxes; medians: {middles}."
    return Figure("violin", "Dice over test cases", alt, save_png(canvas))


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
                    text = f"{contrast.mean:+.4f}\nn={contrast.num_patients}"
                    dark = abs(contrast.mean) > 0.6 * largest
                    axes.text(
                        column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black"
                    )
        axes.set_xticks(range(len(givens)), givens, fontsize=8)
        axes.set_yticks(range(len(owns)), owns, fontsize=8)
        axes.set_xlabel(f"{field} in the text given")
        axes.set_ylabel(f"{field} of the case")
        canvas.colorbar(image, label="Dice lost against right text")
        worst = max(cells.values(), key=lambda swap: swap.contrast.mean)
        alt = (
            f"Heat map of the Dice that {arm} loses when a case's {field} is replaced; largest loss "
            f"{worst.contrast.mean:+.4f}, {worst.own} given as {worst.given}."
        )
        figures.append(Figure(f"swaps_{field}", f"Swap matrix: {field}", alt, save_png(canvas)))
    return figures


def draw_boxes(table: Table, method: str) -> Figure:
    """Dice over box quality for right, wrong and no text: means of `make_box_table`, of the same cases."""
    boxes = list(table.numbers["box"])
    lines = {
        RIGHT: "right text",
        WRONG: "wrong text",
        TEXTLESS_CONDITION: f"no text ({REFERENCE})",
        "baseline": "baseline",
    }
    canvas = Canvas(figsize=(1.3 * len(boxes) + 3, 3.8))
    axes = canvas.subplots()
    told = []
    for (column, label), colour in zip(lines.items(), COLOURS, strict=False):
        means = table.numbers[column].to_numpy()
        if not np.isnan(means).all():
            axes.plot(range(len(boxes)), means, "o-", color=colour, label=label)
            told.append(f"{label} {means[0]:.3f} (tight), lowest {np.nanmin(means):.3f}")
    axes.set_xticks(range(len(boxes)), [name_box(box).replace(" by ", "\nby ") for box in boxes], fontsize=8)
    axes.set_ylabel("Dice")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    alt = f"Dice of {method} over box quality: {'; '.join(told)}."
    return Figure("boxes", "Box and text together", alt, save_png(canvas))


def draw_learning_curves(results: Results) -> Figure | None:
    """Validation Dice and training loss over epochs, the mean over an arm's runs; None without histories."""
    arms = [arm for arm in results.arms if is_trained(arm) and results.list_runs(arm)]
    wanted = {"val_dice": "validation Dice", "loss": "training loss"}
    if not arms or not all(name in results.list_runs(arms[0])[0].history for name in wanted):
        return None
    canvas = Canvas(figsize=(9, 3.6))
    ends = []
    for axes, (column, label) in zip(canvas.subplots(1, 2), wanted.items(), strict=True):
        for number, arm in enumerate(arms):
            epochs, means = _average_curves([run.history for run in results.list_runs(arm)], column)
            axes.plot(epochs, means, marker=".", color=COLOURS[number % len(COLOURS)], label=arm)
            if column == "val_dice":
                ends.append(f"{arm} {np.nanmax(means):.3f}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    alt = f"Validation Dice and training loss over epochs, means over runs; highest validation Dice: {'; '.join(ends)}."
    return Figure("curves", "Learning curves", alt, save_png(canvas))


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
    for (label, (epochs, means)), colour in zip(curves.items(), COLOURS * 9, strict=False):
        axes.plot(epochs, means, marker=".", color=colour, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("opening of the gate")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    ends = "; ".join(f"{label} {means[-1]:.3f}" for label, (_, means) in curves.items())
    alt = f"Openings over epochs, means over runs; at the end {ends}."
    return Figure("gates", "Gate openings", alt, save_png(canvas))


def _average_curves(histories: Sequence[pd.DataFrame], column: str) -> tuple[list[int], Any]:
    """Return epochs from 1, and the mean over the runs that reached each."""
    together = [rows.set_index("epoch")[column] for rows in histories if column in rows]
    means = pd.concat(together, axis=1).mean(axis=1).sort_index()
    return [int(epoch) + 1 for epoch in means.index], means.to_numpy()


def save_png(canvas: Canvas) -> bytes:
    """Return the drawn canvas as PNG."""
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", dpi=DPI, bbox_inches="tight")
    return stream.getvalue()
