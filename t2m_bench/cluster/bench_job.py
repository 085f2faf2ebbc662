"""The cells of a benchmark on many processes: each trains a whole run by itself, a bounded number at a time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from t2m_bench.cluster.session import ray_session
from t2m_bench.cluster.stop import StopCall, make_stop_flag, poll_stop_flag
from t2m_bench.errors import find_first_line
from t2m_bench.recipe.schema import ClusterSection
from t2m_bench.runs.cell import run_cell, train_in_process
from t2m_bench.runs.setup import Job

POLL_SECONDS = 1.0

Listen = Callable[[Callable[[], None]], AbstractContextManager[None]]
OnCell = Callable[[Job, str | None], None]


def run_cells_with_ray(
    jobs: Sequence[Job],
    cluster: ClusterSection,
    on_cell: OnCell,
    listen: Listen,
    is_stopping: Callable[[], bool],
) -> list[Job]:
    """Run the cells as Ray tasks, `num_bench_workers` at a time; one that was asked to stop saves and returns.

    A task whose process dies is started again from its last checkpoint, `max_failures` times.

    Args:
        on_cell: is told of each cell that ends, with the reason where it failed.
        listen: a context in which the given callback is called when this process is asked to stop.
        is_stopping: whether it was, so that no further cell is begun.

    Returns:
        Cells whose processes died more often than that: not finished, and not by their own fault perhaps.

    Raises:
        ClusterError: the cluster has less than the recipe asks for.
    """
    workers = min(cluster.num_bench_workers, len(jobs))
    lost: list[Job] = []
    with ray_session(workers, cluster.cpus_per_worker, cluster.gpus_per_worker):
        import ray

        flag = make_stop_flag()
        run = ray.remote(
            num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker, max_retries=cluster.max_failures
        )(_run)
        waiting = list(jobs)
        running: dict[Any, Job] = {}
        call = StopCall(flag)
        with listen(call.ask):
            while (running or (waiting and not is_stopping())) and not call.is_overdue():
                while waiting and len(running) < workers and not is_stopping():
                    job = waiting.pop(0)
                    running[run.remote(job, flag, cluster.cpus_per_worker)] = job
                done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
                for reference in done:
                    job = running.pop(reference)
                    try:
                        on_cell(job, ray.get(reference))
                    except ray.exceptions.RayError as error:
                        lost.append(job)
                        on_cell(job, f"its process died again and again: {find_first_line(error)}")
    return lost


def _run(job: Job, flag: Any, cpus: float) -> str | None:
    """Return why the cell failed, or None; Ray neither wraps nor retries what the cell itself met."""
    torch.set_num_threads(max(1, int(cpus)))
    with poll_stop_flag(flag) as should_stop:
        return run_cell(job, lambda: train_in_process(job, should_stop))
