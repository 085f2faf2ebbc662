"""The files for Ray's cluster launcher and for KubeRay, read by what reads them there where that can be had here."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from t2m_bench.cli import app
from t2m_bench.recipe.schema import load_recipe

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
KUBERNETES = "1.33.0"

# In processes of their own: Ray reads its token settings when it is first imported.
LAUNCHER = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(open(sys.argv[1])))
validate_config(config)
print(json.dumps(config))
"""
OPERATOR = """
import json, sys
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
print(json.dumps(_derive_autoscaling_config_from_ray_cr(json.loads(sys.argv[1]))))
"""
START = """
import json, sys
from ray.scripts.scripts import start
print(json.dumps(start.make_context("start", sys.argv[1:]).params, default=str))
"""


def run_python(code: str, *arguments: object) -> Any:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def launcher() -> dict[str, Any]:
    return run_python(LAUNCHER, LAUNCH / "ray-cluster.yaml")


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all((LAUNCH / "kuberay.yaml").read_text())}


def test_the_launcher_takes_the_file_and_starts_all_hosts(launcher: dict[str, Any]) -> None:
    (node_type,) = launcher["available_node_types"].values()
    assert node_type["max_workers"] == launcher["max_workers"] == len(launcher["provider"]["worker_ips"])


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_starts_with_a_token_on_every_host(launcher: dict[str, Any], role: str) -> None:
    starts = [line for line in launcher[f"{role}_start_ray_commands"] if "ray start" in line]
    (line,) = starts
    before, _, options = line.partition("ray start ")
    assert "export RAY_AUTH_MODE=token" in before, "in the same shell as ray start"
    parsed = run_python(START, *shlex.split(options))
    assert parsed["head"] == (role == "head")
    assert "~/.ray/auth_token" in launcher["file_mounts"]
    if role == "head":
        assert parsed["port"] == 6379
        assert parsed["include_dashboard"] is False
    else:
        assert parsed["address"] == "$RAY_HEAD_IP:6379"


def test_pods_and_volume_are_what_kubernetes_knows(documents: dict[str, dict[str, Any]]) -> None:
    kubernetes_validate.validate(documents["PersistentVolumeClaim"], KUBERNETES, strict=True)
    for template in list_templates(documents["RayJob"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        (volume,) = template["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == documents["PersistentVolumeClaim"]["metadata"]["name"]
    assert documents["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def list_templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_rays_reader_of_kuberay_finds_what_the_recipe_asks_for(documents: dict[str, dict[str, Any]]) -> None:
    job = documents["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}, "open to all who reach it without"
    cluster = {"metadata": {"name": "t2m", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    types = run_python(OPERATOR, json.dumps(cluster))["available_node_types"]
    workers = types["workers"]
    recipe = load_entrypoint(job["spec"]["entrypoint"])
    assert workers["min_workers"] * workers["resources"]["CPU"] >= recipe.min_train_workers * recipe.cpus_per_worker
    assert types["headgroup"]["resources"]["CPU"] == 0, "the head's processors belong to the driver"


def load_entrypoint(entrypoint: str) -> Any:
    """Read the entrypoint as our command line does; return the cluster section that comes out."""
    tool, verb, *arguments = shlex.split(entrypoint)
    assert tool == "t2m-bench"
    parsed = typer.main.get_command(app).commands[verb].make_context(verb, arguments).params
    assert Path(parsed["runs"]).is_relative_to("/shared")
    recipe = load_recipe(LAUNCH / Path(parsed["recipe"]).name, parsed["overrides"])
    assert recipe.dataset.root.is_relative_to("/shared")
    return recipe.cluster


def test_versions_are_those_we_test_with(documents: dict[str, dict[str, Any]]) -> None:
    tested = (LAUNCH.parent / "constraints.txt").read_text()
    version = documents["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in tested.replace("[train,tune]", "").splitlines()
    assert f"rayproject/ray:{version}-py311" in (LAUNCH / "kuberay.yaml").read_text()
