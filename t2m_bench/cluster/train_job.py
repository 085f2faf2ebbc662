"""Training on many processes: Ray Train starts them and their process group, Accelerate runs in each."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from t2m_bench.cluster.session import count_room, list_node_resources, ray_session
from t2m_bench.cluster.stop import StopCall, make_stop_flag, poll_stop_flag
from t2m_bench.cluster.unfinished import start_wait
from t2m_bench.errors import UserError, WorkersLostError, find_last_line
from t2m_bench.files import explain
from t2m_bench.recipe.schema import ClusterSection
from t2m_bench.runs import job as run_job
from t2m_bench.runs.setup import Job
from t2m_bench.training.launcher_variables import forget_launchers
from t2m_bench.training.process_group import ProcessGroup

PERMANENT_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""A full disk, a folder that cannot be written."""

POLL_SECONDS = 1.0
TALK_SECONDS = 1800.0
LOST_SECONDS = float(os.environ.get("T2M_LOST_SECONDS", "30"))
"""Seconds that the cluster may stay too small before the driver ends, so that its job is started again."""

Work = Callable[[dict[str, Any]], None]
Listen = Callable[[Callable[[], None]], AbstractContextManager[None]]


def train_with_ray(job: Job, listen: Listen) -> None:
    """Train and evaluate a job on `num_train_workers` processes.

    A worker that dies is started again with all others, from the last checkpoint; every budget is bounded, for Ray
    retries preemptions and its own controller for ever unless told. A run that was asked to stop is left unfinished.

    Args:
        listen: a context in which the given callback is called when this process is asked to stop.

    Raises:
        UserError: a worker met bad input, which is not retried.
        ClusterError: the cluster has less than the recipe asks for.
        WorkersLostError: workers kept dying.
    """
    cluster = job.recipe.cluster
    # Ray's own state of this attempt; a name used before would resume it
    storage = job.run_folder.parent / ".ray" / f"{job.run_folder.name}-{uuid4().hex[:8]}"
    with ray_session(cluster.min_train_workers, cluster.cpus_per_worker, cluster.gpus_per_worker):
        from ray.train import TrainingFailedError

        flag = make_stop_flag()
        call = StopCall(flag)
        try:
            with listen(call.ask):
                _wait(
                    fit_apart(build_trainer(_work, {"job": job, "flag": flag}, cluster, storage)), job, call.is_overdue
                )
        except TrainingFailedError as error:
            _raise_user_error(flag)
            raise WorkersLostError(
                f"{job.run_folder}: workers failed more than {cluster.max_failures} times; the last: "
                f"{find_last_line(error)}. The last checkpoint is kept: remove the cause and run the same command "
                "again."
            ) from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)
        _raise_user_error(flag)


def fit_apart(trainer: Any) -> Future[None]:
    """Start `fit` in a thread: in the main one Ray would take Ctrl-C for itself and end without a checkpoint."""
    fitted: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            fitted.set_exception(error)
        else:
            fitted.set_result(None)

    start_wait(fit)
    return fitted


def _wait(fitted: Future[None], job: Job, is_overdue: Callable[[], bool]) -> None:
    """Wait for the end, but not for nodes that do not come back: Ray Train would wait for ever.

    Args:
        is_overdue: whether workers that were asked to stop have had time enough; the run is then left unfinished.

    Raises:
        WorkersLostError: the cluster has had no room for the workers for LOST_SECONDS.
    """
    cluster, short_since = job.recipe.cluster, None
    while not wait([fitted], timeout=POLL_SECONDS).done:
        now = time.monotonic()
        if is_overdue():
            return
        room = count_room(list_node_resources(), cluster.cpus_per_worker, cluster.gpus_per_worker)
        short_since = None if room >= cluster.min_train_workers else short_since or now
        if short_since is not None and now - short_since > LOST_SECONDS:
            raise WorkersLostError(
                f"{job.run_folder}: nodes were lost and the rest has room for {room} workers of "
                f"{cluster.min_train_workers}. The last checkpoint is kept: run the same command again to continue."
            )
    fitted.result()


def build_trainer(
    work: Work,
    config: dict[str, Any],
    cluster: ClusterSection,
    storage: Path,
    timeout_s: float = TALK_SECONDS,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Build a Ray trainer that runs `work(config)` on the recipe's workers; `storage` is for Ray's own state.

    Args:
        timeout_s: how long ranks wait for each other. callbacks: Ray Train's, which hear of each report.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    budgets = ("max_failures", "max_preemption_failures", "controller_failure_limit")
    failures: Any = FailureConfig  # ray.train exports the classes of its first version to type checkers
    scaling: Any = ScalingConfig
    return TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=_make_torch_config("nccl" if cluster.use_gpu else "gloo", int(timeout_s)),
        scaling_config=scaling(
            num_workers=cluster.num_train_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker},
        ),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=failures(**dict.fromkeys(budgets, cluster.max_failures)),
            callbacks=list(callbacks),
        ),
    )


def _make_torch_config(backend: str, timeout_s: int) -> Any:
    """Make the settings of a process group whose workers forget the launchers that started their nodes.

    That comes before the group: under torchrun's variables rank 0 would wait for a store instead of being it.
    """
    from ray.train.torch import TorchConfig

    plain = TorchConfig(backend=backend, timeout_s=timeout_s)

    class Forgetful(plain.backend_cls):  # type: ignore[misc, name-defined]  # Ray's class, which has no public name
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(forget_launchers)
            super().on_start(worker_group, backend_config)

    class ForgetfulConfig(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return Forgetful

    return ForgetfulConfig(backend=backend, timeout_s=timeout_s)


def _work(config: dict[str, Any]) -> None:
    """Run the job on one rank; Ray has set the process group and its environment."""
    import ray

    job: Job = config["job"]
    flag = config["flag"]
    if ray.get(flag.get_failure.remote()):  # an earlier attempt met bad input: another would meet it again
        return
    torch.set_num_threads(max(1, int(job.recipe.cluster.cpus_per_worker)))
    try:
        optim, cluster = job.recipe.optim, job.recipe.cluster
        ranks = ProcessGroup(optim.mixed_precision, cluster.use_gpu, cluster.deepspeed, optim.clip_norm)
        with poll_stop_flag(flag) as should_stop:
            run_job.train(job, ranks, should_stop)
    except (UserError, OSError) as error:
        if failure := find_lasting_failure(error):
            ray.get(flag.fail.remote(*failure))
        raise


def find_lasting_failure(error: UserError | OSError) -> tuple[str, str] | None:
    """Return kind and message of a failure that another start of the workers would meet again; None of another."""
    if isinstance(error, UserError):
        return type(error).__name__, str(error)
    if error.errno in PERMANENT_ERRNOS:
        return (
            UserError.__name__,
            f"{explain(error)}. The last checkpoint is kept; mend the cause and run the same command.",
        )
    return None


def _raise_user_error(flag: Any) -> None:
    import ray

    if failure := ray.get(flag.get_failure.remote()):
        kind, message = failure
        kinds: dict[str, type[UserError]] = {kind.__name__: kind for kind in UserError.__subclasses__()}
        raise kinds.get(kind, UserError)(message)
