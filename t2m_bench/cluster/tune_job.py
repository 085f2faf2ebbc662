"""A study's trials on Ray Tune: Optuna proposes, Tune runs them side by side and stops the poor ones early."""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import optuna

from t2m_bench.cluster.session import list_node_resources, ray_session
from t2m_bench.cluster.train_job import LOST_SECONDS, POLL_SECONDS
from t2m_bench.cluster.tune_demand import Demand, IsSet, OnChange, find_demand
from t2m_bench.errors import WorkersLostError, find_first_line
from t2m_bench.files import touch_saved_marker
from t2m_bench.runs.trial import TrialData
from t2m_bench.search.samplers import Sampling
from t2m_bench.search.study import list_counted
from t2m_bench.search.sweep import LoadedSweep

LOG_NAME = "ray.log"

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # a signal is ours: it leaves a study that goes on
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state, pickles that nobody reads
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class Shortage:
    """Tells whether nodes were lost and the rest holds no trial: Ray would wait for ever, or fail trial after trial."""

    def __init__(
        self, demand: Demand, list_nodes: Callable[[], list[dict[str, float]]], lost_seconds: float = LOST_SECONDS
    ) -> None:
        self._demand = demand
        self._list_nodes = list_nodes
        self._lost_seconds = lost_seconds
        self._asked = -math.inf
        self._since: float | None = None

    def is_there(self) -> bool:
        """Return whether not one trial fits now."""
        short = self._demand.count_fitting(self._list_nodes()) == 0
        self._asked = time.monotonic()
        self._since = (self._since or self._asked) if short else None
        return short

    def lasts(self) -> bool:
        """Return whether it has been so for longer than a node takes to be replaced; cheap enough for each step."""
        if time.monotonic() - self._asked > POLL_SECONDS:
            self.is_there()
        return self._since is not None and time.monotonic() - self._since > self._lost_seconds


def run_trials(
    study: optuna.Study,
    loaded: LoadedSweep,
    data: TrialData,
    folder: Path,
    is_stopped: IsSet,
    on_change: OnChange,
) -> None:
    """Run trials until as many count as the sweep asks for, or until stopped; none is left running in the study.

    Trials whose node was lost do not count: they are asked again, on the nodes that are left.

    Args:
        folder: the sweep's, held by this process; Tune's own files of this attempt lie there meanwhile.
        on_change: is called when a trial ended.

    Raises:
        ClusterError: not even one trial fits.
        WorkersLostError: nodes were lost and what is left holds no trial, or the cluster itself went away.
    """
    demand = find_demand(loaded)
    os.environ.update(TUNE_ENVIRONMENT)
    sampling = Sampling(loaded.sweep)
    sampling.settle_interrupted(study)

    def note() -> None:
        touch_saved_marker()
        on_change()

    try:
        with ray_session(demand.processes, demand.cpus, demand.gpus), _log_to(folder / LOG_NAME):
            fitting = demand.count_fitting(list_node_resources())
            at_once = min(fitting, loaded.sweep.concurrency or fitting)
            shortage = Shortage(demand, list_node_resources)
            remaining = _count_remaining(study, loaded)
            while remaining > 0 and not is_stopped():
                _fit(study, loaded, data, demand, at_once, folder, is_stopped, note, shortage)
                before, remaining = remaining, _count_remaining(study, loaded)
                if remaining > 0 and not is_stopped() and (shortage.lasts() or remaining == before):
                    what = "what is left holds no trial" if shortage.lasts() else "every trial was lost with them"
                    raise WorkersLostError(
                        f"{folder}: nodes were lost and {what}. Finished trials are kept: run the same command again "
                        "to continue."
                    )
                sampling.settle_interrupted(study)
    finally:
        sampling.settle_interrupted(study)


def _count_remaining(study: optuna.Study, loaded: LoadedSweep) -> int:
    return loaded.sweep.trials - len(list_counted(study))


def _fit(
    study: optuna.Study,
    loaded: LoadedSweep,
    data: TrialData,
    demand: Demand,
    at_once: int,
    folder: Path,
    is_stopped: IsSet,
    on_change: OnChange,
    shortage: Shortage,
) -> None:
    """Let Tune run the trials that lack; those of lost nodes are left running in the study.

    Raises:
        WorkersLostError: the cluster itself went away.
    """
    from ray.exceptions import RayError

    from t2m_bench.cluster.tune_parts import build_tuner

    storage = folder / ".ray" / uuid4().hex[:8]  # a name used before would resume Tune's own state, which is a pickle
    tuner = build_tuner(
        study,
        loaded,
        data,
        demand,
        at_once,
        _count_remaining(study, loaded),
        storage,
        lambda: is_stopped() or shortage.lasts(),
        on_change,
        shortage.is_there,
    )
    try:
        tuner.fit()
    except RayError as error:
        raise WorkersLostError(
            f"{folder}: Ray was lost ({find_first_line(error)}). Finished trials are kept: the same command goes "
            "on from there."
        ) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send what Ray logs to a file instead of the terminal."""
    handler = logging.FileHandler(path)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
