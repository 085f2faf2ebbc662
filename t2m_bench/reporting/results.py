"""Finds experiments on disk and reads what their runs left, checking it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.results import RESULTS_NAME, load_results

EXPERIMENT_NAME = "experiment.json"
TRAINED = ("text_free", "gated", "hierarchical")
FLOORS = ("floor_box", "floor_ellipse", "floor_mean_mask", "floor_class_mask")
ARMS = (*FLOORS, "baseline", *TRAINED)
"""In the order of every table."""

EXPERIMENT_KEYS = (
    "name",
    "created",
    "dataset",
    "test_fold",
    "models",
    "audit",
    "allow_leakage",
    "hashes",
    "versions",
    "recipe",
)

Crops = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """One trained run: its run.json, its history (a row an epoch) and predicted crops by case."""

    summary: dict[str, Any]
    history: pd.DataFrame
    masks: Crops


@dataclass(frozen=True)
class Results:
    """All finished runs of one experiment.

    Attributes:
        table: rows of all runs and of the reference arms.
        crops: "<case>/image" and "<case>/mask" of the cases that pictures show; baseline: their predicted crops.
        unfinished: names of runs without results.
    """

    folder: Path
    experiment: dict[str, Any]
    table: pd.DataFrame
    runs: tuple[Run, ...]
    crops: Crops
    baseline: Crops
    unfinished: tuple[str, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms with results, in the order of tables."""
        there = set(self.table["arm"])
        return tuple(arm for arm in ARMS if arm in there)

    def select(self, arm: str, *conditions: str) -> pd.DataFrame:
        """Return the rows of an arm under any of the conditions."""
        return self.table[(self.table["arm"] == arm) & self.table["condition"].isin(conditions)]


def find_experiments(runs: Path) -> list[Path]:
    """Return the folders under `runs` that hold results, the newest first."""
    found = [path.parent for path in runs.glob(f"*/{EXPERIMENT_NAME}") if any(path.parent.glob(f"*/{RESULTS_NAME}"))]
    return sorted(found, key=_date, reverse=True)


def _date(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.glob(f"*/{RESULTS_NAME}"))


def load_experiment(folder: Path) -> Results:
    """Read an experiment's results.

    Raises:
        RunFolderError: the folder holds none, or a file is not what it must be.
    """
    path = folder / EXPERIMENT_NAME
    if not path.is_file():
        raise RunFolderError(
            f"{folder}: holds no {EXPERIMENT_NAME}. Give an experiment's folder, such as runs/demo-...."
        )
    experiment = _load_json(path)
    lacking = [name for name in EXPERIMENT_KEYS if name not in experiment]
    if lacking:
        raise RunFolderError(
            f"{path}: {lacking[0]} is absent. Remove the file and train again; finished runs are kept."
        )
    finished = sorted(file.parent for file in folder.glob(f"*/{RESULTS_NAME}"))
    if not finished:
        raise RunFolderError(
            f"{folder}: no run has finished. Run `t2m-bench train RECIPE` or `t2m-bench bench RECIPE`."
        )
    tables = [load_results(run / RESULTS_NAME) for run in finished]
    trained = [run for run in finished if not run.name.startswith("reference-")]
    reference = next((run for run in finished if run.name.startswith("reference-")), folder)
    there = {run.name for run in finished}
    return Results(
        folder=folder,
        experiment=experiment,
        table=pd.concat(tables, ignore_index=True),
        runs=tuple(_load_run(run) for run in trained),
        crops=_load_crops(reference / "crops.npz"),
        baseline=_load_crops(reference / "masks.npz"),
        unfinished=tuple(sorted(p.parent.name for p in folder.glob("*/.lock") if p.parent.name not in there)),
    )


def _load_run(folder: Path) -> Run:
    path = folder / "history.jsonl"
    try:
        history = pd.json_normalize([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as JSON lines ({error}). Train again.") from None
    return Run(_load_json(folder / "run.json"), history, _load_crops(folder / "masks.npz"))


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as JSON ({error}). Train again.") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: holds no JSON object. Train again.")
    return content


def _load_crops(path: Path) -> Crops:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}). Remove it and evaluate again.") from None
