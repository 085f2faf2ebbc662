"""Results by box, by class, and the cases that text harms."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.recipe.conditions import RIGHT, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import REFERENCE, TEXTLESS_CONDITION, is_trained
from t2m_bench.reporting.comparisons import Comparison, compare_arms, compare_conditions, find_p, name_wrong_text
from t2m_bench.reporting.counterfactuals import find_box_conditions, list_text_arms
from t2m_bench.reporting.results import TIGHT, Results
from t2m_bench.reporting.table import (
    BOXES,
    LACKING_MEAN,
    Table,
    flatten_contrast,
    make_table,
    show_contrast,
    show_number,
    show_percent,
)
from t2m_bench.statistics.intervals import compute_patient_means

HARM = 0.1
"""Dice lost by a case that counts as harmed."""


def name_box(box: str) -> str:
    """Return in words how a box differs from the tight one."""
    if box == TIGHT:
        return "tight"
    kind, percent = box.split("_")
    words = {"jitter": "each side moved by up to", "loose": "each side outward by", "shift": "moved by"}
    return f"{words[kind]} {percent} %"


def _name_wrong(results: Results) -> str:
    return name_wrong_text(results.wrong_condition)


def make_box_table(results: Results, method: str, comparisons: Sequence[Comparison]) -> Table | None:
    """Dice over box quality with right, wrong and no text; None where all boxes are tight."""
    boxes = find_box_conditions(results)
    if len(boxes) == 1:
        return None
    rows, numbers = [], []
    for box in boxes:
        asked = {
            RIGHT: results.select(method, RIGHT, box),
            WRONG: results.select(method, results.wrong_condition, box),
            TEXTLESS_CONDITION: results.select_main(REFERENCE, box),
            "baseline": results.select_main("baseline", box),
            "ellipse": results.select_main("floor_ellipse", box),
        }
        there = [set(part["case"]) for part in asked.values() if len(part)]
        shared = set.intersection(*there) if there else set()
        asked = {name: part[part["case"].isin(shared)] for name, part in asked.items()}
        means = {name: _mean_dice(part) for name, part in asked.items()}
        gain = compare_arms(results, method, REFERENCE, box)
        cost = compare_conditions(results, method, RIGHT, results.wrong_condition, box)
        shown = [show_number(mean) for mean in means.values()]
        rows.append((name_box(box), *shown, show_contrast(gain), show_contrast(cost)))
        name = "" if box == TIGHT else f" ({box})"
        wrong = f"{method}: {RIGHT} - {results.wrong_condition}{name}"
        flat = flatten_contrast("help", gain, find_p(comparisons, f"{method} - {REFERENCE}{name}"))
        flat |= flatten_contrast("cost_of_wrong", cost, find_p(comparisons, wrong))
        numbers.append({"box": box, **means, **flat})
    note = (
        f"{method} with right text and {_name_wrong(results)}, {REFERENCE} for no text. "
        "Every box comes from the reference mask and is then "
        "changed by per cent of its size; a moved side is drawn once a case and shared by all arms and seeds. "
        "The means of a row are over the cases that all its columns have: a case without a class has no wrong text, a "
        "fold that is not finished lacks an arm; without such cases there are none. Cost is given these trained models."
    )
    columns = (
        "Box",
        "Right text",
        _name_wrong(results).capitalize(),
        "No text",
        "Baseline",
        "Ellipse in the box",
        "Help",
        f"Cost of {_name_wrong(results)}",
    )
    return make_table("boxes", "Box and text together", note, columns, rows, numbers)


def make_arm_box_table(results: Results) -> Table | None:
    """Dice of each arm over box quality, with right text where it reads one; None where all boxes are tight."""
    boxes = find_box_conditions(results)
    if len(boxes) == 1:
        return None
    rows, numbers, is_whole = [], [], True
    for arm in results.arms:
        parts = [results.select_main(arm, box) for box in boxes]
        means = [_mean_dice(part) for part in parts]
        least = min((part for part in parts if len(part)), key=lambda part: part["patient"].nunique(), default=parts[0])
        lacking = results.tell_lacking(least)
        is_whole = is_whole and not lacking
        rows.append((results.name_arm(arm) + lacking, *map(show_number, means)))
        numbers.append({"arm": arm, **dict(zip(boxes, means, strict=True))})
    note = (
        "With right text where an arm reads one; each mean is over the cases that its arm has. What an arm gains with "
        "tight boxes it may lose with loose ones. "
        "Every box comes from the reference mask and is then changed by per cent of its size."
    )
    columns = ("Arm", *map(name_box, boxes))
    return make_table(
        "arm_boxes", "Arms and boxes", note + ("" if is_whole else f" {LACKING_MEAN}"), columns, rows, numbers
    )


def _mean_dice(rows: pd.DataFrame) -> float:
    return float(compute_patient_means(rows, DICE).mean()) if len(rows) else math.nan


def make_class_table(results: Results, field: str) -> Table:
    """Mean Dice of each arm by the case's own class, and their plain mean."""
    all_values = results.list_values(results.table, field)
    classes = results.sort_values(field, all_values.unique())
    rows, numbers, is_whole = [], [], True
    for arm in results.arms:
        good = results.select_main(arm)
        own = results.list_values(good, field)
        means = [_mean_dice(good[own == name]) for name in classes]
        known = [mean for name, mean in zip(classes, means, strict=True) if name != UNKNOWN]
        macro = float(np.mean(known)) if known else math.nan
        lacking = results.tell_lacking(good)
        is_whole = is_whole and not lacking
        rows.append((results.name_arm(arm) + lacking, *(show_number(mean) for mean in means), show_number(macro)))
        numbers.append({"arm": arm, **dict(zip(classes, means, strict=True)), "macro": macro})
    first = results.table.drop_duplicates("case")
    counts = first.groupby(results.list_values(first, field))["patient"].nunique()
    told = ", ".join(f"{name}: {counts[name]}" for name in classes)
    note = f"Patients of each class: {told}. The macro-average counts classes equally, {UNKNOWN} is none. {BOXES}" + (
        "" if is_whole else f" {LACKING_MEAN}"
    )
    name = "classes" if len(results.fields) == 1 else f"classes_{field}"
    return make_table(name, f"Dice by {field}", note, ("Arm", *classes, "Macro-average"), rows, numbers)


def make_harm_table(results: Results) -> Table | None:
    """Table of the cases that lose by text: at all, beyond the margin, beyond HARM; None where no arm reads text."""
    rows, numbers = [], []
    least = {"at_all": 0.0, "margin": results.margin, "harmed": HARM}
    for arm in list_text_arms(results):
        right = _case_dice(results.select(arm, RIGHT))
        wrong = _case_dice(results.select(arm, results.wrong_condition))
        free = _case_dice(results.select_main(REFERENCE)) if is_trained(arm) else pd.Series(dtype=float)
        found: dict[str, Any] = {"arm": arm}
        shown = [arm]
        for name, other in (("wrong_text", right - wrong), ("right_text", free - right)):
            lost = other.dropna()
            worst = float(lost.max()) if len(lost) else math.nan
            counts = {part: int((lost > by).sum()) for part, by in least.items()}
            found |= {f"{name}_{part}": count for part, count in counts.items()}
            found |= {f"{name}_cases": len(lost), f"{name}_worst": worst}
            shown += [_show_losses(list(counts.values()), len(lost)), show_number(worst)]
        rows.append(tuple(shown))
        numbers.append(found)
    if not rows:
        return None
    sizes = f"at all / more than {results.margin:g} / more than {HARM:g} Dice"
    note = (
        f"Cases that lose {sizes}, seeds averaged: with {_name_wrong(results)} against right text, and with right text "
        f"against {REFERENCE}. An arm that is worse on average may have no case that loses more than {HARM:g}. {BOXES}"
    )
    columns = (
        "Arm",
        f"Lose by {_name_wrong(results)}: {sizes}",
        "Largest loss by it",
        f"Lose against no text: {sizes}",
        "Largest loss against none",
    )
    return make_table("harm", "Harm", note, columns, rows, numbers)


def _show_losses(counts: Sequence[int], cases: int) -> str:
    """Return the counts of growing losses of all cases, with the share of the largest."""
    share = counts[-1] / cases if cases else math.nan
    return f"{' / '.join(map(str, counts))} of {cases} ({show_percent(share, signed=False)})"


def _case_dice(rows: pd.DataFrame) -> pd.Series:
    return rows.groupby("case")[DICE].mean()
