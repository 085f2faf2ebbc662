"""Looks, in seconds, at what would fail hours into long work: nodes, storage, versions, weights, ranks that talk."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from t2m_bench.cluster.session import ray_session
from t2m_bench.cluster.train_job import build_trainer, fit_apart
from t2m_bench.embedding.shards.reader import check_hdf5
from t2m_bench.errors import UserError, WorkersLostError, find_last_line
from t2m_bench.locks import Locking, check_locking
from t2m_bench.models.sam import compute_weights_sha256
from t2m_bench.models.text import compute_text_sha256
from t2m_bench.recipe.schema import Recipe
from t2m_bench.training.launcher_variables import list_launched
from t2m_bench.training.process_group import ProcessGroup

PACKAGES = ("t2m-bench", "torch", "ray", "accelerate", "transformers", "segment-anything", "h5py", "numpy")
SECONDS = 60.0
RUN_BYTES = 64 * 2**20
"""Bytes that one run folder may need: parameters, optimizer moments, events, results."""

GPU_SHARE = 0.01
"""Share of a GPU that a check requests; Ray hides GPUs from tasks that request none."""


NOT_LOOKED_AT = Locking("not looked at")


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `problem` is empty when it is well."""

    what: str
    found: str
    problem: str = ""


@dataclass(frozen=True)
class Place:
    """Absolute paths that every node must see: the runs folder, and the data set (None while it does not exist)."""

    runs: Path
    root: Path | None


@dataclass
class NodeView:
    """One node's report of itself; `ray_gpus` counts the GPUs that Ray was given, `gpus` names those torch finds."""

    name: str
    sees_token: bool
    sees_data: bool = True
    versions: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    torch_build: str = ""
    ray_gpus: int = 0
    gpus: tuple[str, ...] = ()
    driver: str = ""
    hdf5: str = ""
    locking: Locking = field(default_factory=lambda: NOT_LOOKED_AT)
    launched: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def examine_cluster(recipe: Recipe, place: Place, needed_bytes: int) -> list[Finding]:
    """Return a finding for each thing looked at, on every node of the Ray that the recipe would use.

    Args:
        needed_bytes: what embedding will write, 0 when that is done.

    Raises:
        ClusterError: the cluster cannot be reached, or has less than the recipe asks for.
        WorkersLostError: nodes were lost meanwhile.
    """
    cluster = recipe.cluster
    here = list_launched(os.environ)
    place.runs.mkdir(parents=True, exist_ok=True)
    token_file = place.runs / f".doctor-{secrets.token_hex(8)}"
    token_file.write_text(token_file.name)
    workers = cluster.min_train_workers
    try:
        with ray_session(workers, cluster.cpus_per_worker, cluster.gpus_per_worker):
            views, silent = _ask_nodes(recipe, token_file, place.root)
            well = not silent and all(view.sees_token for view in views)
            ranks = _check_ranks(recipe, place.runs, workers) if well else Finding("ranks", "not looked at")
    finally:
        token_file.unlink(missing_ok=True)
    findings = [
        Finding("nodes", ", ".join(view.name for view in views)),
        *silent,
        *check_seen(views, place),
        *(check_equal(f"version of {name}", {v.name: v.versions[name] for v in views}) for name in PACKAGES),
        check_equal("torch build", {view.name: view.torch_build for view in views}),
        *_check_weights(views),
        check_gpus(views, recipe.cluster.use_gpu),
        describe_launchers(here, views),
        ranks,
        *(Finding(f"HDF5 locking on {view.name}", view.hdf5 or "works", view.hdf5) for view in views),
        *check_locks(views, place),
        check_space(place.runs, needed_bytes + RUN_BYTES),
    ]
    return findings + [Finding(f"on {view.name}", error, error) for view in views for error in view.errors]


def _ask_nodes(recipe: Recipe, token_file: Path, root: Path | None) -> tuple[list[NodeView], list[Finding]]:
    """Return each node's view of itself, and a finding for each node that cannot say."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    nodes = [node for node in list_nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0, max_retries=0)(look_here)
    asked = {}
    for name, node in zip(_name_nodes(nodes), nodes, strict=True):
        ray_gpus = int(node["Resources"].get("GPU", 0))
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        share = GPU_SHARE if ray_gpus and recipe.cluster.use_gpu else 0
        options = look.options(scheduling_strategy=strategy, num_gpus=share)
        asked[name] = options.remote(name, recipe, token_file, root, ray_gpus)
    deadline = time.monotonic() + SECONDS
    views, silent = [], []
    for name, reference in sorted(asked.items()):
        try:
            views.append(ray.get(reference, timeout=max(1.0, deadline - time.monotonic())))
        except ray.exceptions.RayError as error:
            silent.append(
                Finding(f"node {name}", "cannot be looked at", f"{name} cannot run our code: {find_last_line(error)}")
            )
    if gone := {node["NodeID"] for node in nodes} - {node["NodeID"] for node in list_nodes() if node["Alive"]}:
        raise WorkersLostError(f"{len(gone)} of {len(nodes)} nodes were lost during the checks. Run the command again.")
    return views, silent


def _name_nodes(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """Return host names, made distinct where one host has several nodes."""
    hosts = [str(node["NodeManagerHostname"]) for node in nodes]
    return [
        host if hosts.count(host) == 1 else f"{host} (node {hosts[: place + 1].count(host)})"
        for place, host in enumerate(hosts)
    ]


def look_here(name: str, recipe: Recipe, token_file: Path, root: Path | None, ray_gpus: int) -> NodeView:
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
    for what, compute in sources.items():
        try:
            weights[what] = compute()
        except UserError as error:
            errors.append(str(error))
    return NodeView(
        name=name,
        sees_token=sees_token,
        sees_data=root is None or root.is_dir(),
        versions={package: metadata.version(package) for package in PACKAGES},
        weights=weights,
        torch_build=_describe_torch(),
        ray_gpus=ray_gpus,
        gpus=tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())),
        driver=_find_driver(),
        hdf5=check_hdf5(token_file.parent) if sees_token else "",
        locking=check_locking(token_file.parent) if sees_token else NOT_LOOKED_AT,
        launched=list_launched(os.environ),
        errors=errors,
    )


def _describe_torch() -> str:
    cuda = torch.version.cuda
    if cuda is None:
        return f"{torch.__version__} without CUDA"
    nccl = (
        ".".join(str(part) for part in torch.cuda.nccl.version()) if torch.distributed.is_nccl_available() else "none"
    )
    return f"{torch.__version__}, CUDA {cuda}, NCCL {nccl}"


def _find_driver() -> str:
    """Return the version of NVIDIA's driver, or nothing where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS / 2)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""


def check_seen(views: Sequence[NodeView], place: Place) -> list[Finding]:
    """Compare what the nodes see of the shared folders."""
    blind = [view.name for view in views if not view.sees_token]
    without = [view.name for view in views if not view.sees_data]
    shared = Finding("shared storage", f"{place.runs} is seen by all")
    if blind:
        shared = Finding(
            "shared storage",
            f"{place.runs} is not seen on {', '.join(blind)}",
            f"{place.runs}: {', '.join(blind)} cannot read what was written here; give a --runs folder that all share",
        )
    if not without:
        return [shared]
    problem = f"{place.root}: {', '.join(without)} cannot see the data set; put it where every node sees it"
    return [shared, Finding("data set on the nodes", "not seen by all", problem)]


def check_equal(what: str, by_node: dict[str, str]) -> Finding:
    """Compare what each node says; a difference is a problem that names every node's."""
    distinct = sorted(set(by_node.values()))
    shown = "; ".join(f"{node}: {value}" for node, value in by_node.items())
    if len(distinct) > 1:
        return Finding(what, shown, f"differs between nodes ({shown}); use one environment on all")
    return Finding(what, distinct[0])


def _check_weights(views: Sequence[NodeView]) -> list[Finding]:
    names = sorted({name for view in views for name in view.weights})
    return [
        check_equal(f"sha256 of the {name}", {v.name: v.weights.get(name, "absent")[:12] for v in views})
        for name in names
    ]


def check_gpus(views: Sequence[NodeView], use_gpu: bool) -> Finding:
    """Compare what Ray was told of GPUs with what torch finds; a node that has none need not have one."""
    shown = ", ".join(
        f"{view.name}: {view.ray_gpus}"
        + (f" ({view.gpus[0]})" if view.gpus else "")
        + (f", driver {view.driver}" if view.driver else "")
        for view in views
    )
    blind = [view for view in views if use_gpu and view.ray_gpus and not view.gpus]
    problem = "".join(
        f"{view.name}: Ray counts {view.ray_gpus} GPUs and torch ({view.torch_build}) finds none; install a CUDA build "
        f"of torch that the driver ({view.driver or 'absent'}) can serve"
        for view in blind[:1]
    )
    return Finding("GPUs", shown, problem)


def _check_ranks(recipe: Recipe, runs: Path, workers: int) -> Finding:
    """Let the recipe's workers add up a number, as each training step does."""
    if workers == 0:
        return Finding("ranks", "none asked for")
    from ray.train import TrainingFailedError

    storage = runs / ".ray" / f"doctor-{secrets.token_hex(8)}"
    start = time.monotonic()
    try:
        fixed = recipe.cluster.model_copy(update={"num_train_workers": workers, "max_failures": 0})
        config = {"expected": workers, "use_gpu": fixed.use_gpu}
        fit_apart(build_trainer(_add_up, config, fixed, storage, timeout_s=SECONDS)).result(timeout=2 * SECONDS)
    except TimeoutError:
        problem = f"{workers} workers did not start within {2 * SECONDS:.0f} s; does other work hold the cluster?"
        return Finding("ranks", "do not start", problem)
    except TrainingFailedError as error:
        problem = (
            f"{workers} workers cannot add up a number ({find_last_line(error)}); is the network interface right "
            "(slurm/site.sh)?"
        )
        return Finding("ranks", "do not talk", problem)
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return Finding("ranks", f"{workers} add up a number, {time.monotonic() - start:.0f} s with their start")


def _add_up(config: dict[str, Any]) -> None:
    ranks = ProcessGroup("no", config["use_gpu"])
    total = float(ranks.sum(torch.ones(1, device=ranks.device)))
    if total != config["expected"]:
        raise RuntimeError(f"{config['expected']} ranks add up to {total:g}")


def check_locks(views: Sequence[NodeView], place: Place) -> list[Finding]:
    """See that every node can lock the runs folder, all in the same way: two ways do not see each other."""
    findings = [
        Finding(f"locks on {view.name}", view.locking.way or "do not work", view.locking.problem) for view in views
    ]
    seen = (view for view in views if view.locking.way and view.locking != NOT_LOOKED_AT)
    ways = {view.name: view.locking.way for view in seen}
    if len(set(ways.values())) > 1:
        shown = "; ".join(f"{name}: {way}" for name, way in ways.items())
        problem = f"{place.runs}: nodes lock it in different ways ({shown}); mount it alike, or give another --runs"
        findings.append(Finding("locks", shown, problem))
    return findings


def describe_launchers(here: Mapping[str, str], views: Sequence[NodeView]) -> Finding:
    """Name the variables of launchers that are not read, though other programs would make a group of them.

    Args:
        here: those of this process, by name.
    """
    places = {"here": dict(here), **{view.name: view.launched for view in views}}
    told = [
        f"{place}: {', '.join(f'{name}={value}' for name, value in found.items())}"
        for place, found in places.items()
        if found
    ]
    shown = "; ".join(told)
    meaning = "A launcher set these; they are not read. Start t2m-bench once, not once a rank"
    return Finding("launcher variables", f"{shown}. {meaning}" if told else "none")


def check_space(runs: Path, needed_bytes: int) -> Finding:
    """Compare the free space under `runs` with what will be written."""
    free = shutil.disk_usage(runs).free
    shown = f"{free / 2**30:.1f} GiB free, {needed_bytes / 2**30:.1f} GiB needed"
    problem = "" if free > needed_bytes else f"{runs}: {shown}; free some space or give another --runs"
    return Finding("space", shown, problem)
