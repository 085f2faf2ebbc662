"""A study on disk: Optuna's, in the sweep's folder, told by us what became of each trial."""

import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from t2m_bench.errors import RecipeError, RunFolderError
from t2m_bench.search.sweep import Sweep

JOURNAL_NAME, SQLITE_NAME = "study.journal", "study.sqlite"
REASON = "reason"
MEMBERS = "members"
INTERRUPTED = "interrupted"
STATES = ("COMPLETE", "PRUNED", "FAIL")
SHARED_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "fuse.sshfs", "9p"})

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_study(folder: Path, sweep: Sweep, name: str) -> optuna.Study:
    """Open the study of a sweep, making what lacks.

    Raises:
        RunFolderError: its file cannot be read.
        RecipeError: the storage cannot lie here.
    """
    _mend(folder / JOURNAL_NAME)
    storage = open_storage(folder, sweep.storage)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=list(sweep.objectives.values()),
            load_if_exists=True,
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise RunFolderError(
            f"{folder}: the study {name} cannot be read ({error}). Move the folder away, or give the sweep another "
            "name with sweep.name=..."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(sweep.objectives))
    return study


def open_storage(folder: Path, kind: str) -> BaseStorage:
    """Open a sweep's storage.

    Raises:
        RecipeError: the folder is no folder of a file system, or SQLite's locks are not safe on it.
        RunFolderError: the file cannot be read.
    """
    if re.match(r"[a-z0-9]+:/", str(folder)):
        raise RecipeError(
            f"{folder}: a study is a file that grows under a lock, which an object store does not offer; give a "
            "folder of a file system as --runs."
        )
    if kind == "sqlite":
        system = find_file_system(folder)
        if system in SHARED_FILE_SYSTEMS:
            raise RecipeError(
                f"{folder}: lies on {system}, where SQLite's locks are not safe. Set sweep.storage=journal."
            )
        return _open_sqlite(folder / SQLITE_NAME)
    journal = folder / JOURNAL_NAME
    try:
        # absolute: its lock is a symbolic link to this name, and one that leads nowhere, left by a killed process,
        # is waited on for ever
        return JournalStorage(JournalFileBackend(str(journal.resolve())))
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        raise RunFolderError(f"{journal}: cannot be read as a study ({error}). Move it away.") from None


def _open_sqlite(file: Path) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(f"sqlite:///{file}")
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise RunFolderError(f"{file}: cannot be read as a study ({error}). Move it away.") from None


def has_study(folder: Path) -> bool:
    """Return whether a sweep's studies lie in a folder."""
    return any((folder / name).is_file() for name in (JOURNAL_NAME, SQLITE_NAME))


def has_trials(folder: Path) -> bool:
    """Return whether a sweep's studies hold any trial, whatever became of it."""
    return has_study(folder) and any(study.get_trials(deepcopy=False) for study in load_studies(folder).values())


def remove_studies(folder: Path) -> None:
    """Remove the files of a sweep's studies, so that they can be of something else."""
    for name in (JOURNAL_NAME, SQLITE_NAME):
        (folder / name).unlink(missing_ok=True)


def find_studies(runs: Path) -> dict[Path, float]:
    """Return the sweeps' folders under `runs` that hold a study, and when it last changed, in seconds since 1970."""
    files = [file for name in (JOURNAL_NAME, SQLITE_NAME) for file in runs.glob(f"sweeps/*/{name}")]
    return {file.parent: file.stat().st_mtime for file in files}


def load_studies(folder: Path) -> dict[str, optuna.Study]:
    """Return the studies of a sweep's folder by name, the sweep's own first; reading changes nothing."""
    if (folder / SQLITE_NAME).is_file():
        storage = open_storage(folder, "sqlite")
    elif (folder / JOURNAL_NAME).is_file():
        storage = open_storage(folder, "journal")
    else:
        raise RunFolderError(f"{folder}: holds no study. Run `t2m-bench sweep SWEEP`.")
    names = sorted(optuna.get_all_study_names(storage), key=len)
    return {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def _mend(journal: Path) -> None:
    """Cut off a last line that a crash left unfinished: Optuna would append to it and never read the file again."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as stream:
            stream.truncate(whole)


def find_file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on, as the kernel calls it; empty where it does not say."""
    if sys.platform != "linux":
        return ""
    place = str(folder.resolve()) + "/"
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, system, *_ = line.split()
        prefix = mount.rstrip("/") + "/"
        if place.startswith(prefix) and len(prefix) >= len(best):
            best, kind = prefix, system
    return kind


def fail(study: optuna.Study, number: int, reason: str) -> None:
    """Tell a running trial as failed, with the reason."""
    set_attribute(study, number, REASON, reason)
    study.tell(number, state=TrialState.FAIL)


def complete(study: optuna.Study, number: int, values: list[float], members: Mapping[str, float]) -> None:
    """Tell a trial that ran to its end; values that are not finite fail it."""
    if not all(math.isfinite(value) for value in values):
        fail(study, number, f"the objective is {values[0] if len(values) == 1 else values}")
        return
    set_attribute(study, number, MEMBERS, dict(members))
    study.tell(number, values)


def prune(study: optuna.Study, number: int, epoch: int, members: Mapping[str, float]) -> None:
    """Tell a trial that the pruner stopped; its value is the one reported last."""
    set_attribute(study, number, MEMBERS, dict(members))
    set_attribute(study, number, REASON, f"stopped by the scheduler after epoch {epoch}")
    study.tell(number, state=TrialState.PRUNED)


def set_attribute(study: optuna.Study, number: int, key: str, value: Any) -> None:
    """Note something on a running trial."""
    trial = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def is_interrupted(trial: FrozenTrial) -> bool:
    """Return whether a trial was lost with its process; its values are asked again."""
    return bool(trial.user_attrs.get(REASON) == INTERRUPTED)


def list_counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: all that ended by themselves or by the scheduler, not those interrupted."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and not is_interrupted(trial)]


def count_asked(study: optuna.Study) -> int:
    """Return how many trials were asked and not interrupted, which stopping and going on leaves as it was."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state is not TrialState.WAITING and not is_interrupted(trial) for trial in trials)


def count_states(study: optuna.Study) -> dict[str, int]:
    """Return how many of the counted trials ended how."""
    found = Counter(trial.state.name for trial in list_counted(study))
    return {state: found[state] for state in STATES}


def find_best(study: optuna.Study) -> FrozenTrial | None:
    """Return the best complete trial; of several objectives the one of the Pareto front best in the first."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return None
    front = study.best_trials
    sign = 1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else -1
    return max(front, key=lambda trial: (sign * trial.values[0], -trial.number))
