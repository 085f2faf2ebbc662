"""Pictures of single cases: the best, the median, the worst, and where the text changed most."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from t2m_bench.metrics.results import UNTRAINED_SEED
from t2m_bench.recipe.conditions import WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import BASELINE, REFERENCE, find_method, list_methods
from t2m_bench.reporting.figures import Figure, save_png
from t2m_bench.reporting.results import Crops, Reference, Results

REFERENCE_COLOUR, PREDICTION_COLOUR = "#2fbf71", "#ff5d4f"


def list_shown_arms() -> list[str]:
    """Return the arms whose predictions are shown, from left to right."""
    return [BASELINE, REFERENCE, *reversed(list_methods())]


def draw_overlays(results: Results) -> Figure | None:
    """Reference and predictions with their Dice; None where no run left pictures.

    Chosen among the cases that have pictures: all of a test fold, or of a large one as many, spread before any result.
    """
    pictured = {
        name.removesuffix("/image"): reference
        for reference in results.references
        for name in reference.crops
        if name.endswith("/image")
    }
    if not pictured:
        return None
    chosen = _choose(results, list(pictured))
    rows = {case: _collect_masks(results, pictured[case], case) for case in chosen}
    arms = [arm for arm in list_shown_arms() if any(arm in masks for masks in rows.values())]
    canvas = Canvas(figsize=(2.0 * (1 + len(arms)), 2.35 * len(rows)))
    grid = canvas.subplots(len(rows), 1 + len(arms), squeeze=False)
    told = []
    for line, (case, masks) in zip(grid, rows.items(), strict=True):
        crops = pictured[case].crops
        image, reference = crops[f"{case}/image"], crops[f"{case}/mask"] > 0
        _draw_crop(line[0], image, reference, None, chosen[case])
        for axes, arm in zip(line[1:], arms, strict=True):
            seed, mask = masks.get(arm, (UNTRAINED_SEED, None))
            dice = _find_dice(results, arm, seed, case)
            _draw_crop(axes, image, reference, mask, f"{arm}\n{dice}")
            told.append(f"{chosen[case]}: {arm} {dice}".replace("\n", " "))
    alt = (
        f"{len(rows)} of {len(pictured)} test cases with pictures: the reference in green, predictions of the first "
        f"seed in red, with their Dice. {'; '.join(told)}."
    )
    return Figure("overlays", "Reference and predictions", alt, save_png(canvas))


def _choose(results: Results, cases: list[str]) -> dict[str, str]:
    """Return case -> why it is shown among the pictured, and the Dice by which it was chosen: the mean of seeds."""
    method = find_method(results.arms) or REFERENCE
    main = results.select_main(method if method in results.arms else BASELINE)
    dice = main[main["case"].isin(cases)].groupby("case")[DICE].mean().sort_values()
    if dice.empty:
        return dict.fromkeys(cases[:4], "reference")
    places = {"best": -1, "median": len(dice) // 2, "worst": 0}
    chosen: dict[str, str] = {}
    for why, place in places.items():
        chosen.setdefault(str(dice.index[place]), why)
    wrong = results.select(method, WRONG)
    effect = (dice - wrong[wrong["case"].isin(cases)].groupby("case")[DICE].mean()).abs().dropna()
    if len(effect):
        most = str(effect.idxmax())
        chosen[most] = f"{chosen[most]},\nlargest text effect" if most in chosen else "largest text effect"
    return {case: f"{why}\nof {len(dice)} pictured,\nmean of seeds {dice[case]:.3f}" for case, why in chosen.items()}


def _collect_masks(results: Results, reference: Reference, case: str) -> Mapping[str, tuple[int, Any]]:
    """Return arm -> (seed, predicted crop) of the first seed that has one of the case."""
    found: dict[str, tuple[int, Any]] = {}
    baseline: Crops = reference.baseline
    if case in baseline:
        found[BASELINE] = (UNTRAINED_SEED, baseline[case])
    for arm in list_shown_arms()[1:]:
        runs = [run for run in results.list_runs(arm) if case in run.masks]
        if runs:
            first = min(runs, key=lambda run: int(run.summary["seed"]))
            found[arm] = (int(first.summary["seed"]), first.masks[case])
    return found


def _find_dice(results: Results, arm: str, seed: int, case: str) -> str:
    """Return the Dice as the tables have it, and that with wrong text where there is one."""
    told = []
    for label, rows in (("", results.select_main(arm)), ("wrong text ", results.select(arm, WRONG))):
        values = rows[(rows["seed"] == seed) & (rows["case"] == case)][DICE]
        told += [f"{label}{value:.3f}" for value in values]
    return ", ".join(told)


def _draw_crop(axes: Any, image: Any, reference: Any, prediction: Any, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    if np.any(reference):
        axes.contour(reference, levels=[0.5], colors=REFERENCE_COLOUR, linewidths=1.2)
    if prediction is not None and prediction.any():
        axes.contour(prediction, levels=[0.5], colors=PREDICTION_COLOUR, linewidths=1.2)
    axes.set_title(title, fontsize=7)
    axes.set_axis_off()
