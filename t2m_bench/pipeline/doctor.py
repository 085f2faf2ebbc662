"""Runs the checks of `doctor` on data set, shards and the cluster's nodes; long work on a cluster runs them first."""

import os
import time
from pathlib import Path
from typing import Any

from t2m_bench.cluster.doctor import Finding, Place, examine_cluster
from t2m_bench.data.datasets.registry import count_images
from t2m_bench.embedding.encode import count_bytes_per_case
from t2m_bench.embedding.shards.reader import verify_files
from t2m_bench.embedding.shards.schema import INDEX_NAME, load_index
from t2m_bench.errors import ClusterError, DatasetError, ShardError
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.measures import MEASURE_TABLE
from t2m_bench.recipe.registry import Registry
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal
from t2m_bench.training.process_group import find_device


def examine(recipe: Recipe, runs: Path) -> list[Finding]:
    """Return a finding for each thing looked at.

    Raises:
        ClusterError: the cluster cannot be reached, or has less than the recipe asks for.
    """
    data, num_cases = _look_at_data(recipe)
    root = recipe.dataset.root.resolve()
    place = Place(runs.resolve(), root if root.is_dir() else None)
    return [data, look_at_packages(), *examine_cluster(recipe, place, count_bytes_to_write(recipe, runs, num_cases))]


def check_before_work(recipe: Recipe, runs: Path, terminal: Terminal) -> None:
    """Look at the cluster that RAY_ADDRESS names, in seconds, before work that takes hours there.

    A Ray of our own is this process's machine and environment: a GPU that is asked for is all to look for.

    Raises:
        ClusterError: something there would fail; a line for each thing.
        RecipeError: a GPU is asked for here and there is none.
    """
    cluster = recipe.cluster
    workers = max(cluster.min_train_workers, cluster.num_embed_workers)
    if not os.environ.get("RAY_ADDRESS") or workers == 0:
        find_device(cluster.use_gpu)
        return
    start = time.monotonic()
    findings = examine(recipe, runs)
    problems = [finding.problem for finding in findings if finding.problem]
    if problems:
        raise ClusterError("\n  ".join(["this cluster is not ready (t2m-bench doctor shows all):", *problems]))
    (nodes,) = [finding.found for finding in findings if finding.what == "nodes"]
    terminal.say(f"looked at {nodes} before the work: all is well, {time.monotonic() - start:.0f} s")


def verify_shards(runs: Path, terminal: Terminal) -> list[Finding]:
    """Read every file of every folder of shards and compare its sha256 with the index."""
    return [_verify(folder, terminal) for folder in _list_shards(runs)] or [Finding("shards", f"none in {runs}")]


def _verify(folder: Path, terminal: Terminal) -> Finding:
    try:
        with terminal.watch(f"files of {folder.name} read") as advance:
            verify_files(folder, always=True, on_file=advance)
    except ShardError as error:
        return Finding(f"shards {folder.name}", "altered", str(error))
    return Finding(f"shards {folder.name}", f"{len(load_index(folder).entries)} files are what the index says")


def _list_shards(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.glob(f"shards/*/{INDEX_NAME}"))


def count_bytes_to_write(recipe: Recipe, runs: Path, num_cases: int) -> int:
    """Return what embedding will write: nothing where as many cases by the same encoder are there already."""
    preset = recipe.image_encoder.preset
    for folder in _list_shards(runs):
        try:
            index = load_index(folder)
        except ShardError:  # of another format, or damaged: whoever reads it says so
            continue
        if folder.name.startswith(f"{recipe.name}-") and (index.signature.image_encoder, index.num_cases) == (
            preset,
            num_cases,
        ):
            return 0
    return num_cases * count_bytes_per_case(IMAGE_ENCODERS.find(preset).grid)


def look_at_packages() -> Finding:
    """Name the entries that other packages add to the tables, and those that cannot be imported.

    These are no problem of a recipe that does not name them; one that does is refused before.
    """
    tables: tuple[Registry[Any], ...] = (DATA_SETS, IMAGE_ENCODERS, ARMS, CONDITIONS, MEASURE_TABLE)
    found = [f"{table.what} {entry.name}" for table in tables for entry in table if entry not in table.own]
    broken = [f"left out: {reason}" for table in tables for reason in table.broken.values()]
    return Finding("entries of other packages", "; ".join([*found, *broken]) or "none")


def _look_at_data(recipe: Recipe) -> tuple[Finding, int]:
    phantom = recipe.dataset.phantom
    if phantom is not None:
        return Finding("data set", f"{phantom.cases} phantoms, written when they are needed"), phantom.cases
    try:
        num_images, found = count_images(recipe)
    except DatasetError as error:
        return Finding("data set", "absent", str(error)), 0
    return Finding("data set", found), num_images
