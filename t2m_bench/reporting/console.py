"""A report on a terminal: the verdicts, one narrow table, and where the rest is; or every table."""

import math
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from t2m_bench.recipe.conditions import PLAUSIBLE, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.headline import COST_OF_PLAUSIBLE
from t2m_bench.reporting.report import Report
from t2m_bench.reporting.table import ABSENT, Table
from t2m_bench.terminal import find_width, print_sentence, wrap

FULL_WIDTH = 190
"""Columns of the full tables where output goes to a file, so that no table is cut there."""

FULL_PARTS = ("headline", "counterfactuals", "ladder", "runs", "search")
"""The parts that the full form prints; the rest is in the files."""

BRIEF_REASONS = 2
"""Verdicts that a brief report shows with figures: whether the text helps, and whether the model relies on it."""

BRIEF_DIGITS = 3


def print_report(report: Report, full: bool = False) -> None:
    """Print verdicts, warnings, the arms in one narrow table, and where everything is.

    Args:
        full: print the main tables with intervals of everything and each verdict with all its reasons.
    """
    width = find_width()
    for number, verdict in enumerate(report.verdicts):
        print(wrap(f"{verdict.question} {verdict.headline}", width))
        for sentence in verdict.sentences if full else verdict.sentences[: number < BRIEF_REASONS]:
            print(wrap(sentence, width, indent="  "))
    for table in _list_tables(report, full):
        _print_table(table, full)
    notes = report.warnings if full else [" ".join(report.warnings)] if report.warnings else []
    for note in notes:
        print(wrap(f"Note: {note}", width))
    # paths and commands are copied, so a log keeps them whole
    paths = list(report.paths.values())
    first = report.paths.get("html", paths[0])
    beside = ", ".join(path.name for path in paths if path != first)
    print_sentence(f"report: {first}" + (f" (beside it: {beside})" if beside and full else ""))
    if not full:
        print_sentence(f"every table and reason: t2m-bench report {shlex.quote(str(first.parents[1]))} --full")


def _list_tables(report: Report, full: bool) -> list[Table]:
    if full:
        return [table for part in report.parts if part.key in FULL_PARTS for table in part.tables]
    return [brief for brief in (make_brief_table(report), _find_search_table(report)) if brief is not None]


def make_brief_table(report: Report) -> Table | None:
    """Return each arm's Dice, gain from text and cost of wrong text, in 80 columns; None where there are no arms."""
    arms = report.find_table("arms")
    if arms is None:
        return None
    measured = arms.numbers[~arms.numbers["published"].astype(bool)]
    is_plausible = COST_OF_PLAUSIBLE in measured and measured[COST_OF_PLAUSIBLE].notna().any()
    rows = tuple(
        (
            str(row["arm"]),
            f"{row[DICE]:.{BRIEF_DIGITS}f}",
            _show_gain(row, "help"),
            _show_gain(row, COST_OF_PLAUSIBLE if is_plausible else "cost_of_wrong"),
        )
        for row in measured.to_dict("records")
    )
    columns = ("Arm", "Dice", "Help (gain from text)", f"Cost of {PLAUSIBLE if is_plausible else WRONG} text")
    return Table("brief", "", "", columns, rows, measured)


def _show_gain(row: Mapping[Any, Any], name: str) -> str:
    """Return a difference with its interval in as few digits as carry."""
    mean, low, high = (row.get(key, math.nan) for key in (name, f"{name}_low", f"{name}_high"))
    if math.isnan(mean):
        return ABSENT
    shown = f"{mean:+.{BRIEF_DIGITS}f}"
    return shown if math.isnan(low) else f"{shown} [{low:+.{BRIEF_DIGITS}f}, {high:+.{BRIEF_DIGITS}f}]"


def _find_search_table(report: Report) -> Table | None:
    """Return the table of a sweep's studies, where this report is a sweep's."""
    found = report.find_table("sweep_studies")
    if found is None or report.find_table("arms") is not None:
        return None
    kept = ("trials", "COMPLETE", "PRUNED", "FAIL")
    names = {"trials": "Trials", "COMPLETE": "Complete", "PRUNED": "Stopped early", "FAIL": "Failed"}
    there = [name for name in kept if name in found.numbers]
    rows = tuple((str(row["study"]), *(str(row[name]) for name in there)) for row in found.numbers.to_dict("records"))
    return Table("brief", "", "", ("Study", *(names[name] for name in there)), rows, found.numbers)


def _print_table(table: Table, full: bool) -> None:
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else FULL_WIDTH) if full else Console(width=find_width())
    shown = RichTable(
        title=table.title or None,
        caption=table.note or None,
        caption_justify="left",
        box=box.HEAVY_HEAD if full else box.SIMPLE_HEAD,
        show_edge=full,
    )
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
