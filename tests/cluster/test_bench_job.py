"""Cells side by side in Ray's processes: the same results as one after the other, and a kill loses no finished one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from messages import raises_naming
from real_runs import make_recipe

from t2m_bench.errors import RecipeError
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.training.checkpoint import ADAPTER_NAME, load_tensors

BENCH = {"arms": ["text_free", "gated"], "seeds": [0, 1], "conditions": ["right"], "boxes": ["tight"]}


def make_suite(root: Path, workers: int) -> Recipe:
    raw = make_recipe(root, num_train_workers=0, num_bench_workers=workers).model_dump(mode="json")
    return parse_recipe(raw | {"bench": raw["bench"] | BENCH}, "test")


def start(recipe: Recipe, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "bench", str(folder / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as Ray's tasks have it: sums are split alike
    command += ["--runs", str(folder / "runs"), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def load_cells(folder: Path) -> dict[str, dict[str, object]]:
    return {path.parent.name: load_tensors(path)[0] for path in folder.glob(f"runs/*/*-fold*/{ADAPTER_NAME}")}


def test_a_killed_suite_goes_on_and_ends_as_one_cell_after_the_other(root: Path, tmp_path: Path) -> None:
    alone, errors = (process := start(make_suite(root, 0), tmp_path / "a")).communicate(timeout=600)
    assert process.returncode == 0, errors
    killed = start(make_suite(root, 2), tmp_path / "b")
    while killed.poll() is None and not list(tmp_path.glob("b/runs/*/*-seed*/run.json")):
        time.sleep(0.05)
    assert killed.poll() is None, killed.communicate()
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    (first, *_) = tmp_path.glob("b/runs/*/*-seed*/run.json")
    stamp = first.stat().st_mtime_ns
    printed, errors = (process := start(make_suite(root, 2), tmp_path / "b")).communicate(timeout=600)
    assert process.returncode == 0, errors
    assert first.stat().st_mtime_ns == stamp, "a finished cell is reused"
    cells, others = load_cells(tmp_path / "a"), load_cells(tmp_path / "b")
    assert len(cells) == 4
    assert cells.keys() == others.keys()
    assert all(cells[run][name].equal(others[run][name]) for run in cells for name in cells[run])
    dices = [
        {cell["run"]: cell["test_dice"] for cell in json.loads(out.splitlines()[-1])["runs"]}
        for out in (alone, printed)
    ]
    assert dices[0] == pytest.approx(dices[1])


def test_cells_side_by_side_train_in_one_process_each(root: Path) -> None:
    with raises_naming(RecipeError, "cluster.num_bench_workers", 2, "cluster.num_train_workers"):
        make_recipe(root, num_train_workers=2, num_bench_workers=2)
