"""Sums up a measure over patients, in the columns that its entry gives it in the table of measures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from t2m_bench.recipe.measures import BOX_DIAGONAL, MeasureEntry
from t2m_bench.reporting.table import ABSENT, show_change, show_interval, show_number, show_percent
from t2m_bench.statistics.intervals import compute_patient_means
from t2m_bench.statistics.paired_location import PairedLocation, estimate_location


@dataclass(frozen=True)
class ArmRows:
    """Results that one row of the table sums up.

    Attributes:
        rows: results of the arm as it is meant to be used. free: those of text_free, to compare with; None where the
            arm is not compared.
        distance_unit: of all rows, px or mm.
    """

    rows: pd.DataFrame
    free: pd.DataFrame | None
    distance_unit: str


@dataclass(frozen=True)
class Columns:
    """The columns of one measure in one row: header -> cell, and name -> number for the spreadsheet."""

    cells: Mapping[str, str]
    numbers: Mapping[str, float]


def show_mean(entry: MeasureEntry, arm: ArmRows) -> Columns:
    """Show the mean over patients."""
    mean = float(compute_patient_means(arm.rows, entry.name).mean())
    return Columns({entry.name_column(arm.distance_unit): show_number(mean, 3)}, {entry.name: mean})


def show_median(entry: MeasureEntry, arm: ArmRows) -> Columns:
    """Show the median over patients."""
    median = float(compute_patient_means(arm.rows, entry.name).median())
    return Columns({f"{entry.name_column(arm.distance_unit)}: median": show_number(median, 2)}, {entry.name: median})


def show_quartiles_and_difference(entry: MeasureEntry, arm: ArmRows) -> Columns:
    """Show median and quartiles of a distance, in pixels its share of the box's diagonal, and the paired difference."""
    name = entry.name
    values = compute_patient_means(arm.rows, name)
    share = compute_patient_means(arm.rows.assign(share=arm.rows[name] / arm.rows[BOX_DIAGONAL]), "share").median()
    q1, median, q3 = values.quantile([0.25, 0.5, 0.75])
    paired = compare_location(arm, name)
    shown_share = f" ({show_percent(float(share), signed=False)})" if arm.distance_unit == "px" else ""
    shown = ABSENT if math.isnan(median) else f"{median:.2f} [{q1:.2f}, {q3:.2f}]{shown_share}"
    interval = show_interval(paired.low, paired.high, digits=2)
    difference = show_change(paired.difference, 2) + ("" if interval == ABSENT else f" {interval}")
    header = entry.name_column(arm.distance_unit)
    cells = {f"{header}: median [quartiles]": shown, f"{header}: paired difference to text_free [95 %]": difference}
    numbers = {name: float(median), f"{name}_q1": float(q1), f"{name}_q3": float(q3), f"{name}_share": float(share)}
    numbers |= {f"{name}_difference": paired.difference, f"{name}_difference_low": paired.low}
    return Columns(cells, {**numbers, f"{name}_difference_high": paired.high})


def compare_location(arm: ArmRows, name: str) -> PairedLocation:
    """Return the paired difference to text_free over the patients that both have; NaN where nothing is compared."""
    if arm.free is None or arm.free.empty:
        return estimate_location(np.empty(0))
    both = [compute_patient_means(rows, name) for rows in (arm.rows, arm.free)]
    paired = pd.concat(both, axis=1, join="inner").dropna().to_numpy()
    return estimate_location(paired[:, 0] - paired[:, 1])


def show_signed_and_absolute(entry: MeasureEntry, arm: ArmRows) -> Columns:
    """Show the mean over patients in per cent, and that of absolute values."""
    mean = float(compute_patient_means(arm.rows, entry.name).mean())
    absolute = float(compute_patient_means(arm.rows.assign(a=arm.rows[entry.name].abs()), "a").mean())
    cell = f"{show_percent(mean)} / {show_percent(absolute, signed=False)}"
    numbers = {entry.name: mean, f"{entry.name}_absolute": absolute}
    return Columns({entry.name_column(arm.distance_unit): cell}, numbers)
