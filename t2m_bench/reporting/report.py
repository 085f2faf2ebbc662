"""Writes a report: one HTML file, Markdown, tables as CSV and LaTeX, figures as PNG."""

import base64
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.latex import write_document, write_table
from t2m_bench.reporting.parts import Part, make_parts
from t2m_bench.reporting.provenance import list_facts, list_warnings
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import Table
from t2m_bench.reporting.verdicts import Verdict, make_verdicts

FOLDER_NAME = "report"
FORMATS = ("html", "md", "tex", "csv")


@dataclass(frozen=True)
class Report:
    """What was written (format -> file or folder), and what to show on a terminal."""

    paths: Mapping[str, Path]
    verdicts: list[Verdict]
    warnings: list[str]
    parts: list[Part]

    @property
    def tables(self) -> list[Table]:
        """Every table, in order."""
        return [table for part in self.parts for table in part.tables]


def write_report(results: Results, formats: Collection[str] = FORMATS) -> Report:
    """Write the report into the experiment's folder; each file appears whole."""
    comparisons = make_comparisons(results)
    parts = make_parts(results, comparisons, draw="html" in formats or "md" in formats)
    report = Report({}, make_verdicts(results, comparisons), list_warnings(results), parts)
    folder = results.folder / FOLDER_NAME
    paths = {}
    if "csv" in formats:
        paths["csv"] = folder / "tables"
        for table in report.tables:
            _write(folder / "tables" / f"{table.name}.csv", table.numbers.to_csv(index=False).encode())
    if "tex" in formats:
        paths["tex"] = folder / "report.tex"
        for table in report.tables:
            _write(folder / "tables" / f"{table.name}.tex", write_table(table).encode())
        _write(paths["tex"], write_document(_title(results), _list_paragraphs(report), report.tables).encode())
    for kind in ("md", "html"):
        if kind in formats:
            paths[kind] = folder / f"report.{kind}"
            _write(paths[kind], _render(kind, results, report).encode())
    if "md" in formats:
        for figure in (figure for part in parts for figure in part.figures):
            _write(folder / "figures" / f"{figure.name}.png", figure.png)
    return Report(paths, report.verdicts, report.warnings, parts)


def _title(results: Results) -> str:
    return f"Does the text help? {results.experiment['name']}"


def _list_paragraphs(report: Report) -> list[str]:
    verdicts = [f"{verdict.question} {verdict.headline} {' '.join(verdict.sentences)}" for verdict in report.verdicts]
    return [*verdicts, *report.warnings]


def _render(kind: str, results: Results, report: Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t2m_bench.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = _to_uri
    environment.filters["break_interval"] = _break_interval
    content: dict[str, Any] = {
        "title": _title(results),
        "dataset": results.experiment["dataset"]["kind"],
        "verdicts": report.verdicts,
        "warnings": report.warnings,
        "parts": report.parts,
        "facts": list_facts(results),
        "recipe": yaml.safe_dump(results.experiment["recipe"], sort_keys=False),
    }
    return environment.get_template(f"report.{kind}.j2").render(content)


def _break_interval(cell: str) -> str:
    """Put an interval on a line of its own, so that wide tables fit a screen: x [a, b], p y -> x, p y / [a, b]."""
    return re.sub(r"^([^\[]+) (\[[^\]]*\])(.*)$", r"\1\3\n\2", cell)


def _to_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
