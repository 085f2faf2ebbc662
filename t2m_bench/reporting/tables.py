"""The tables of a report, computed from the results alone."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from t2m_bench.reporting.results import FLOORS, Results
from t2m_bench.statistics.intervals import Estimate, compute_differences, compute_patient_means, estimate_mean

SEED = 0
"""Of the bootstrap, so that a report can be made again to the digit."""

LABELS = {
    "floor_box": "filled box (no image)",
    "floor_ellipse": "ellipse in the box (no image)",
    "floor_mean_mask": "mean mask in the box (no image)",
    "floor_class_mask": "mean mask of the class (no image)",
    "baseline": "baseline (frozen, zero-shot)",
    "text_free": "text_free (adapter, no text)",
    "gated": "gated",
    "hierarchical": "hierarchical",
}


@dataclass(frozen=True)
class Table:
    """One table as text, and the numbers behind it for a spreadsheet."""

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: pd.DataFrame


def make_tables(results: Results) -> list[Table]:
    """Return every table that the results allow."""
    return [make_arms_table(results), make_class_table(results), make_runs_table(results)]


def make_arms_table(results: Results) -> Table:
    """Dice and IoU of each arm, what wrong text costs, and what is gained over text_free."""
    rng = np.random.default_rng(SEED)
    rows, numbers = [], []
    for arm in results.arms:
        good, wrong = results.select(arm, "right", "none"), results.select(arm, "wrong")
        wrong_means = None if wrong.empty else compute_patient_means(wrong, "dice")
        costs = None if wrong.empty else compute_differences(good, wrong, "dice")
        estimates = {
            "dice": _estimate(compute_patient_means(good, "dice"), rng),
            "iou": _estimate(compute_patient_means(good, "iou"), rng),
            "dice_wrong": _estimate(wrong_means, rng),
            "cost_of_wrong": _estimate(costs, rng),
            "help": _estimate(_find_gains(results, arm, good), rng),
        }
        seeds = sorted(set(good["seed"]) - {-1})
        row = [LABELS[arm], str(len(seeds)) if seeds else "-", _parameters(results, arm)]
        rows.append((*row, *(_show(estimates[name], name in {"cost_of_wrong", "help"}) for name in estimates)))
        numbers.append({"arm": arm, "seeds": len(seeds), **_flatten(estimates)})
    seeds_note = "One seed: every difference is for these trained models only. " if _most_seeds(results) == 1 else ""
    return Table(
        "arms",
        "Arms",
        f"Mean over patients, 95 % bootstrap interval over {_count_patients(results)} patients, given these trained "
        f"models. {seeds_note}Boxes are tight and come from the reference mask. Help is the Dice over text_free, "
        "whereas a gain over the baseline would include adaptation to the data set. Cost is right minus wrong text "
        "(the published map of wrong classes); it shows reliance on the text, not help.",
        ("Arm", "Seeds", "Parameters", "Dice", "IoU", "Dice, wrong text", "Cost of wrong text", "Help"),
        tuple(rows),
        pd.DataFrame(numbers),
    )


def make_class_table(results: Results) -> Table:
    """Mean Dice of each arm by the true class of the text field."""
    field = str(results.experiment["dataset"]["text_field"])
    classes = sorted(set(results.table["text_class"]))
    rows, numbers = [], []
    for arm in results.arms:
        good = results.select(arm, "right", "none")
        means = [compute_patient_means(good[good["text_class"] == name], "dice").mean() for name in classes]
        rows.append((LABELS[arm], *(f"{mean:.4f}" for mean in means), f"{np.mean(means):.4f}"))
        numbers.append({"arm": arm, **dict(zip(classes, means, strict=True)), "macro": np.mean(means)})
    first = results.table.drop_duplicates("case")
    counts = [str(first[first["text_class"] == name]["patient"].nunique()) for name in classes]
    return Table(
        "classes",
        f"Dice by {field}",
        "Patients per class: " + ", ".join(f"{n}: {c}" for n, c in zip(classes, counts, strict=True)) + ".",
        ("Arm", *classes, "macro-average"),
        tuple(rows),
        pd.DataFrame(numbers),
    )


def make_runs_table(results: Results) -> Table:
    """What each run took and reached."""
    names = ("run", "trainable_parameters", "epochs", "best_epoch", "val_dice", "test_dice", "seconds", "world_size")
    numbers = pd.DataFrame([{name: run.summary[name] for name in names} for run in results.runs], columns=list(names))
    rows = [
        (
            str(row["run"]),
            f"{row['trainable_parameters']:,}",
            str(row["epochs"]),
            str(row["best_epoch"]),
            f"{row['val_dice']:.4f}",
            f"{row['test_dice']:.4f}",
            f"{row['seconds']:.1f}",
            str(row["world_size"]),
        )
        for row in numbers.to_dict("records")
    ]
    columns = ("Run", "Parameters", "Epochs", "Best", "Validation Dice", "Test Dice", "Seconds", "Workers")
    note = "The best epoch is chosen on validation patients; the test patients are looked at once, after training. "
    if results.unfinished:
        note += f"Not finished: {', '.join(results.unfinished)}."
    return Table("runs", "Runs", note, columns, tuple(rows), numbers)


def _estimate(patient_means: pd.Series | None, rng: np.random.Generator) -> Estimate | None:
    return None if patient_means is None else estimate_mean(patient_means, rng)


def _find_gains(results: Results, arm: str, good: pd.DataFrame) -> pd.Series | None:
    free = results.select("text_free", "none")
    if arm in {*FLOORS, "baseline", "text_free"} or free.empty:
        return None
    return compute_differences(good, free, "dice")


def _show(estimate: Estimate | None, signed: bool) -> str:
    if estimate is None:
        return "-"
    form = "{:+.4f}" if signed else "{:.4f}"
    mean, low, high = (form.format(value) for value in (estimate.mean, estimate.low, estimate.high))
    return mean if np.isnan(estimate.low) else f"{mean} [{low}, {high}]"


def _flatten(estimates: dict[str, Estimate | None]) -> dict[str, float]:
    return {
        f"{name}{suffix}": getattr(estimate, part) if estimate else float("nan")
        for name, estimate in estimates.items()
        for suffix, part in (("", "mean"), ("_low", "low"), ("_high", "high"))
    }


def _parameters(results: Results, arm: str) -> str:
    counts = {run.summary["trainable_parameters"] for run in results.runs if run.summary["arm"] == arm}
    return ", ".join(f"{count:,}" for count in sorted(counts)) or "0"


def _most_seeds(results: Results) -> int:
    return max(len({r.summary["seed"] for r in results.runs if r.summary["arm"] == arm}) for arm in results.arms)


def _count_patients(results: Results) -> int:
    return int(results.table["patient"].nunique())
