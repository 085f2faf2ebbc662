"""Finds experiments on disk and reads what their runs left."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from t2m_bench.errors import RunFolderError
from t2m_bench.files import EXPERIMENT_NAME, STRATA_NAME
from t2m_bench.metrics.results import RESULTS_NAME, list_foreign, load_results
from t2m_bench.recipe.conditions import OTHER_PATIENT, WRONG, find_condition
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.reporting.arms import TEXT_CONDITION, TEXTLESS_CONDITION, name_arm, sort_arms
from t2m_bench.reporting.checks import check_commits, check_counts, check_runs, check_table
from t2m_bench.search.study import find_studies, has_trials

TIGHT = "tight"

RUN_NAME, LOCK_NAME = "run.json", ".lock"

DEFAULT_MARGIN = 0.005
"""Dice within which a difference does not matter, for experiments made before `bench.margin`."""

EXPERIMENT_KEYS = ("name", "created", "dataset", "models", "audit", "allow_leakage", "hashes", "versions", "recipe")

Crops = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """One trained run: its folder's name, its run.json, its history (a row an epoch) and predicted crops by case."""

    name: str
    summary: dict[str, Any]
    history: pd.DataFrame
    masks: Crops

    @property
    def arm(self) -> str:
        """The arm that was trained."""
        return str(self.summary["arm"])


@dataclass(frozen=True)
class Reference:
    """Results that all arms of a test fold share.

    Attributes:
        crops: "<case>/image" and "<case>/mask" of the cases that pictures show.
        baseline: predicted crops of the frozen model. probe: probe.json, empty where there is none.
    """

    fold: int
    crops: Crops
    baseline: Crops
    probe: dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All finished runs of one experiment.

    Attributes:
        table: rows of all runs and of the reference arms.
        unfinished: names of runs that were begun and are not finished.
        strata: name of a grouping, such as the scanner -> case -> its group.
    """

    folder: Path
    experiment: dict[str, Any]
    table: pd.DataFrame
    runs: tuple[Run, ...]
    references: tuple[Reference, ...]
    unfinished: tuple[str, ...]
    strata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Arms with results, in the order of tables."""
        return sort_arms(set(self.table["arm"]))

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """Test folds with results."""
        return tuple(sorted({int(fold) for fold in self.table["fold"].unique()}))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The text fields, in the order in which `text_class` joins their values; free texts may have none."""
        return tuple(name for name in str(self.experiment["dataset"]["text_field"]).split(" + ") if name)

    @property
    def is_free_text(self) -> bool:
        """Return whether each case has a text of its own, in place of a class's sentences."""
        return bool(self.experiment["recipe"].get("prompts", {}).get("column"))

    @property
    def wrong_condition(self) -> str:
        """The condition behind the cost of wrong text: the published map, or another patient's free text."""
        return OTHER_PATIENT if self.is_free_text else WRONG

    @property
    def margin(self) -> float:
        """Dice within which a difference does not matter, as the recipe fixed it beforehand."""
        return float(self.experiment["recipe"].get("bench", {}).get("margin", DEFAULT_MARGIN))

    @property
    def dataset_recipe(self) -> Mapping[str, Any]:
        """The recipe's section on the data set and its splits."""
        return dict(self.experiment["recipe"].get("dataset", {}))

    @property
    def validates_on_test(self) -> bool:
        """Return whether the best epoch was chosen on the test cases, as was published."""
        return self.dataset_recipe.get("validation") == "test"

    @cached_property
    def _places(self) -> Mapping[Any, Any]:
        return self.table.groupby(["arm", "condition", "box"]).indices

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """All conditions with results."""
        return tuple(sorted(set(self.table["condition"])))

    @cached_property
    def foreign_conditions(self) -> tuple[str, ...]:
        """Conditions with results whose package is not installed here."""
        return tuple(name for name in self.conditions if name != TEXTLESS_CONDITION and find_condition(name) is None)

    @cached_property
    def foreign_measures(self) -> tuple[str, ...]:
        """Measures with results whose package is not installed here."""
        return list_foreign(self.table)

    def select(self, arm: str, condition: str, box: str = TIGHT) -> pd.DataFrame:
        """Return the rows of an arm under one condition and box; none where there are none."""
        rows: pd.DataFrame = self.table.iloc[self._places.get((arm, condition, box), [])]
        return rows

    def select_main(self, arm: str, box: str = TIGHT) -> pd.DataFrame:
        """Return the rows of an arm as it is meant to be used: with right text, or without where it reads none."""
        return self.select(arm, TEXT_CONDITION if self.reads_text(arm) else TEXTLESS_CONDITION, box)

    def name_arm(self, arm: str) -> str:
        """Return an arm's name in tables; with several text fields, the class masks use only the first."""
        name = name_arm(arm)
        known = arm == "floor_class_mask" and len(self.fields) > 1
        return name.replace("the class", f"the class ({self.fields[0]})") if known else name

    def name_field(self, field: str) -> str:
        """Return what a reader calls a text field."""
        entry = DATA_SETS.get(str(self.experiment["dataset"]["kind"]))
        return entry.field_labels.get(field, field.replace("_", " ")) if entry else field.replace("_", " ")

    @cached_property
    def num_patients(self) -> int:
        """Patients of all folds with results."""
        return int(self.table["patient"].nunique())

    def tell_lacking(self, rows: pd.DataFrame) -> str:
        """Return " (8 of 16 patients)" where rows are not of all patients, whose mean is not that of another arm."""
        there = int(rows["patient"].nunique())
        return f" ({there} of {self.num_patients} patients)" if there < self.num_patients else ""

    def reads_text(self, arm: str) -> bool:
        """Return whether an arm was evaluated with text."""
        return (arm, TEXT_CONDITION, TIGHT) in self._places

    def list_values(self, rows: pd.DataFrame, field: str) -> pd.Series:
        """Return each row's own value of one text field."""
        return rows["text_class"].str.split(" + ", regex=False).str[self.fields.index(field)]

    def count_training_cases(self, field: str, value: str) -> int | None:
        """Return the training cases of a class, the fewest over folds; None where the audit did not count them."""
        by_fold = [audit.get("classes_by_field", {}).get(field) for audit in self.audits.values()]
        if field == self.fields[0]:  # audits that do not tell the fields apart counted the one that stratifies
            by_fold = [found or audit["classes"] for found, audit in zip(by_fold, self.audits.values(), strict=True)]
        counts = [found.get("train", {}).get(value, 0) for found in by_fold if found]
        return min(counts) if counts else None

    def sort_values(self, field: str, values: Iterable[str]) -> list[str]:
        """Return values of a text field in the order of the prompt file, those that it does not name last."""
        order = list(self.experiment["dataset"].get("classes", {}).get(field, ()))
        return sorted(values, key=lambda value: (order.index(value) if value in order else len(order), value))

    @cached_property
    def audits(self) -> Mapping[str, dict[str, Any]]:
        """Test fold -> what the audit of its splits found."""
        return _find_audits(self.experiment)

    def list_runs(self, arm: str) -> list[Run]:
        """Return the finished runs of an arm."""
        return [run for run in self.runs if run.arm == arm]


def _find_audits(experiment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    folds = experiment.get("folds") or {str(experiment.get("test_fold", "")): experiment}
    return {fold: dict(noted["audit"]) for fold, noted in sorted(folds.items())}


def find_results(runs: Path) -> list[Path]:
    """Return the folders under `runs` that hold an experiment's results or a sweep's studies, the newest first."""
    experiments = [path.parent for path in runs.glob(f"*/{EXPERIMENT_NAME}")]
    dates = {folder: _date(folder) for folder in experiments if _find_finished(folder)}
    dates |= {folder: date for folder, date in find_studies(runs).items() if _is_worth_reporting(folder)}
    return sorted(dates, key=dates.__getitem__, reverse=True)


def _is_worth_reporting(sweep: Path) -> bool:
    """Return whether a sweep has trials; an unreadable sweep counts as one, so that it is reported."""
    try:
        return has_trials(sweep)
    except RunFolderError:
        return True


def _date(experiment: Path) -> float:
    return max((run / RESULTS_NAME).stat().st_mtime for run in _find_finished(experiment))


def _find_finished(experiment: Path) -> list[Path]:
    """Return the folders of finished runs and references; a run whose run.json is absent was killed before it."""
    folders = sorted(file.parent for file in experiment.glob(f"*/{RESULTS_NAME}"))
    return [folder for folder in folders if _is_reference(folder) or (folder / RUN_NAME).is_file()]


def _find_unfinished(experiment: Path) -> list[str]:
    """Return the names of runs that were begun, by their locks or tables, and are not finished."""
    begun = {path.parent for name in (LOCK_NAME, RESULTS_NAME) for path in experiment.glob(f"*/{name}")}
    return sorted(folder.name for folder in begun.difference(_find_finished(experiment)))


def _is_reference(folder: Path) -> bool:
    return folder.name.startswith("reference-")


def load_experiment(folder: Path, mixed: bool = False) -> Results:
    """Read an experiment's results.

    Args:
        mixed: take runs of two commits of the code together.

    Raises:
        RunFolderError: the folder holds none, a file is not what it must be, cases are missing or stand twice, or runs
            are of different recipes, or commits.
    """
    experiment = _load_experiment_note(folder)
    finished = _find_finished(folder)
    if not finished:
        raise RunFolderError(
            f"{folder}: no run has finished. Run `t2m-bench train RECIPE` or `t2m-bench bench RECIPE`."
        )
    runs = [_load_run(run) for run in finished if not _is_reference(run)]
    check_runs(folder, experiment["recipe"], {run.name: run.summary for run in runs})
    if not mixed:
        check_commits(folder, {run.name: run.summary for run in runs})
    tables = {run.name: load_results(run / RESULTS_NAME) for run in finished}
    table = pd.concat([part.assign(run=name) for name, part in tables.items()], ignore_index=True)
    check_table(folder, table)
    check_counts(folder, table, _find_audits(experiment))
    references = [run for run in finished if _is_reference(run)]
    return Results(
        folder=folder,
        experiment=experiment,
        table=table,
        runs=tuple(runs),
        references=tuple(_load_reference(run, int(tables[run.name]["fold"].iloc[0])) for run in references),
        unfinished=tuple(_find_unfinished(folder)),
        strata=_load_json(folder / STRATA_NAME) if (folder / STRATA_NAME).is_file() else {},
    )


def _load_experiment_note(folder: Path) -> dict[str, Any]:
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
    return experiment


def _load_run(folder: Path) -> Run:
    path = folder / "history.jsonl"
    try:
        history = pd.json_normalize([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as JSON lines ({error}). Train again.") from None
    return Run(folder.name, _load_json(folder / RUN_NAME), history, load_crops(folder / "masks.npz"))


def _load_reference(folder: Path, fold: int) -> Reference:
    probe = folder / "probe.json"
    return Reference(
        fold,
        load_crops(folder / "crops.npz"),
        load_crops(folder / "masks.npz"),
        _load_json(probe) if probe.is_file() else {},
    )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as JSON ({error}). Train again.") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: holds no JSON object. Train again.")
    return content


def load_crops(path: Path) -> Crops:
    """Return the named crops of a file; none where it is absent.

    Raises:
        RunFolderError: the file cannot be read; so does a crop that is looked up in it.
    """
    return _CropFile(path) if path.is_file() else {}


class _CropFile(Crops):
    """The crops of a file, each read when it is asked for: a suite has thousands, and a report shows few.

    Raises:
        RunFolderError: the file, or the crop that is asked for, cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = self._read(lambda file: dict.fromkeys(file.files))

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        crop: NDArray[Any] = self._read(lambda file: file[name])
        return crop

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _read(self, read: Callable[[Any], Any]) -> Any:
        try:
            with np.load(self._path, allow_pickle=False) as file:
                return read(file)
        except (
            Exception
        ) as error:  # a damaged byte fails in zipfile, zlib, NumPy or Python's tokenizer, each its own way
            reason = str(error) or type(error).__name__
            raise RunFolderError(f"{self._path}: cannot be read ({reason}). Remove it and evaluate again.") from None
