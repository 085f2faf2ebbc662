"""Tables of what the arms cost: parameters, epochs, time, memory, trials, gates."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from t2m_bench.reporting.arms import is_trained
from t2m_bench.reporting.results import Results, Run
from t2m_bench.reporting.table import ABSENT, BOXES, Table, make_table, show_number


def make_runs_table(results: Results) -> Table:
    """A row an arm: what its runs took and reached, means over runs."""
    rows, numbers = [], []
    for arm in (arm for arm in results.arms if is_trained(arm)):
        runs = results.list_runs(arm)
        if not runs:
            continue
        found: dict[str, Any] = {
            "runs": len(runs),
            "parameters": _collect(runs, "trainable_parameters"),
            "trials": _collect(runs, "trials"),
            "epochs": _average(runs, "epochs"),
            "best_epoch": _average(runs, "best_epoch"),
            "val_dice": _average(runs, "val_dice"),
            "test_dice": _average(runs, "test_dice"),
            "seconds": _find_median(runs, "seconds"),
            "workers": _collect(runs, "world_size"),
            "peak_memory_mib": _average(runs, "peak_memory_mib"),
            "gates": _tell_gates(runs),
        }
        tuned = any(run.summary.get("differently_tuned") for run in runs)
        rows.append(
            (
                arm + (" (differently tuned)" if tuned else ""),
                str(found["runs"]),
                found["parameters"],
                found["trials"],
                show_number(found["epochs"], 1),
                show_number(found["best_epoch"], 1),
                show_number(found["val_dice"]),
                show_number(found["test_dice"]),
                show_number(found["seconds"], 1),
                found["workers"],
                show_number(found["peak_memory_mib"], 0),
                found["gates"],
            )
        )
        numbers.append({"arm": arm, "differently_tuned": tuned, **found})
    note = (
        f"Means over runs, of seconds the median. Test Dice is a mean over cases, in other tables over patients. "
        f"{_tell_validation(results)} Trials: of the sweep that chose the arm's settings, 1 where "
        "nothing was tuned; arms compare fairly only at equal trials. Peak memory is of the training process, where it "
        "was noted. Gates: openings of the best epoch. "
        f"{BOXES}"
    )
    return make_table("runs", "What the arms took", note, _COLUMNS, rows, numbers)


_COLUMNS = (
    "Arm",
    "Runs",
    "Parameters",
    "Trials",
    "Epochs",
    "Best epoch",
    "Validation Dice",
    "Test Dice",
    "Seconds",
    "Workers",
    "Peak MiB",
    "Gates",
)


def _tell_validation(results: Results) -> str:
    """Return on which cases the best epoch was chosen."""
    if results.validates_on_test:
        return "The best epoch is chosen on the test cases, so that test Dice is too high."
    unit = "images" if results.dataset_recipe.get("split_by") == "image" else "patients"
    return f"The best epoch is chosen on validation {unit}; the test {unit} are looked at once, after training."


def _average(runs: Sequence[Run], name: str) -> float:
    values = [float(run.summary[name]) for run in runs if run.summary.get(name) is not None]
    return sum(values) / len(values) if values else math.nan


def _find_median(runs: Sequence[Run], name: str) -> float:
    """Return the median: a run beside other work, or one that was stopped and went on, has no usual time."""
    values = [float(run.summary[name]) for run in runs if run.summary.get(name) is not None]
    return statistics.median(values) if values else math.nan


def _collect(runs: Sequence[Run], name: str) -> str:
    values = sorted({int(run.summary[name]) for run in runs if run.summary.get(name) is not None})
    return ", ".join(f"{value:,}" for value in values) or ABSENT


def _tell_gates(runs: Sequence[Run]) -> str:
    """Return each gate's opening in the best epoch, the mean over runs."""
    openings: dict[str, list[float]] = {}
    for run in runs:
        best = _find_best_epoch(run)
        for column in (name for name in run.history.columns if name.startswith("gates.")):
            openings.setdefault(column.removeprefix("gates."), []).append(float(best[column]))
    return ", ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in openings.items()) or ABSENT


def _find_best_epoch(run: Run) -> pd.Series:
    rows = run.history[run.history["epoch"] == run.summary.get("best_epoch")]
    return (rows if len(rows) else run.history).iloc[-1]


def make_cost_table(results: Results) -> Table | None:
    """Sentence on the cost of all conditions and boxes relative to one alone; None where no run recorded it."""
    rows, numbers = [], []
    for arm in results.arms:
        noted = [run.summary["evaluation"] for run in results.list_runs(arm) if run.summary.get("evaluation")]
        if not noted:
            continue
        names = ("questions", "decodes", "seconds", "decodes_one", "seconds_one")
        found: dict[str, Any] = {name: statistics.median(float(row[name]) for row in noted) for name in names}
        times = found["seconds"] / found["seconds_one"] if found["seconds_one"] else math.nan
        rows.append(
            (
                arm,
                f"{found['questions']:.0f}",
                f"{found['decodes']:.0f}",
                f"{found['seconds']:.1f}",
                f"{found['decodes_one']:.0f}",
                f"{found['seconds_one']:.1f}",
                show_number(times, 2),
            )
        )
        numbers.append({"arm": arm, **found, "times": times})
    if not rows:
        return None
    note = (
        "A question is a case under a condition and a box; each distinct case, text and box is decoded once. "
        "Medians over runs, on the first process. One condition: the arm as it is meant to be used, tight boxes."
    )
    columns = ("Arm", "Questions", "Decodes", "Seconds", "Decodes, one condition", "Seconds, one condition", "Times")
    return make_table("evaluation", "What all conditions cost", note, columns, rows, numbers)
