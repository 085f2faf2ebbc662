"""The figures of a report, as PNG bytes."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas

from t2m_bench.metrics.results import UNTRAINED_SEED
from t2m_bench.reporting.results import TRAINED, Results

matplotlib.use("Agg")

DPI = 140
COLOURS = {"reference": "#2fbf71", "prediction": "#ff5d4f", "violin": "#4c78a8", "gate": "#4c78a8"}


@dataclass(frozen=True)
class Figure:
    """A picture, and in words what it shows."""

    name: str
    title: str
    alt: str
    png: bytes


def make_figures(results: Results) -> list[Figure]:
    """Return every figure that the results allow."""
    makers: list[Callable[[Results], Figure | None]] = [draw_violins, draw_overlays, draw_gates]
    return [figure for figure in (make(results) for make in makers) if figure is not None]


def draw_violins(results: Results) -> Figure:
    """The distribution of each arm's Dice over cases, seeds averaged."""
    arms = results.arms
    values = [results.select(arm, "right", "none").groupby("case")["dice"].mean().to_numpy() for arm in arms]
    canvas = Canvas(figsize=(1.1 * len(arms) + 1.5, 4.2))
    axes = canvas.subplots()
    parts: Any = axes.violinplot(values, showextrema=False, widths=0.85)
    for body in parts["bodies"]:
        body.set_facecolor(COLOURS["violin"])
        body.set_alpha(0.55)
    quartiles = [np.percentile(value, [25, 50, 75]) for value in values]
    for place, (low, middle, high) in enumerate(quartiles, start=1):
        axes.vlines(place, low, high, color="black", linewidth=3)
        axes.plot(place, middle, "o", color="white", markeredgecolor="black", markersize=5)
    axes.set_xticks(range(1, len(arms) + 1), [arm.replace("_", "\n", 1) for arm in arms], fontsize=8)
    axes.set_ylabel("Dice (right or no text)")
    axes.grid(axis="y", alpha=0.3)
    middles = "; ".join(f"{arm} {quartile[1]:.3f}" for arm, quartile in zip(arms, quartiles, strict=True))
    return Figure(
        "violin", "Dice over test cases", f"Violins of Dice over test cases; medians: {middles}.", _png(canvas)
    )


def draw_overlays(results: Results) -> Figure | None:
    """Reference and predictions on evenly spread test cases, Dice above each."""
    cases = sorted({name.split("/")[0] for name in results.crops})
    if not cases:
        return None
    columns = {"baseline": (UNTRAINED_SEED, results.baseline)}
    for arm in TRAINED:
        runs = [run for run in results.runs if run.summary["arm"] == arm]
        if runs:
            first = min(runs, key=lambda run: int(run.summary["seed"]))
            columns[arm] = (int(first.summary["seed"]), first.masks)
    canvas = Canvas(figsize=(1.9 * (1 + len(columns)), 2.05 * len(cases)))
    grid = canvas.subplots(len(cases), 1 + len(columns), squeeze=False)
    for row, case in zip(grid, cases, strict=True):
        image, reference = results.crops[f"{case}/image"], results.crops[f"{case}/mask"] > 0
        _draw_crop(row[0], image, reference, None, "reference")
        for axes, (arm, (seed, masks)) in zip(row[1:], columns.items(), strict=True):
            _draw_crop(axes, image, reference, masks[case], f"{arm} {_find_dice(results, arm, seed, case):.3f}")
    shown = ", ".join(columns)
    alt = f"{len(cases)} test cases, evenly spread and not picked by result: the reference in green, in red {shown}."
    return Figure("overlays", "Reference and predictions", alt, _png(canvas))


def _find_dice(results: Results, arm: str, seed: int, case: str) -> float:
    """Return the Dice at original resolution, as the tables have it."""
    good = results.select(arm, "right", "none")
    return float(good[(good["seed"] == seed) & (good["case"] == case)]["dice"].iloc[0])


def _draw_crop(axes: Any, image: Any, reference: Any, prediction: Any, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.contour(reference, levels=[0.5], colors=COLOURS["reference"], linewidths=1.2)
    if prediction is not None and prediction.any():
        axes.contour(prediction, levels=[0.5], colors=COLOURS["prediction"], linewidths=1.2)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def draw_gates(results: Results) -> Figure | None:
    """Each gate's opening over the epochs."""
    runs = [run for run in results.runs if any(name.startswith("gates.") for name in run.history.columns)]
    if not runs:
        return None
    canvas = Canvas(figsize=(6.5, 3.6))
    axes = canvas.subplots()
    ends = []
    for run in runs:
        for column in (name for name in run.history.columns if name.startswith("gates.")):
            label = f"{run.summary['arm']}, {column.removeprefix('gates.')}, seed {run.summary['seed']}"
            axes.plot(run.history["epoch"] + 1, run.history[column], marker=".", label=label)
            ends.append(f"{label}: {run.history[column].iloc[-1]:.3f}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("opening of the gate")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return Figure("gates", "Gate openings", f"Openings over epochs; at the end {'; '.join(ends)}.", _png(canvas))


def _png(canvas: Canvas) -> bytes:
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", dpi=DPI, bbox_inches="tight")
    return stream.getvalue()
