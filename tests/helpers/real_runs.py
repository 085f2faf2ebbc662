"""Real runs of `t2m-bench train` in processes of their own, watched from outside."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.training.checkpoint import ADAPTER_NAME, STATE_NAME, load_tensors

NUM_EPOCHS, STEPS_AN_EPOCH = 6, 6


def make_recipe(root: Path, **cluster: object) -> Recipe:
    raw = {
        "name": "trial",
        "dataset": {"root": str(root), "phantom": {"cases": 63, "seed": 4}},
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": NUM_EPOCHS, "warmup_steps": 2, "global_batch_size": 8, "patience": 9},
        "cluster": {"num_train_workers": 2, "checkpoint_minutes": 1e-6, **cluster},
    }
    return parse_recipe(raw, "test")


def start(
    recipe: Recipe, folder: Path, prepared: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a training.

    Args:
        prepared: a folder with a finished run, whose data, embeddings and floors are used again.
        environment: is added to this process's own.
    """
    if prepared is None:
        folder.mkdir()
    else:
        shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("hierarchical-*"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "train", str(folder / "recipe.yaml")]
    command += ["--runs", str(folder / "runs"), "--json"]
    return _popen(command, environment)


def _popen(command: Any, environment: dict[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def find_descendants(process: int, text: str) -> list[int]:
    """Return the ids of the processes that descend from one and whose command line holds a text."""
    listing = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    parent = {int(pid): int(ppid) for pid, ppid, _ in rows}

    def descends(pid: int) -> bool:
        while pid in parent and pid != process:
            pid = parent[pid]
        return pid == process

    return [int(pid) for pid, _, args in rows if text in args and int(pid) != process and descends(int(pid))]


def find_workers(driver: int) -> list[int]:
    """Return the ids of the driver's own training workers."""
    return find_descendants(driver, "TrainWorker")


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Return when the newest checkpoint is of this step or a later one, counted from the first epoch."""
    while process.poll() is None:
        for state in folder.glob(f"runs/*/hierarchical-*/{STATE_NAME}"):
            try:
                with safe_open(state, framework="pt") as file:
                    progress = json.loads(file.metadata()["note"])
            except RuntimeError:  # replaced between the two times that safetensors opens it
                continue
            if progress["epoch"] * STEPS_AN_EPOCH + progress["step"] >= step:
                return
        time.sleep(0.02)
    pytest.fail(f"ended too early: {process.communicate()}")


def wait_for_epochs(folder: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        found = list(folder.glob("runs/*/hierarchical-*/history.jsonl"))
        if found and len(found[0].read_text().splitlines()) >= epochs:
            return
        time.sleep(0.02)
    pytest.fail(f"ended too early: {process.communicate()}")


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(printed.splitlines()[-1])


def restart(process: subprocess.Popen[str], environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Give the same command again."""
    return _popen(process.args, environment)


def assert_same_end(undisturbed: Path, folder: Path) -> None:
    """Final weights and history equal to the bit."""
    want, got = load_final(undisturbed), load_final(folder)
    assert want.keys() == got.keys()
    assert all(want[name].equal(got[name]) for name in want)
    tables = [next(place.glob("runs/*/hierarchical-*/history.jsonl")).read_text() for place in (undisturbed, folder)]
    rows = [[{**json.loads(line), "seconds": 0} for line in table.splitlines()] for table in tables]
    assert rows[0] == rows[1]


def load_final(folder: Path) -> dict[str, object]:
    (adapter,) = folder.glob(f"runs/*/hierarchical-*/{ADAPTER_NAME}")
    return load_tensors(adapter)[0]


def load_history(folder: Path) -> list[dict[str, object]]:
    """Return the rows of a run's history."""
    (history,) = folder.glob("runs/*/hierarchical-*/history.jsonl")
    return [json.loads(line) for line in history.read_text().splitlines()]
