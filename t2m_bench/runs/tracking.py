"""Reports a run to trackers: TensorBoard in its own folder, Weights & Biases and MLflow where the recipe names them.

Trackers only watch: one that fails is left out for the rest of the run, with a line that says so. They work without a
network: wandb offline unless WANDB_MODE says otherwise, MLflow in a local store unless MLFLOW_TRACKING_URI names a
server. They are told what decides the result, not where data lie. Accelerate's own wrappers are not used: they need its
process state, which a process that trains alone does not make.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from t2m_bench.errors import find_first_line
from t2m_bench.files import load_json
from t2m_bench.locks import hold_lock
from t2m_bench.recipe.schema import Recipe
from t2m_bench.runs.run_folder import RUN_NAME, write_history

MLFLOW_STORE = "mlflow.db"
"""The local store of an experiment's runs, in the experiment's folder."""

Numbers = Mapping[str, float]


class Tracker(Protocol):
    """One tracker of one run, told of what decides it when it is opened."""

    def log(self, values: Numbers, step: int) -> None:
        """Report numbers of a step."""
        ...

    def close(self, is_whole: bool) -> None:
        """End the run there, as finished or as stopped before its end."""
        ...


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._board.add_text("recipe", "\n".join(f"    {name}: {value}" for name, value in settings.items()))

    def log(self, values: Numbers, step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self, is_whole: bool) -> None:
        self._board.close()


class WandB:
    """A run of Weights & Biases, whose files lie in the run's folder until `wandb sync` sends them."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=folder.parent.name,
            name=folder.name,
            dir=str(folder),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
            # its own notes would hold the command line, and with it where the data lie
            settings=wandb.Settings(
                disable_git=True, save_code=False, console="off", silent=True, x_disable_meta=True, program="t2m-bench"
            ),
            reinit="create_new",
        )

    def log(self, values: Numbers, step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, is_whole: bool) -> None:
        self._run.finish(exit_code=0 if is_whole else 1)


class MLflow:
    """A run of MLflow in the experiment of the folder's name."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        local, name = f"sqlite:///{folder.parent / MLFLOW_STORE}", folder.parent.name
        with hold_lock(folder.parent / ".mlflow.lock"):  # runs side by side would all make the store, or the experiment
            self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or local)
            found = self._client.get_experiment_by_name(name)
            number = found.experiment_id if found else self._client.create_experiment(name)
        self._run = self._client.create_run(number, run_name=folder.name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def log(self, values: Numbers, step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self, is_whole: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if is_whole else "KILLED")


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


class RunLog:
    """history.jsonl of a run, and its trackers."""

    def __init__(self, folder: Path, recipe: Recipe, arm: str) -> None:
        self._folder = folder
        self._trackers: dict[str, Tracker] = {}
        self._is_whole = False
        settings = {"arm": arm, **hide_folders(flatten(recipe.list_decisive()))}
        for name in recipe.cluster.tracking:
            self._try(name, partial(self._open, name, settings))

    def write(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the whole history, and report its last epoch."""
        write_history(self._folder, history)
        row = history[-1]
        self._log({**row, **{f"gate/{level}": gate for level, gate in row["gates"].items()}}, int(row["step"]))

    def write_test(self, step: int) -> None:
        """Report the test figure, which run.json holds by now."""
        summary = load_json(self._folder / RUN_NAME, "Evaluate the run again.")
        self._log({"test_dice": summary["test_dice"]}, step)
        self._is_whole = True

    def close(self) -> None:
        """End the run in every tracker: as finished where it has its test figure."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.close, self._is_whole))
        self._trackers.clear()

    def _open(self, name: str, settings: Mapping[str, Any]) -> None:
        self._trackers[name] = TRACKERS[name](self._folder, settings)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.log, numbers, step))

    def _try(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a tracker's server, disk or version: none of them may stop a training
            self._trackers.pop(name, None)
            print(f"t2m-bench: tracker {name} is left out: {find_first_line(error)}", file=sys.stderr)


def hide_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the last part of each path alone: where data and models lie is nobody's affair."""
    return {
        name: Path(value).name if isinstance(value, str) and "/" in value else value for name, value in settings.items()
    }


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted name -> value of nested settings; what is no number or truth becomes text."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float) else str(value)
    return flat
