"""Page one of a report: how much it asks of its reader, and that its numbers are those of the tables."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_suite import COST, GAIN

from t2m_bench.reporting.cases import choose_cases, list_pictured
from t2m_bench.reporting.drawing import ESTIMATE, LABEL
from t2m_bench.reporting.page_one import PageOne, make_page_one
from t2m_bench.reporting.report import SUPPLEMENT_NAME, Report, write_report
from t2m_bench.reporting.results import load_experiment

MOST_WORDS, MOST_ESTIMATES = 350, 40

NUMBER = re.compile(r"[+-]?\d+\.\d+(?: %)?(?: \[[^\]]*\])?")
"""A number with its interval is one; counts without a point are none."""

THRESHOLD = re.compile(r"(?:[<>±]|\bof|\bwithin) ?\d+\.\d+")
"""Fixed beforehand, and so no estimate."""


@pytest.fixture(scope="module")
def report(whole_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    results = replace(load_experiment(whole_suite), folder=tmp_path_factory.mktemp("page_one"))
    return write_report(results, ("html", "md", "csv"))


@pytest.fixture(scope="module")
def page(report: Report) -> PageOne:
    assert report.page is not None
    return report.page


class WordReader(HTMLParser):
    """Collects the words of a page; of the figures the forest plot's labels and estimates, not ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            continue

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self.open}
        if tags & {"script", "style", "title"}:
            return
        counted = {attrs.get("class") for _, attrs in self.open} & {ESTIMATE, LABEL}
        in_forest = any(attrs.get("id") == "forest" for _, attrs in self.open)
        if "svg" not in tags or (counted and in_forest):
            self.words.append(data)


def test_page_one_can_be_read_in_two_minutes(report: Report) -> None:
    reader = WordReader()
    reader.feed(report.paths["html"].read_text())
    text = " ".join(reader.words)
    words = re.findall(r"[^\W\d_][\w'-]*", text)
    assert 100 < len(words) < MOST_WORDS
    assert 20 < len(NUMBER.findall(THRESHOLD.sub("", text))) <= MOST_ESTIMATES


def test_the_table_says_what_was_planted(page: PageOne) -> None:
    numbers = page.table.numbers.set_index("arm")
    assert list(numbers.index) == ["floor_class_mask", "baseline", "text_free", "label", "hierarchical"]
    for arm in numbers.index[:-1]:
        assert numbers.loc[arm, "gain"] == pytest.approx(GAIN["hierarchical"] - GAIN[arm], abs=0.005)
        assert numbers.loc[arm, "hd95_difference"] == pytest.approx(-60 * numbers.loc[arm, "gain"], abs=0.1)
    assert np.isnan(numbers.loc["hierarchical", "gain"])
    assert (numbers["failed"] == 0).all()
    assert numbers.loc["baseline", "loses_more_than_margin"] < 0.1


def test_figures_are_text_that_can_be_searched_in_the_ink_of_the_page(page: PageOne) -> None:
    forest, cases, strata = page.figures
    assert [figure.name for figure in page.figures] == ["forest", "cases", "gain_strata"]
    for figure in page.figures:
        assert "#000000" not in figure.svg, "black ink would be lost on a dark page"
        assert "<text" in figure.svg
        assert figure.caption != figure.alt
    gain = page.table.numbers.set_index("arm").loc["text_free", "gain"]
    assert f"{gain:+.3f}" in forest.svg
    assert f"{COST['wrong']:+.3f}" in forest.svg
    assert all(f"{own} (8 patients)" in strata.svg for own in "2345")
    assert ESTIMATE not in strata.svg + cases.svg


def test_the_first_page_names_no_case_and_the_same_table_is_in_every_format(
    report: Report, page: PageOne, whole_suite: Path
) -> None:
    written = report
    (row, *_) = page.table.rows
    folder = written.paths["html"].parent
    html = written.paths["html"].read_text()
    table = load_experiment(whole_suite).table
    assert not any(name in html for column in ("case", "patient") for name in table[column].unique())
    assert all(cell.replace(">", "&gt;") in html for cell in row)
    assert all(cell in written.paths["md"].read_text() for cell in row)
    assert len(pd.read_csv(folder / "tables" / "page_one.csv")) == len(written.page.table.rows)
    assert (folder / SUPPLEMENT_NAME).is_file()


def test_cases_are_the_median_the_worst_and_those_that_gain_and_lose_most(whole_suite: Path) -> None:
    results = load_experiment(whole_suite)
    pictured = list(list_pictured(results))
    shown = {item.why: item for item in choose_cases(results, "hierarchical", pictured)}
    assert len(shown) == len({item.case for item in shown.values()}) == 4
    dice = results.select_main("hierarchical").groupby("case")["dice"].mean()[pictured]
    assert shown["worst"].case == dice.idxmin()
    assert f"{dice.min():.3f}" in shown["worst"].shown
    gains = (dice - results.select_main("text_free").groupby("case")["dice"].mean()[pictured]).drop(shown["worst"].case)
    assert shown["largest gain"].case == gains.idxmax()


def test_without_a_text_guided_arm_page_one_says_so(experiment: Path) -> None:
    for path in [*experiment.glob("hierarchical-*/cases.parquet"), *experiment.glob("gated-*/cases.parquet")]:
        path.unlink()
    results = load_experiment(experiment)
    page = make_page_one(results, [], draw=True)
    assert page.warnings, "a suite that is not whole"
    assert "Text-guided" not in {row[0] for row in page.table.rows}
    assert [figure.name for figure in page.figures] == ["cases"]
