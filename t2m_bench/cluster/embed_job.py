"""Embedding on many processes: each writes other files, none shares one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from t2m_bench.cluster.session import ray_session
from t2m_bench.embedding.encode import EmbedTask
from t2m_bench.errors import UserError, WorkersLostError, find_first_line
from t2m_bench.recipe.schema import ClusterSection


def embed_with_ray(tasks: Sequence[EmbedTask], cluster: ClusterSection, on_cases: Callable[[int], None]) -> None:
    """Run the tasks on up to `num_embed_workers` processes; what is finished stays when one fails.

    Args:
        on_cases: is told the number of cases of each finished file.

    Raises:
        UserError: an image or the weights cannot be read, or the disk is full.
        OSError: a folder cannot be read or written.
        WorkersLostError: workers kept dying.
        ClusterError: the cluster has less than the recipe asks for.
    """
    workers = min(cluster.num_embed_workers, len(tasks))
    with ray_session(workers, cluster.cpus_per_worker, cluster.gpus_per_worker):
        import ray

        run = ray.remote(
            num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker, max_retries=cluster.max_failures
        )(_run)
        waiting = list(tasks)
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop(0)
                running[run.remote(task, cluster.cpus_per_worker, cluster.use_gpu)] = len(task.cases)
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                try:
                    failure = ray.get(reference)
                except ray.exceptions.RayTaskError:  # a defect, whose traceback is wanted
                    raise
                except ray.exceptions.RayError as error:
                    raise WorkersLostError(
                        f"embedding: workers were lost more than {cluster.max_failures} times; the last: "
                        f"{find_first_line(error)} Finished files are kept: run the same command again."
                    ) from None
                if failure is not None:
                    raise failure
                on_cases(running.pop(reference))


def _run(task: EmbedTask, cpus: float, use_gpu: bool) -> UserError | OSError | None:
    """Return an error that needs no traceback instead of raising it, so that Ray neither wraps nor retries it."""
    torch.set_num_threads(max(1, int(cpus)))
    try:
        task.run(torch.device("cuda" if use_gpu else "cpu"))
    except (UserError, OSError) as error:
        return error
    return None
