"""The report's figures, recomputed from the runs' tables by a script that shares no code with the package."""

import ast
import sys
from pathlib import Path

import recompute as apart
from recomputed import check_report

from t2m_bench.reporting.report import write_report
from t2m_bench.reporting.results import load_experiment

SCRIPT = Path(apart.__file__)


def test_the_script_imports_nothing_of_the_package_and_is_short() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    roots = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert roots - set(sys.stdlib_module_names) == {"numpy", "pandas", "scipy"}
    assert len(text.splitlines()) <= 150


def test_every_gain_and_interval_is_that_of_the_report(experiment: Path) -> None:
    write_report(load_experiment(experiment), ("csv",))
    assert check_report(experiment) >= 12
