import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from t2m_bench.reporting.latex import MAX_ROWS, escape, write_document, write_table
from t2m_bench.reporting.report import write_report
from t2m_bench.reporting.results import load_experiment
from t2m_bench.reporting.table import Table

HARD = "a_b & 5 % #1 {x} ~ ^ \\ < > ± † é $"
TABLE = Table(
    "box_text", f"Title {HARD}", HARD, ("Arm", HARD), (("text_free", "+0.1"), (HARD, "-0.2 ± 0.1")), pd.DataFrame()
)


TOO_LARGE = "Float too large"  # phrase: a warning of LaTeX's own


def test_nothing_is_left_that_latex_would_read_as_a_command() -> None:
    assert escape("50 % a_b & c") == r"50 \% a\_b \& c"
    assert escape("\\") == r"\textbackslash{}"
    assert escape("p < 0.001") == "p $<$ 0.001"


def test_a_table_is_in_booktabs_form() -> None:
    lines = write_table(TABLE).splitlines()
    for command in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert lines.count(command) == 1
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {1}
    assert r"\label{tab:box-text}" in lines
    assert r"\hline" not in "".join(lines)
    assert "|" not in next(line for line in lines if "begin{tabular}" in line)


def test_a_tall_table_goes_on_in_another_float_and_keeps_its_rows() -> None:
    rows = tuple((f"row {number}", "+0.1") for number in range(2 * MAX_ROWS + 1))
    written = write_table(replace(TABLE, rows=rows))
    assert [written.count(part) for part in (r"\begin{table}", r"\label", "(continued)", r"\parbox")] == [3, 1, 2, 1]
    assert all(f"row {number} &" in written for number in range(len(rows)))
    assert max(part.count("row ") for part in written.split(r"\end{table}")) == MAX_ROWS


@pytest.fixture
def pdflatex() -> str:
    found = shutil.which("pdflatex")
    if found is None:
        pytest.skip("no pdflatex here: that the tables compile is not tested (Debian: texlive-latex-recommended)")
    return found


def compile_document(pdflatex: str, path: Path) -> str:
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def test_hard_characters_compile(pdflatex: str, tmp_path: Path) -> None:
    path = tmp_path / "report.tex"
    path.write_text(write_document(HARD, [HARD], [TABLE]))
    assert "Overfull \\hbox" not in compile_document(pdflatex, path)


def test_tall_tables_fit_their_pages(pdflatex: str, tmp_path: Path) -> None:
    rows = tuple((f"text_free {number}", "+0.1") for number in range(2 * MAX_ROWS))
    path = tmp_path / "report.tex"
    path.write_text(write_document(HARD, [], [replace(TABLE, rows=rows, note="A long note of a table. " * 60)]))
    assert TOO_LARGE not in compile_document(pdflatex, path)


def test_the_tables_of_a_report_compile(pdflatex: str, experiment: Path) -> None:
    written = write_report(load_experiment(experiment), ("tex",))
    printed = compile_document(pdflatex, written.paths["tex"])
    assert "Overfull \\hbox" not in printed, "wide tables are shrunk to the page"
    assert TOO_LARGE not in printed
    assert written.paths["tex"].with_suffix(".pdf").stat().st_size > 10_000
