"""Distances between edges, precision, recall and areas of each arm: every measure of the table but the headline's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from t2m_bench.recipe.measures import MEASURE_TABLE, MeasureEntry
from t2m_bench.recipe.registry import load_object
from t2m_bench.reporting.arms import REFERENCE, is_trained
from t2m_bench.reporting.measure_columns import ArmRows, Columns
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import BOXES, Table, make_table


def make_measures_table(results: Results) -> Table | None:
    """Distances, precision, recall and areas of each arm, then other packages' measures; None without any."""
    unit = str(results.table["distance_unit"].mode().iloc[0])
    foreign = results.table[results.table["distance_unit"] != unit]
    results = replace(results, table=results.table.drop(foreign.index))
    entries = list_shown(results)
    if not entries:
        return None
    rows, numbers, headers = [], [], ["Arm"]
    for arm in results.arms:
        found = [load_object(entry.show)(entry, _select_arm(results, arm, unit)) for entry in entries]
        counts = _count_undefined(results, arm)
        headers = ["Arm", *(header for columns in found for header in columns.cells)]
        cells = [cell for columns in found for cell in columns.cells.values()]
        said = f"{counts['empty_predictions']} / {counts['undefined']} of {counts['predictions']}"
        rows.append((results.name_arm(arm), *cells, said))
        numbers.append({"arm": arm, **_join_numbers(found), **counts})
    note = _write_note(unit, entries)
    if len(foreign):
        note += f" {foreign['case'].nunique()} cases with distances in {foreign['distance_unit'].iloc[0]} are left out."
    columns = (*headers, "Empty / undefined predictions")
    return make_table("measures", "Distances and areas", note, columns, rows, numbers)


def list_shown(results: Results) -> list[MeasureEntry]:
    """Return the measures that the table shows, in the order of their table: those that some row has a value of."""
    unknown = [MeasureEntry(name, compute="", label=name) for name in results.foreign_measures]
    known = [entry for entry in MEASURE_TABLE if entry.show]
    return [entry for entry in (*known, *unknown) if results.table[entry.name].notna().any()]


def _select_arm(results: Results, arm: str, unit: str) -> ArmRows:
    is_compared = arm != REFERENCE and is_trained(arm)
    return ArmRows(results.select_main(arm), results.select_main(REFERENCE) if is_compared else None, unit)


def _join_numbers(found: Sequence[Columns]) -> dict[str, float]:
    return {name: value for columns in found for name, value in columns.numbers.items()}


def _count_undefined(results: Results, arm: str) -> dict[str, Any]:
    """Return how many predictions there are, how many are empty, and of how many a measure is undefined."""
    rows = results.select_main(arm)
    counted = [entry.name for entry in MEASURE_TABLE if entry.counts_undefined]
    undefined = int(rows[counted].isna().any(axis="columns").sum())
    return {"predictions": len(rows), "empty_predictions": int(rows["pred_empty"].sum()), "undefined": undefined}


def _write_note(unit: str, entries: Sequence[MeasureEntry]) -> str:
    where = (
        "Distances in pixels, and HD95 as a share of the box's diagonal; surface Dice within a share of that diagonal."
        if unit == "px"
        else "Distances in millimetres in the image's plane (2D)."
    )
    others = [entry for entry in entries if entry not in MEASURE_TABLE.own and entry.better]
    better = "".join(f" Of {entry.label or entry.name}, {entry.better} values are better." for entry in others)
    return (
        f"{where} HD95 is the larger of the two directed 95th percentiles, on edge pixels (MONAI's definition). Its "
        "paired difference to text_free is Hodges and Lehmann's, the median of the means of all pairs of patients' "
        "differences, with the interval of Wilcoxon's signed ranks: given these trained models, not adjusted. "
        "An empty "
        "prediction counts with the image's diagonal; precision or recall without a denominator is undefined and "
        f"left out. Both are counted over cases and seeds.{better} "
        f"{BOXES}"
    )
