"""A report on a terminal."""

from rich.console import Console
from rich.table import Table as RichTable

from t2m_bench.reporting.report import Report
from t2m_bench.reporting.table import Table

PLAIN_WIDTH = 190
"""Columns where output goes to a file, so that no table is cut there."""

SHOWN_PARTS = ("headline", "counterfactuals", "ladder", "runs", "search")
"""The rest is in the files."""


def print_report(report: Report) -> None:
    """Print verdicts, the main tables, warnings, and where everything lies."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    for table in (table for part in report.parts if part.key in SHOWN_PARTS for table in part.tables):
        console.print(_show(table))
    for verdict in report.verdicts:
        print(f"{verdict.question} {verdict.headline} {' '.join(verdict.sentences)}")
    for warning in report.warnings:
        print(f"note: {warning}")
    paths = list(report.paths.values())
    first = report.paths.get("html", paths[0])
    beside = ", ".join(path.name for path in paths if path != first)
    print(f"report: {first}" + (f" (beside it: {beside})" if beside else ""))


def _show(table: Table) -> RichTable:
    shown = RichTable(title=table.title, caption=table.note, caption_justify="left")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    return shown
