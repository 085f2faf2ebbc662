import json
import os
from pathlib import Path

import pytest
import torch
from messages import check_names, is_named

from t2m_bench.cluster.doctor import NodeView, Place, check_equal, check_gpus, check_seen, check_space
from t2m_bench.pipeline.doctor import count_bytes_to_write, examine, verify_shards
from t2m_bench.pipeline.embed import embed
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.recipe.schema import parse_recipe
from t2m_bench.terminal import Terminal


def test_what_a_node_does_not_see_is_named() -> None:
    place = Place(Path("/runs"), Path("/data"))
    seen = NodeView("n1", sees_token=True)
    assert [finding.problem for finding in check_seen([seen], place)] == [""]
    storage, data = check_seen([seen, NodeView("n2", sees_token=False, sees_data=False)], place)
    check_names(storage.problem, "/runs", "n2", "--runs")
    check_names(data.problem, "/data", "n2")
    assert not any(is_named(problem, "n1") for problem in (storage.problem, data.problem))


def test_a_gpu_that_torch_cannot_use_is_told_and_a_node_without_one_is_well() -> None:
    views = [NodeView("head", True), NodeView("n1", True, ray_gpus=2, torch_build="2.13.0+cpu without CUDA")]
    problem = check_gpus(views, use_gpu=True).problem
    check_names(problem, "n1", "2 GPUs", "2.13.0+cpu")
    assert not is_named(problem, "head")
    assert not check_gpus(views, use_gpu=False).problem
    assert not check_gpus([views[0], NodeView("n1", True, ray_gpus=2, gpus=("A100", "A100"))], use_gpu=True).problem


def test_differing_versions_are_shown_by_node() -> None:
    assert not check_equal("version of torch", {"n1": "2.13", "n2": "2.13"}).problem
    assert "n1: 2.13; n2: 2.12" in check_equal("version of torch", {"n1": "2.13", "n2": "2.12"}).problem


def test_too_little_space_is_told_before_it_runs_out(tmp_path: Path) -> None:
    assert not check_space(tmp_path, 1).problem
    check_names(check_space(tmp_path, 2**60).problem, tmp_path, f"{2**30}.0 GiB", "--runs")


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, object]:
    return {
        "name": "trial",
        "dataset": {"root": str(tmp_path / "data"), "phantom": {"cases": 63}},
        "text_encoder": {"name": "stand-in"},
        "cluster": {"num_train_workers": 2},
    }


def test_a_healthy_machine_has_no_problem_and_is_left_as_it_was(raw: dict[str, object], tmp_path: Path) -> None:
    findings = examine(parse_recipe(raw, "test"), tmp_path / "runs")
    assert [finding.problem for finding in findings if finding.problem] == []
    found = {finding.what: finding.found for finding in findings}
    check_names(found["ranks"], 2)
    assert len(found["sha256 of the image encoder"]) == 12
    assert found["torch build"].startswith(torch.__version__)
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_every_wrong_thing_gets_its_line(raw: dict[str, object], tmp_path: Path) -> None:
    raw |= {"image_encoder": {"preset": "vit_b"}, "cluster": {"num_train_workers": 0}}
    raw["dataset"] = {"root": str(tmp_path / "absent")}
    problems = [finding.problem for finding in examine(parse_recipe(raw, "test"), tmp_path / "runs")]
    told = json.dumps([problem for problem in problems if problem])
    check_names(told, tmp_path / "absent", "vit_b", "image_encoder.checkpoint")


def test_verify_finds_a_byte_that_changed_under_an_unchanged_date(raw: dict[str, object], tmp_path: Path) -> None:
    recipe, runs = parse_recipe(raw | {"cluster": {}}, "test"), tmp_path / "runs"
    (problem,) = [finding.problem for finding in verify_shards(runs, Terminal())]
    assert not problem
    shards = embed(recipe, prepare(recipe, runs, Terminal()), runs, Terminal()).folder
    assert [finding.problem for finding in verify_shards(runs, Terminal())] == [""]
    file = shards / "shard-00000.h5"
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (finding,) = verify_shards(runs, Terminal())
    check_names(finding.problem, file, "altered")


def test_embedding_that_is_done_needs_no_space(raw: dict[str, object], tmp_path: Path) -> None:
    recipe, runs = parse_recipe(raw | {"cluster": {}}, "test"), tmp_path / "runs"
    before = count_bytes_to_write(recipe, runs, 63)
    folder = embed(recipe, prepare(recipe, runs, Terminal()), runs, Terminal()).folder
    written = sum(path.stat().st_size for path in folder.glob("*.h5"))
    assert before == pytest.approx(written, rel=0.01)
    assert count_bytes_to_write(recipe, runs, 63) == 0
    assert count_bytes_to_write(recipe, runs, 64) > 0
