"""Writes a report: page one and its supplement in HTML, Markdown, tables as CSV and LaTeX, figures as PNG and PDF."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2m_bench.files import write_atomically
from t2m_bench.recipe.yaml_text import dump_yaml
from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.drawing import Figure
from t2m_bench.reporting.latex import write_document, write_table
from t2m_bench.reporting.page_one import PageOne, make_page_one
from t2m_bench.reporting.provenance import list_facts, list_warnings
from t2m_bench.reporting.rendering import render
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.search import find_search, load_best_recipe, load_search
from t2m_bench.reporting.sections import PAGE_ONE, ReportSection, make_search_section, make_sections
from t2m_bench.reporting.table import Table
from t2m_bench.reporting.verdict import Verdict
from t2m_bench.reporting.verdicts import make_verdicts

FOLDER_NAME = "report"
SUPPLEMENT_NAME = "report_supplement.html"
FORMATS = ("html", "md", "tex", "csv")


@dataclass(frozen=True)
class Report:
    """Files of a report (format -> file or folder), and its parts for a terminal; a sweep's has no page one."""

    paths: Mapping[str, Path]
    verdicts: list[Verdict]
    warnings: list[str]
    parts: list[ReportSection]
    page: PageOne | None = None

    @property
    def tables(self) -> list[Table]:
        """Every table, in order."""
        return [table for part in self.parts for table in part.tables]

    def find_table(self, name: str) -> Table | None:
        """Return the table of that name, None where the report has none."""
        return next((table for table in self.tables if table.name == name), None)


def write_report(results: Results, formats: Collection[str] = FORMATS) -> Report:
    """Write the report into the experiment's folder; each file appears whole."""
    draw = bool({"html", "md", "tex"} & set(formats))
    comparisons = make_comparisons(results)
    verdicts = make_verdicts(results, comparisons)
    page = make_page_one(results, verdicts, draw)
    parts = make_sections(results, comparisons, page, draw)
    search = find_search(results.folder)
    if search is not None:
        parts.append(make_search_section(search, draw))
    report = Report({}, verdicts, list_warnings(results), parts, page)
    about = {
        "title": f"Does the text help? {results.experiment['name']}",
        "dataset": results.experiment["dataset"]["kind"],
        "facts": list_facts(results),
        "recipe": dump_yaml(results.experiment["recipe"]),
    }
    return _write_all(results.folder / FOLDER_NAME, report, about, formats)


def write_sweep_report(folder: Path, formats: Collection[str] = FORMATS) -> Report:
    """Write the report of a sweep's studies into its folder.

    Raises:
        RunFolderError: the folder holds no study that can be read.
    """
    search = load_search(folder)
    recipe = load_best_recipe(folder)
    warning = "Every value is of validation cases, from which the winner was chosen: no test figure stands here."
    part = make_search_section(search, "html" in formats or "md" in formats)
    about = {
        "title": f"What mattered? Sweep {folder.name}",
        "dataset": recipe.get("dataset", {}).get("kind", "of the sweep's recipe"),
        "facts": [("Studies", ", ".join(search.studies)), ("Folder", str(folder))],
        "recipe": dump_yaml(recipe) if recipe else "# no trial came to its end\n",
    }
    return _write_all(folder / FOLDER_NAME, Report({}, [], [warning], [part]), about, formats)


def _write_all(folder: Path, report: Report, about: Mapping[str, Any], formats: Collection[str]) -> Report:
    """Write a report in each format; `about` holds title, dataset, facts and recipe."""
    paths = {}
    if "csv" in formats:
        paths["csv"] = folder / "tables"
        for table in report.tables:
            _write(folder / "tables" / f"{table.name}.csv", table.numbers.to_csv(index=False).encode())
    if "tex" in formats:
        paths["tex"] = folder / "report.tex"
        for table in report.tables:
            _write(folder / "tables" / f"{table.name}.tex", write_table(table).encode())
        document = write_document(about["title"], _list_paragraphs(report), report.tables, _list_first_figures(report))
        _write(paths["tex"], document.encode())
    if "md" in formats:
        paths["md"] = folder / "report.md"
        _write(paths["md"], _render("report.md.j2", report, about).encode())
    if "html" in formats:
        paths["html"] = folder / "report.html"
        first = "page_one.html.j2" if report.page else "supplement.html.j2"
        _write(paths["html"], _render(first, report, about).encode())
        if report.page:
            _write(folder / SUPPLEMENT_NAME, _render("supplement.html.j2", report, about).encode())
    for figure in (figure for part in report.parts for figure in part.figures):
        if "md" in formats:
            _write(folder / "figures" / f"{figure.name}.png", figure.png)
        if "tex" in formats:
            _write(folder / "figures" / f"{figure.name}.pdf", figure.pdf)
    return replace(report, paths=paths)


def _list_first_figures(report: Report) -> list[Figure]:
    return [figure for part in report.parts if part.key == PAGE_ONE for figure in part.figures]


def _list_paragraphs(report: Report) -> list[str]:
    page = report.page
    first = [page.question, f"{page.headline} {page.answer}", *page.cautions] if page else []
    verdicts = [f"{verdict.question} {verdict.headline} {' '.join(verdict.sentences)}" for verdict in report.verdicts]
    return [*first, *verdicts, *report.warnings]


def _render(template: str, report: Report, about: Mapping[str, Any]) -> str:
    content = {
        **about,
        "verdicts": report.verdicts,
        "warnings": report.warnings,
        "page": report.page,
        "first": next((part for part in report.parts if part.key == PAGE_ONE), None),
        "parts": [part for part in report.parts if part.key != PAGE_ONE],
        "supplement": SUPPLEMENT_NAME,
    }
    return render(template, content, {"break_interval": break_interval, "split_caption": split_caption})


def split_caption(note: str) -> tuple[str, str]:
    """Return the first sentence of a note, which stands below its table, and the rest, which is folded away."""
    first, _, rest = note.partition(". ")
    return (f"{first}." if rest else first), rest


def break_interval(cell: str) -> str:
    """Put an interval on a line of its own, so that wide tables fit a screen: x [a, b], p y -> x, p y / [a, b]."""
    return re.sub(r"^([^\[]+) (\[[^\]]*\])(.*)$", r"\1\3\n\2", cell)


def _write(path: Path, content: bytes) -> None:
    with write_atomically(path) as partial:  # two parts of a suite that end together may both write
        partial.write_bytes(content)
