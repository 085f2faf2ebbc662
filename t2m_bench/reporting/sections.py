"""The parts of a report in their order: each has tables and figures, or says what it lacks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from t2m_bench.recipe.conditions import RIGHT
from t2m_bench.reporting.arms import find_method
from t2m_bench.reporting.comparison_table import make_ladder_table, make_rank_table, make_secondary_table
from t2m_bench.reporting.comparisons import Comparison
from t2m_bench.reporting.counterfactuals import list_text_arms, make_counterfactual_table, make_swap_table
from t2m_bench.reporting.distances import make_measures_table
from t2m_bench.reporting.drawing import Figure
from t2m_bench.reporting.failures import make_failure_table
from t2m_bench.reporting.figures import (
    draw_boxes,
    draw_gates,
    draw_learning_curves,
    draw_swaps,
    draw_violins,
)
from t2m_bench.reporting.geometry import make_geometry_table
from t2m_bench.reporting.headline import make_headline_table
from t2m_bench.reporting.image_audit import make_image_table
from t2m_bench.reporting.page_one import PageOne, make_numbers_tables
from t2m_bench.reporting.provenance import make_audit_table
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.search import Search, make_search_figures, make_search_tables
from t2m_bench.reporting.subgroups import make_arm_box_table, make_box_table, make_class_table, make_harm_table
from t2m_bench.reporting.table import Table
from t2m_bench.reporting.training_cost import make_cost_table, make_runs_table


@dataclass(frozen=True)
class ReportSection:
    """One part of a report. `lacks` says what would be here in a whole suite, empty where nothing is lacking."""

    key: str
    title: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    lacks: str


PAGE_ONE = "page_one"
"""Key of the first part, whose table and figures stand on the first page."""


def make_sections(
    results: Results, comparisons: Sequence[Comparison], page: PageOne, draw: bool = True
) -> list[ReportSection]:
    """Return every part, page one first; with figures unless `draw` is False."""
    first = ReportSection(PAGE_ONE, "Page one", (page.table,), page.figures, "")
    parts = [first, *_make_clean_sections(results, comparisons, draw)]
    return [_mark_leakage(part) for part in parts] if results.experiment["allow_leakage"] else parts


def _mark_leakage(part: ReportSection) -> ReportSection:
    """Let each table say by itself that leakage was allowed: tables are copied out of their report."""
    marked = (
        replace(
            table,
            note=f"Leakage was allowed: not honest test figures. {table.note}".rstrip(),
            numbers=table.numbers.assign(leakage_allowed=True),
        )
        for table in part.tables
    )
    return replace(part, tables=tuple(marked))


def _make_clean_sections(results: Results, comparisons: Sequence[Comparison], draw: bool) -> list[ReportSection]:
    method = find_method(results.arms) or next(iter(list_text_arms(results)), None)
    boxes = make_box_table(results, method, comparisons) if method else None
    return [
        _make(
            "headline",
            "Results",
            [make_headline_table(results, comparisons), make_measures_table(results)],
            [draw_violins(results)] if draw else [],
        ),
        _make(
            "counterfactuals", "Other texts", [make_counterfactual_table(results)], [], "No arm was asked with text."
        ),
        _make("ladder", "Is the text needed?", [make_ladder_table(results, comparisons)], []),
        _make(
            "swaps",
            "Swap matrix",
            [make_swap_table(results, method) if method else None],
            draw_swaps(results, method) if method and draw else [],
            "No case was asked with every other class's text (condition swap).",
        ),
        _make(
            "boxes",
            "Boxes",
            [boxes, make_arm_box_table(results)],
            [draw_boxes(boxes, method) if boxes and method and draw and boxes.numbers[RIGHT].notna().any() else None],
            "All boxes are tight; looser ones were not asked.",
        ),
        _make("classes", "Classes", [make_class_table(results, field) for field in results.fields], []),
        _make("failures", "Failures", [make_failure_table(results)], []),
        _make("harm", "Harm", [make_harm_table(results)], [], "No arm was asked with text."),
        _make(
            "runs",
            "Training",
            [make_runs_table(results), make_cost_table(results)],
            [draw_learning_curves(results), draw_gates(results)] if draw else [],
        ),
        _make("page_one_numbers", "Numbers of page one's figures", make_numbers_tables(results), []),
        _make(
            "audit", "Audit", [make_audit_table(results), make_image_table(results), make_geometry_table(results)], []
        ),
        _make("appendix", "Appendix", [make_secondary_table(results, comparisons), make_rank_table(results)], []),
    ]


def make_search_section(search: Search, draw: bool = True) -> ReportSection:
    """Return what a sweep tells, with Optuna's plots unless `draw` is False."""
    figures = make_search_figures(search) if draw else []
    return ReportSection("search", "Search", tuple(make_search_tables(search)), tuple(figures), "")


def _make(
    key: str, title: str, tables: Iterable[Table | None], figures: Iterable[Figure | None], lacks: str = ""
) -> ReportSection:
    kept = tuple(table for table in tables if table is not None and table.rows)
    drawn = tuple(figure for figure in figures if figure is not None)
    empty = not kept and not drawn
    return ReportSection(key, title, kept, drawn, (lacks or "Nothing of this in these results.") if empty else "")
