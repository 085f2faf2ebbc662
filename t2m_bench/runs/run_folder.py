"""A run's folder: its name, one writer at a time, every file whole or not there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2m_bench.files import write_text
from t2m_bench.locks import hold_lock
from t2m_bench.recipe.schema import Recipe

RUN_NAME = "run.json"
HISTORY_NAME = "history.jsonl"
LOCK_NAME = ".lock"


def name_experiment(recipe: Recipe, data_hash: str) -> str:
    """Return the name of the folder of all runs on the same data, recipe and frozen models."""
    return f"{recipe.name}-{recipe.compute_experiment_hash(data_hash)}"


def name_run(recipe: Recipe, arm: str) -> str:
    """Return the name of a run's folder; `recipe` is as this arm is trained, with its fold and seed."""
    return f"{arm}-fold{recipe.dataset.test_fold}-seed{recipe.seed}-{recipe.compute_run_hash()}"


def name_reference(fold: int) -> str:
    """Return the name of the folder that all arms of a fold share: boxes, probe, floors and baseline."""
    return f"reference-fold{fold}"


@contextmanager
def lock_run(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the folder for this process; the lock ends with the process, however it ends.

    Args:
        patience_s: how long to wait for another process that may be ending.

    Raises:
        RunFolderError: another process holds it, or the storage takes no lock.
    """
    with hold_lock(folder / LOCK_NAME, patience_s):
        yield


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole history, a JSON line an epoch."""
    write_text(folder / HISTORY_NAME, "".join(json.dumps(row) + "\n" for row in history))
