"""The tables of a report on a terminal."""

from rich.console import Console
from rich.table import Table as RichTable

from t2m_bench.reporting.tables import Table

PLAIN_WIDTH = 190
"""Columns where output goes to a file, so that no table is cut there."""


def print_tables(tables: list[Table]) -> None:
    """Print tables with their notes."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    for table in tables:
        shown = RichTable(title=table.title, caption=table.note, caption_justify="left")
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
