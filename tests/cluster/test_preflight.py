"""Before long work on a cluster, its nodes are looked at: a real second node with other storage is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from messages import check_names, is_named
from ray_nodes import ray_nodes
from real_runs import make_recipe

BLIND = "mount -t tmpfs none '{folder}' && exec \"$@\""


def run(verb: str, folder: Path, environment: dict[str, str], **cluster: object) -> subprocess.CompletedProcess[str]:
    recipe = make_recipe(folder / "data", cpus_per_worker=0.5, **cluster).model_dump(mode="json")
    recipe["optim"] |= {"epochs": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", verb, str(folder / "recipe.yaml")]
    command += ["--runs", str(folder / "runs")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_a_node_with_other_storage_is_refused_before_the_work(tmp_path: Path) -> None:
    if os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a node with mounts of its own needs root")
    runs = tmp_path / "runs"
    runs.mkdir()
    blind = ["unshare", "-m", "bash", "-c", BLIND.format(folder=runs), "bash"]
    with ray_nodes([], blind) as environment:
        for verb in ("embed", "train"):
            done = run(verb, tmp_path, environment, num_embed_workers=2)
            assert done.returncode == 2, done.stderr
            lines = done.stderr.splitlines()
            (first,) = [place for place, line in enumerate(lines) if line.startswith("t2m-bench: ")]
            (line,) = lines[first + 1 :]
            check_names(line, runs, "--runs")
            assert re.search(r"\(node \d\)", line)
        assert not list(runs.glob("shards/*")), "nothing was embedded before the look"
        doctor = run("doctor", tmp_path, environment)
        assert doctor.returncode == 2
        assert [line for line in doctor.stdout.splitlines() if line.startswith("WRONG") and is_named(line, "storage")]
    assert not list(runs.glob(".doctor*"))


def test_a_healthy_cluster_of_two_nodes_works(tmp_path: Path) -> None:
    with ray_nodes([], []) as environment:
        done = run("embed", tmp_path, environment, num_train_workers=2, num_embed_workers=2)
        assert done.returncode == 0, done.stderr
        (told,) = [line for line in done.stdout.splitlines() if is_named(line, "well")]
        assert "(node 1)" in told
        assert "(node 2)" in told
        assert list(tmp_path.glob("runs/shards/*/index.json"))
