"""Packages outside that add entries to the tables, put on the path as an installer does."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.measures import MEASURE_TABLE

TABLES = {table.group: table for table in (ARMS, CONDITIONS, DATA_SETS, IMAGE_ENCODERS, MEASURE_TABLE)}


def write_package(folder: Path, module: str, code: str, points: Mapping[str, str]) -> None:
    """Write a module and what says which entry points it has: group -> "name = module:object"."""
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    listed = "".join(f"[{group}]\n{point}\n" for group, point in points.items())
    (info / "entry_points.txt").write_text(listed)


@contextmanager
def install(folder: Path, module: str, code: str, points: Mapping[str, str]) -> Iterator[None]:
    """Install a package in this process for the length of a `with`."""
    write_package(folder, module, code, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        forget_installed()
        try:
            yield
        finally:
            sys.modules.pop(module, None)
            patch.undo()
            forget_installed()


def forget_installed() -> None:
    """Let every table look again at what is installed."""
    for table in TABLES.values():
        table.look_again()
