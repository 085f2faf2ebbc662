"""Parts for Ray Tune: a searcher over the study, and two ways to train a trial. Import it inside a Ray session."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from t2m_bench.cluster.train_job import build_trainer
from t2m_bench.cluster.tune_demand import Demand, IsSet, OnChange
from t2m_bench.errors import UserError
from t2m_bench.files import load_json, write_json
from t2m_bench.recipe.schema import Recipe
from t2m_bench.runs.trial import FrozenParts, TrialData, TrialReport, describe_failure, name_failure
from t2m_bench.search.pruning import Pruning
from t2m_bench.search.samplers import Sampling
from t2m_bench.search.study import complete, fail, prune
from t2m_bench.search.sweep import LoadedSweep, Sweep, apply_params
from t2m_bench.training.process_group import ProcessGroup

ERROR_NAME = "error.json"

NEVER_REPORTED = "ended without a result"

NODE_LOST = ("its node has died", "ActorUnavailableError")
"""Ray's words for a process that was lost with its node, dead or no longer answering (src/ray/gcs, 2.60)."""

WAITING_BYTES = 2**20
"""All that the process of a wide trial reserves: no CPU, which its workers need, but Tune refuses nothing at all."""


def build_tuner(
    study: optuna.Study,
    loaded: LoadedSweep,
    data: TrialData,
    demand: Demand,
    at_once: int,
    remaining: int,
    storage: Path,
    is_stopped: IsSet,
    on_change: OnChange,
    is_short: IsSet,
) -> tune.Tuner:
    """Build a fresh Tuner that adds `remaining` trials to the study.

    Args:
        is_short: whether so many nodes were lost that no trial fits.
    """
    searcher = StudySearcher(study, loaded.sweep, on_change, is_short)
    shared: dict[str, Any] = {"data": data, "raw": loaded.raw}
    if demand.has_workers:
        parameters = tune.with_parameters(train_trial_on_workers, **shared, folder=storage.resolve() / "trials")
        trainable = tune.with_resources(parameters, {"cpu": 0, "memory": WAITING_BYTES})
    else:
        parameters = tune.with_parameters(TrialTrainable, **shared, demand=demand)
        trainable = tune.with_resources(parameters, {"cpu": demand.cpus, "gpu": demand.gpus})
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=StudyScheduler(searcher),
            num_samples=remaining,
            max_concurrent_trials=at_once,
            reuse_actors=not demand.has_workers,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=str(storage.parent.resolve()),
            verbose=0,
            callbacks=[searcher.make_callback()],
            stop=_StopAll(is_stopped),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


class StudySearcher(Searcher):
    """Asks the study for trials and tells it how each ended.

    Ray's OptunaSearch would tell a trial that the scheduler stopped as complete, leave one with a NaN running, and keep
    its state in a pickle; nothing of this searcher is saved, for all is in the study.
    """

    def __init__(self, study: optuna.Study, sweep: Sweep, on_change: OnChange, is_short: IsSet) -> None:
        super().__init__()
        self._is_short = is_short
        self._study = study
        self._objectives = list(sweep.objectives)
        self._sampling = Sampling(sweep)
        self._pruning = Pruning(sweep.scheduler)
        self._on_change = on_change
        self._running: dict[str, optuna.Trial] = {}
        self._reported: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what Ray may pickle: not the study and the callbacks, which belong to this process and its terminal.

        Ray pickles the searcher with its Tuner and never reads it here: a sweep goes on from its study alone.
        """
        local = ("_study", "_on_change", "_is_short", "_running")
        return {name: value for name, value in self.__dict__.items() if name not in local}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept whatever Tune sets: the objectives are the study's."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the next trial's number and values."""
        trial = self._running[trial_id] = self._sampling.ask(self._study)
        return {"number": trial.number, "params": trial.params}

    def is_poor(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Report the objective after an epoch to the study; return whether the trial should end there."""
        return self._report(self._running[trial_id], result) and not result["finished"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell a trial that reported to its end or was stopped; of a crash `tell_crash` hears more."""
        if error:
            return
        trial = self._running.pop(trial_id)
        found = result or {}
        if "failure" in found or "finished" not in found:
            fail(self._study, trial.number, str(found.get("failure", NEVER_REPORTED)))
        elif found["finished"]:
            self._report(trial, found)
            complete(self._study, trial.number, [found[name] for name in self._objectives], dict(found["members"]))
        else:
            prune(self._study, trial.number, found["epoch"], dict(found["members"]))
        self._on_change()

    def tell_crash(self, trial_id: str, text: str) -> None:
        """Tell a trial whose process failed, unless its node did: that one is left running, to be asked again."""
        trial = self._running.pop(trial_id, None)
        if trial is None or any(sign in text for sign in NODE_LOST) or self._is_short():
            return
        fail(self._study, trial.number, find_reason(text))
        self._on_change()

    def make_callback(self) -> tune.Callback:
        """Return what hears of crashes with their reason."""
        return _CrashTeller(self)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def _report(self, trial: optuna.Trial, result: dict[str, Any]) -> bool:
        """Report the objective once per epoch and return whether it is poor; several objectives have no pruner.

        A trial's last epoch is judged too, without effect on itself: Optuna notes it for the trials to come.
        """
        if len(self._objectives) > 1 or "failure" in result:
            return False
        epoch = int(result["epoch"])
        if epoch <= self._reported.get(trial.number, 0):
            return False
        self._reported[trial.number] = epoch
        trial.report(result[self._objectives[0]], epoch)
        return self._pruning.is_poor(self._study, trial.number)


class StudyScheduler(FIFOScheduler):
    """Stops a trial where the study's pruner finds it poor.

    Tune asks a scheduler before the searcher hears of a result, so the result reaches the study from here.
    """

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # ray leaves it untyped
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial goes on after an epoch."""
        return self.STOP if self._searcher.is_poor(trial.trial_id, result) else self.CONTINUE


class _CrashTeller(tune.Callback):
    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        self._searcher.tell_crash(trial.trial_id, text)


class _StopAll(tune.Stopper):
    def __init__(self, is_stopped: IsSet) -> None:
        self._is_stopped = is_stopped

    def __getstate__(self) -> dict[str, Any]:
        """Return what Ray may pickle: not the question, which belongs to this process."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._is_stopped()


def find_reason(text: str) -> str:
    """Return the last exception of a traceback in a line."""
    found = re.findall(r"^([\w.]*(?:Error|Exception|Exit|Interrupt))\b:? ?(.*)$", text, re.MULTILINE)
    if not found:
        return (text.strip().splitlines() or ["the trial's process ended without a word"])[-1]
    name, message = found[-1]
    return name_failure(name.rpartition(".")[2], message)


def to_result(report: TrialReport) -> dict[str, Any]:
    """Return a report in the form that Tune takes; a list, since Tune would flatten a mapping."""
    members = [list(item) for item in report.members.items()]
    return {**report.values, "epoch": report.epoch, "finished": report.finished, "members": members}


def to_failure(error: UserError, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Return the last result of a trial that cannot go on."""
    lost = dict.fromkeys(metrics, float("nan"))
    return {**lost, "epoch": 0, "finished": False, "members": [], "failure": describe_failure(error)}


class TrialTrainable(tune.Trainable):
    """Trains trials one after the other in this process; the frozen model and the shards are loaded once."""

    def setup(self, config: dict[str, Any], **shared: Any) -> None:
        """Remember what all trials share, `data`, `raw` and `demand`, and begin the first."""
        self._data: TrialData = shared["data"]
        self._raw: dict[str, Any] = shared["raw"]
        demand: Demand = shared["demand"]
        self._use_gpu = demand.gpus > 0
        torch.set_num_threads(max(1, int(demand.cpus)))
        self._frozen: FrozenParts | None = None
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Train one epoch of each member; bad values end the trial, anything else this process too."""
        try:
            result = to_result(next(self._reports))
            return {**result, "done": result["finished"]}
        except UserError as error:
            return {**to_failure(error, self._data.metrics), "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial."""
        self._reports.close()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Drop what the last trial left on disk."""
        self._reports.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._reports = self._run(config)

    def _run(self, config: dict[str, Any]) -> Any:
        recipe = apply_params(self._raw, config["params"], f"trial {config['number']}")
        ranks = ProcessGroup(recipe.optim.mixed_precision, self._use_gpu)
        if self._frozen is None:
            self._frozen = FrozenParts(self._data, ranks)
        with tempfile.TemporaryDirectory(prefix="t2m-trial-") as folder:
            yield from self._frozen.run_trial(recipe, Path(folder), ranks)


def train_trial_on_workers(config: dict[str, Any], data: TrialData, raw: dict[str, Any], folder: Path) -> None:
    """Train a trial on several workers of its own; this process only waits for them."""
    from ray.tune.integration.ray_train import TuneReportCallback

    own = folder / str(config["number"])
    try:
        recipe = apply_params(raw, config["params"], f"trial {config['number']}")
        cluster = recipe.cluster.model_copy(update={"max_failures": 0})
        work = {"data": data, "recipe": recipe, "folder": own}
        forward: Any = TuneReportCallback
        trainer = build_trainer(_train_rank, work, cluster, own / "ray", callbacks=[forward()])
        try:
            trainer.fit()
        except Exception:
            if (own / ERROR_NAME).is_file():
                raise UserError(load_json(own / ERROR_NAME, "Run the sweep again.")["message"]) from None
            raise
    except UserError as error:
        tune.report(to_failure(error, data.metrics))


def _train_rank(config: dict[str, Any]) -> None:
    import ray.train

    data: TrialData = config["data"]
    recipe: Recipe = config["recipe"]
    folder: Path = config["folder"]
    torch.set_num_threads(max(1, int(recipe.cluster.cpus_per_worker)))
    optim, cluster = recipe.optim, recipe.cluster
    try:
        ranks = ProcessGroup(optim.mixed_precision, cluster.use_gpu, cluster.deepspeed, optim.clip_norm)
        reports: Iterator[TrialReport] = FrozenParts(data, ranks).run_trial(recipe, folder / "members", ranks)
        for report in reports:
            ray.train.report(to_result(report))
    except UserError as error:
        write_json(folder / ERROR_NAME, {"message": str(error)})
        raise
