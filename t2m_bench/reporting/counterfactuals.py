"""Shows what other texts do to an arm's result: the counterfactual table and the full swap matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from t2m_bench.recipe.conditions import CONDITIONS, RIGHT, SWAP, ConditionEntry
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.results import TIGHT, Results
from t2m_bench.reporting.table import (
    ABSENT,
    BOXES,
    Table,
    flatten_contrast,
    make_table,
    show_change,
    show_interval,
    show_number,
    show_p,
    show_percent,
)
from t2m_bench.statistics.crossed import Contrast, estimate_crossed, estimate_given_models, make_fold_tables
from t2m_bench.statistics.intervals import compute_patient_means

FEWEST_FOR_P = 10
"""Patients below which a cell of one class shows no p."""


@dataclass(frozen=True)
class TextRow:
    """One row of the table of other texts, for each arm.

    Attributes:
        name: in the numbers. label: in the table.
        names: the conditions in results that it is about; several are averaged case by case.
        entry: the condition's entry; None where its package is not installed.
    """

    name: str
    label: str
    names: tuple[str, ...]
    entry: ConditionEntry | None = None


@dataclass(frozen=True)
class Swap:
    """One cell of the swap matrix: cases of one class given another's text."""

    field: str
    own: str
    given: str
    contrast: Contrast
    relative: float


def list_text_arms(results: Results) -> list[str]:
    """Return the arms that were asked with other texts, floors left out."""
    return [arm for arm in results.arms if results.reads_text(arm) and not arm.startswith("floor_")]


def make_counterfactual_table(results: Results) -> Table | None:
    """Table of what each other text costs each arm; None where no arm reads text."""
    rows, numbers = [], []
    for arm in list_text_arms(results):
        right = results.select(arm, RIGHT)
        for row in list_text_rows(results):
            other = select_row(results, arm, row)
            tables = make_fold_tables(right, other, DICE)
            if not tables:
                continue
            contrast = estimate_given_models(tables)
            among = right[right["case"].isin(other["case"])]  # cases without a class have no other's text
            mean = float(compute_patient_means(among, DICE).mean())
            relative = contrast.mean / mean if mean else math.nan
            rows.append(
                (
                    arm,
                    row.label + _mark_unpredicted(results, row) + _mark_untrained(results, arm, row),
                    show_number(float(compute_patient_means(other, DICE).mean())),
                    show_change(contrast.mean),
                    show_percent(relative),
                    show_interval(contrast.low, contrast.high),
                    show_p(contrast.p),
                    str(contrast.num_patients),
                )
            )
            found = flatten_contrast("cost", contrast)
            numbers.append({"arm": arm, "condition": row.name, **found, "relative": relative})
    if not rows:
        return None
    note = (
        "Cost: Dice with right text minus Dice with this one, in points first, then relative to the right "
        "text's. Given "
        "these trained models: the patient is the unit, seeds averaged; p is not adjusted (the family's is in "
        "the ladder). "
        f"{BOXES} {_describe_donors(results)}{_describe_wordings(results)}{_describe_probe(results)}"
    )
    columns = ("Arm", "Text given", "Dice", "Cost", "Relative", "95 % interval", "p", "Patients")
    return make_table("counterfactual", "What other texts cost", note.strip(), columns, rows, numbers)


def list_text_rows(results: Results) -> list[TextRow]:
    """Return the rows in the order of the table of conditions, then those of packages that are not installed here."""
    rows = [row for entry in CONDITIONS if entry.label for row in _list_rows_of(results, entry)]
    kinds: dict[str, list[str]] = {}
    for condition in results.foreign_conditions:
        kinds.setdefault(condition.partition(":")[0], []).append(condition)
    return [*rows, *(TextRow(kind, kind, tuple(names)) for kind, names in kinds.items())]


def _list_rows_of(results: Results, entry: ConditionEntry) -> list[TextRow]:
    """Return the rows of a condition; of several text fields what each field's texts cost by themselves."""
    names = tuple(condition for condition in results.conditions if entry.covers(condition))
    if entry.field_label and len(results.fields) > 1:
        fields = " and ".join(results.fields)
        together = TextRow(entry.name, entry.fields_label.format(fields=fields), (entry.name,), entry)
        by_field = [
            TextRow(
                f"{entry.row or entry.name}:{field}",
                entry.field_label.format(field=field),
                tuple(name for name in names if name.split("=")[0] == f"{entry.name}:{field}"),
                entry,
            )
            for field in results.fields
        ]
        return [*([together] if entry.fields_label else []), *by_field]
    if entry.row:
        return [TextRow(entry.row, entry.label, names, entry)]
    label = entry.free_label if results.is_free_text and not results.fields and entry.free_label else entry.label
    return [TextRow(name, label if name == entry.name else f"{label} ({name})", (name,), entry) for name in names]


def select_row(results: Results, arm: str, row: TextRow) -> pd.DataFrame:
    """Return an arm's rows of results for a row of the table; several conditions are averaged over each case."""
    parts = [results.select(arm, name) for name in row.names]
    if not parts:
        return results.select(arm, row.name)
    if len(parts) == 1 and not (row.entry and row.entry.row):
        return parts[0]
    keys = ["patient", "case", "seed", "fold"]
    return pd.concat(parts).groupby(keys)[[DICE]].mean().reset_index()


def _list_unpredicted(results: Results) -> list[str]:
    """Return the text fields whose class no probe predicted in some fold; `predicted` gives them as unknown."""
    probed = [reference.probe["fields"] for reference in results.references if reference.probe.get("fields")]
    return [field for field in results.fields if any(field not in of_fold for of_fold in probed)]


def _mark_unpredicted(results: Results, row: TextRow) -> str:
    fields = _list_unpredicted(results) if row.entry and row.entry.uses_probe else []
    return f"; {' and '.join(fields)} given as unknown" if fields else ""


def _mark_untrained(results: Results, arm: str, row: TextRow) -> str:
    """Say where a text was never seen in training, so that its row measures what the model was not made for."""
    entry = row.entry
    if entry is None or not (entry.gives_unknown or (entry.uses_probe and _list_unpredicted(results))):
        return ""
    recipes = [run.summary.get("recipe", {}) for run in results.list_runs(arm)]
    dropout = [recipe.get("prompts", {}).get("text_dropout") for recipe in recipes]
    return " (untrained)" if dropout and all(value == 0 for value in dropout) else ""


def _describe_donors(results: Results) -> str:
    near = [found for reference in results.references if (found := reference.probe.get("near_donors")) is not None]
    if near:
        return (
            f"Of other patients' texts {100 * sum(near) / len(near):.0f} % are the case's own or nearly so (cosine "
            "above 0.95 after subtracting the mean training text); they are not given. "
        )
    shares = [reference.probe["same_class_donors"] for reference in results.references if reference.probe]
    if not shares:
        return ""
    return (
        f"Of patients drawn at random {100 * sum(shares) / len(shares):.0f} % have the same class, whose text would "
        "change nothing; they are no donors. "
    )


def tell_wordings(results: Results) -> str:
    """Say how many held-out sentences the text encoder puts nearest to a training sentence of their class."""
    noted = [reference.probe.get("wordings_nearest_in_class") for reference in results.references]
    homes: dict[str, tuple[int, int]] = next((of_field for of_field in noted if of_field), {})
    return ", ".join(f"{field} {hits} of {total}" for field, (hits, total) in homes.items())


def _describe_wordings(results: Results) -> str:
    told = tell_wordings(results)
    if not told:
        return ""
    return (
        f"Held-out sentences that the text encoder puts nearest to a training sentence of their class: {told}; of the "
        "others the row measures the encoder, not the model. "
    )


def _describe_probe(results: Results) -> str:
    """Say how well the class can be read off the box and the embedding, the mean over folds."""
    told = []
    unit = " (its size in mm)" if all(r.probe.get("box_unit") == "mm" for r in results.references) else ""
    for field in results.fields:
        found = [r.probe["fields"][field]["auc"] for r in results.references if field in r.probe.get("fields", {})]
        parts = []
        for name, label in (("box", f"the box alone{unit}"), ("embedding_and_box", "embedding and box")):
            values = [auc[name] for auc in found if auc.get(name) is not None]
            if values:
                parts.append(f"{sum(values) / len(values):.2f} from {label}")
        if parts:
            told.append(f"{field} {' and '.join(parts)}")
    if not told:
        return ""
    return (
        f"Redundancy probe, macro AUC of the class: {'; '.join(told)}. Where the predicted class does as well as "
        "the right "
        "text, the text adds nothing that the image lacks."
    )


def list_swaps(results: Results, arm: str) -> list[Swap]:
    """Return every cell of the swap matrix of an arm, in order: right minus swapped Dice by own and given class."""
    swaps = []
    right = results.select(arm, RIGHT)
    for field, given in _list_swapped(results):
        rows = results.select(arm, f"{SWAP}:{field}={given}")
        if rows.empty:
            continue
        own = results.list_values(rows, field)
        for value in results.sort_values(field, own.unique()):
            part = rows[own == value]
            among = right[right["case"].isin(part["case"])]
            tables = make_fold_tables(among, part, DICE)
            if tables:
                contrast = _estimate_small(tables)
                mean = float(compute_patient_means(among, DICE).mean())
                swaps.append(Swap(field, value, given, contrast, contrast.mean / mean if mean else math.nan))
    return swaps


def _list_swapped(results: Results) -> list[tuple[str, str]]:
    """Return (field, class given) of every swap that was asked, fields and classes in their order."""
    prefix = f"{SWAP}:"
    pairs = [name.removeprefix(prefix).split("=", 1) for name in results.conditions if name.startswith(prefix)]
    found = []
    for field in results.fields:
        given = [value for name, value in pairs if name == field]
        found += [(field, value) for value in results.sort_values(field, given)]
    return found


def _estimate_small(tables: Sequence[Any]) -> Contrast:
    """Return the estimate of one class, folds taken together: single folds may hold one patient of it."""
    together = pd.concat([pd.DataFrame(table.mean(axis=1, keepdims=True)) for table in tables])
    return estimate_crossed([together.to_numpy()])


def make_swap_table(results: Results, arm: str) -> Table | None:
    """The full matrix as rows; None where it was not asked for."""
    rows, numbers = [], []
    for swap in list_swaps(results, arm):
        contrast, few = swap.contrast, swap.contrast.num_patients < FEWEST_FOR_P
        trained = results.count_training_cases(swap.field, swap.given)
        rows.append(
            (
                f"{swap.field}: {swap.own} as {swap.given}",
                show_change(contrast.mean),
                show_percent(swap.relative),
                show_interval(contrast.low, contrast.high),
                ABSENT if few else show_p(contrast.p),
                str(contrast.num_patients),
                ABSENT if trained is None else str(trained),
            )
        )
        cell = {"arm": arm, "field": swap.field, "own": swap.own, "given": swap.given}
        counts = {"patients": contrast.num_patients, "training_cases": trained, "relative": swap.relative}
        numbers.append({**cell, **flatten_contrast("cost", contrast, math.nan if few else contrast.p), **counts})
    if not rows:
        return None
    note = (
        f"{arm}: Dice with right text minus Dice with the other class's, by the case's own class; given these trained "
        f"models. p is not adjusted, and not given below {FEWEST_FOR_P} patients. Training cases: of the class whose "
        "text is given (fewest over folds). "
        f"{BOXES}"
    )
    columns = ("Class and text", "Cost", "Relative", "95 % interval", "p", "Patients", "Training cases")
    return make_table("swaps", "Every class with every other's text", note, columns, rows, numbers)


def find_box_conditions(results: Results) -> list[str]:
    """Return tight first, then the other boxes by kind and size."""
    boxes = set(results.table["box"]) - {TIGHT}
    return [TIGHT, *sorted(boxes, key=lambda box: (box.split("_")[0], int(box.split("_")[1])))]
