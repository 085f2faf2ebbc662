"""All arms and seeds of a recipe, one after the other; a finished run is reused."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from t2m_bench.config import Recipe
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.terminal import Terminal
from t2m_bench.pipeline.train import Experiment, open_experiment, train


def bench(recipe: Recipe, runs: Path, terminal: Terminal, stop: StopRequest) -> tuple[Experiment, list[dict[str, Any]]]:
    """Train and evaluate every arm and seed of `bench`; return each run's run.json.

    Raises:
        UserError: as `open_experiment` and `train`; what was finished stays.
        StoppedError: the process was asked to stop.
    """
    workers = max(recipe.cluster.min_train_workers, recipe.cluster.num_embed_workers)
    with _keep_ray(workers, recipe.cluster.cpus_per_worker):
        experiment = open_experiment(recipe, runs, terminal)
        cells = [(arm, seed) for seed in recipe.bench.seeds for arm in recipe.bench.arms]
        summaries = [train(experiment, arm, seed, terminal, stop) for arm, seed in cells]
    return experiment, summaries


def _keep_ray(workers: int, cpus_per_worker: float) -> Any:
    """Keep one Ray through all stages: starting it takes seconds."""
    if workers == 0:
        return nullcontext()
    from t2m_bench.cluster.session import ray_session

    return ray_session(workers * cpus_per_worker)
