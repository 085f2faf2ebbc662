"""A table as text, and how numbers are written in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from t2m_bench.statistics.crossed import Contrast
from t2m_bench.statistics.intervals import Estimate

ABSENT = "-"

BOXES = "Boxes are tight and come from the reference mask."
BOXES_BUT_NAMED = "Boxes come from the reference mask, and are tight unless a row names another."

LACKING_MEAN = "An arm of fewer patients, as marked, lacks test folds: its mean is not comparable with the others'."

LACKING = f"{LACKING_MEAN} Its gains, over shared patients, are."

BOOTSTRAP_SEED = 0
"""Seed of every bootstrap, so that a report can be made again to the digit."""


@dataclass(frozen=True)
class Table:
    """One table as text, and the numbers behind it for a spreadsheet."""

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: pd.DataFrame

    def is_text(self, column: int) -> bool:
        """Return whether a column, by its number, holds words and is to stand to the left."""
        return column == 0 or (bool(self.rows) and self.rows[0][column][:1].isalpha())


def make_table(
    name: str,
    title: str,
    note: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Sequence[Mapping[Any, Any]],
) -> Table:
    """Return a table of rows, each with its numbers."""
    return Table(name, title, note, tuple(columns), tuple(tuple(row) for row in rows), pd.DataFrame(list(numbers)))


def show_number(value: float, digits: int = 3) -> str:
    """Return a number, or a dash where it is not defined."""
    return ABSENT if math.isnan(value) else f"{value:.{digits}f}"


def show_change(value: float, digits: int = 4) -> str:
    """Return a signed number, or a dash where it is not defined."""
    return ABSENT if math.isnan(value) else f"{value:+.{digits}f}"


def show_percent(value: float, digits: int = 1, signed: bool = True) -> str:
    """Return a share as per cent, or a dash where it is not defined."""
    if math.isnan(value):
        return ABSENT
    return f"{100 * value:+.{digits}f} %" if signed else f"{100 * value:.{digits}f} %"


def show_interval(low: float, high: float, signed: bool = True, digits: int = 4) -> str:
    """Return [low, high], or a dash where it is not defined."""
    if math.isnan(low):
        return ABSENT
    sign = "+" if signed else ""
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def show_p(p: float) -> str:
    """Return p as journals print it, or a dash where it is not defined."""
    if math.isnan(p):
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def show_contrast(contrast: Contrast | None, digits: int = 4) -> str:
    """Return a mean difference with its interval."""
    if contrast is None:
        return ABSENT
    interval = show_interval(contrast.low, contrast.high, digits=digits)
    return show_change(contrast.mean, digits) + ("" if interval == ABSENT else f" {interval}")


def show_estimate(estimate: Estimate | None, digits: int = 3) -> str:
    """Return a mean with its interval; its further decimals are chance of the bootstrap."""
    if estimate is None:
        return ABSENT
    interval = show_interval(estimate.low, estimate.high, signed=False, digits=digits)
    return show_number(estimate.mean, digits) + ("" if interval == ABSENT else f" {interval}")


def flatten_contrast(name: str, contrast: Contrast | None, p: float | None = None) -> dict[str, float]:
    """Return name, name_low, name_high and name_p, NaN where there is no such contrast.

    Args:
        p: what to give in place of the contrast's own: adjusted, or NaN where none may be shown.
    """
    if contrast is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_p"), math.nan)
    shown = contrast.p if p is None else p
    return {name: contrast.mean, f"{name}_low": contrast.low, f"{name}_high": contrast.high, f"{name}_p": shown}
