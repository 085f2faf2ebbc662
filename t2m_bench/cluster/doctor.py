"""Looks, in seconds, at what would fail hours into long work: nodes, storage, versions, weights, ranks that talk."""

import platform
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from t2m_bench.cluster.session import ray_session
from t2m_bench.cluster.train_job import build_trainer
from t2m_bench.config import Recipe
from t2m_bench.errors import UserError
from t2m_bench.models.sam import compute_weights_sha256
from t2m_bench.models.text import compute_text_sha256
from t2m_bench.shards.reader import check_locking
from t2m_bench.training.ranks import Ranks

PACKAGES = ("t2m-bench", "torch", "ray", "accelerate", "transformers", "segment-anything", "h5py", "numpy")
SECONDS = 60.0
RUN_BYTES = 64 * 2**20
"""What a run's folder may take: parameters, moments, events, results."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `problem` is empty when it is well."""

    what: str
    found: str
    problem: str = ""


@dataclass
class NodeView:
    """What one node says of itself."""

    name: str
    sees_token: bool
    versions: dict[str, str]
    weights: dict[str, str]
    gpus: int
    locking: str
    errors: list[str] = field(default_factory=list)


def examine(recipe: Recipe, runs: Path, needed_bytes: int) -> list[Finding]:
    """Return a finding for each thing looked at, on every node of the Ray that the recipe would use.

    Args:
        needed_bytes: what embedding will write, 0 when that is done.

    Raises:
        ClusterError: the cluster cannot be reached, or has less than the recipe asks for.
    """
    cluster = recipe.cluster
    runs.mkdir(parents=True, exist_ok=True)
    token_file = runs.resolve() / f".doctor-{secrets.token_hex(8)}"
    token_file.write_text(token_file.name)
    workers = cluster.min_train_workers
    try:
        with ray_session(workers * cluster.cpus_per_worker, workers if cluster.use_gpu else 0):
            views = _ask_nodes(recipe, token_file)
            ranks = _check_ranks(recipe, runs) if workers > 0 else Finding("ranks", "none asked for")
    finally:
        token_file.unlink(missing_ok=True)
    findings = [
        Finding("nodes", ", ".join(view.name for view in views)),
        _check_shared(views, runs),
        *(_check_equal(f"version of {name}", {v.name: v.versions[name] for v in views}) for name in PACKAGES),
        *_check_weights(views),
        _check_gpus(views, recipe),
        ranks,
        *(Finding(f"HDF5 locking on {view.name}", view.locking or "works", view.locking) for view in views),
        check_space(runs, needed_bytes + RUN_BYTES),
    ]
    return findings + [Finding(f"on {view.name}", error, error) for view in views for error in view.errors]


def _ask_nodes(recipe: Recipe, token_file: Path) -> list[NodeView]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    look = ray.remote(num_cpus=0, max_retries=0)(look_here)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            recipe, token_file
        )
        for node in list_nodes()
        if node["Alive"]
    ]
    views: list[NodeView] = ray.get(asked, timeout=SECONDS)
    return sorted(views, key=lambda view: view.name)


def look_here(recipe: Recipe, token_file: Path) -> NodeView:
    """Look at the node that this runs on."""
    try:
        sees_token = token_file.read_text() == token_file.name
    except OSError:
        sees_token = False
    weights, errors = {}, []
    encoder = recipe.image_encoder
    sources: dict[str, Callable[[], str]] = {
        "image encoder": lambda: compute_weights_sha256(encoder.preset, encoder.checkpoint),
        "text encoder": lambda: compute_text_sha256(recipe.text_encoder.name),
    }
    for name, compute in sources.items():
        try:
            weights[name] = compute()
        except UserError as error:
            errors.append(str(error))
    versions = {name: metadata.version(name) for name in PACKAGES}
    locking = check_locking(token_file.parent) if sees_token else "not looked at"
    return NodeView(socket.gethostname(), sees_token, versions, weights, torch.cuda.device_count(), locking, errors)


def _check_shared(views: Sequence[NodeView], runs: Path) -> Finding:
    blind = [view.name for view in views if not view.sees_token]
    if blind:
        return Finding(
            "shared storage",
            f"{runs} is not seen on {', '.join(blind)}",
            f"give a --runs folder that every node shares; {', '.join(blind)} cannot read what was written here",
        )
    return Finding("shared storage", f"{runs} is seen by all")


def _check_equal(what: str, by_node: dict[str, str]) -> Finding:
    distinct = sorted(set(by_node.values()))
    shown = "; ".join(f"{node}: {value}" for node, value in by_node.items())
    if len(distinct) > 1:
        return Finding(what, shown, f"differs between nodes ({shown}); use one environment on all")
    return Finding(what, distinct[0])


def _check_weights(views: Sequence[NodeView]) -> list[Finding]:
    names = sorted({name for view in views for name in view.weights})
    return [
        _check_equal(f"sha256 of the {name}", {v.name: v.weights.get(name, "absent")[:12] for v in views})
        for name in names
    ]


def _check_gpus(views: Sequence[NodeView], recipe: Recipe) -> Finding:
    shown = ", ".join(f"{view.name}: {view.gpus}" for view in views)
    build = torch.version.cuda or "without CUDA"
    problem = ""
    if recipe.cluster.use_gpu and not all(view.gpus for view in views):
        problem = f"cluster.use_gpu is true and torch ({build}) finds no GPU on every node ({shown})"
    return Finding("GPUs", f"{shown}; torch built {build}; Python {platform.python_version()}", problem)


def _check_ranks(recipe: Recipe, runs: Path) -> Finding:
    """Let the recipe's workers add up a number, as each training step does."""
    from ray.train import TrainingFailedError

    storage = runs.resolve() / ".ray" / f"doctor-{secrets.token_hex(8)}"
    start, workers = time.monotonic(), recipe.cluster.min_train_workers
    try:
        fixed = recipe.cluster.model_copy(update={"num_train_workers": workers})
        build_trainer(_add_up, {"expected": workers, "use_gpu": fixed.use_gpu}, fixed, storage).fit()
    except TrainingFailedError as error:
        reason = str(error).strip().splitlines()[-1]
        return Finding(
            "ranks", "do not talk", f"{workers} workers cannot add up a number ({reason}); see slurm/site.sh"
        )
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return Finding("ranks", f"{workers} add up a number, {time.monotonic() - start:.0f} s with their start")


def _add_up(config: dict[str, Any]) -> None:
    ranks = Ranks("no", config["use_gpu"])
    total = float(ranks.sum(torch.ones(1, device=ranks.device)))
    if total != config["expected"]:
        raise RuntimeError(f"{config['expected']} ranks add up to {total:g}")


def check_space(runs: Path, needed_bytes: int) -> Finding:
    """Compare the free space under `runs` with what will be written."""
    free = shutil.disk_usage(runs).free
    shown = f"{free / 2**30:.1f} GiB free, {needed_bytes / 2**30:.1f} GiB needed"
    problem = "" if free > needed_bytes else f"{runs}: {shown}; free some space or give another --runs"
    return Finding("space", shown, problem)
