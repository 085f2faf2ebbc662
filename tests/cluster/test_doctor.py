import json
from pathlib import Path

import pytest

from t2m_bench.cluster.doctor import NodeView, _check_equal, _check_shared, check_space
from t2m_bench.config import parse_recipe
from t2m_bench.pipeline.doctor import examine


def make_view(name: str, sees_token: bool = True) -> NodeView:
    return NodeView(name, sees_token, {}, {}, 0, "")


def test_a_node_that_does_not_see_the_storage_is_named() -> None:
    found = _check_shared([make_view("n1"), make_view("n2", sees_token=False)], Path("runs"))
    assert "n2 cannot read what was written here" in found.problem
    assert not _check_shared([make_view("n1")], Path("runs")).problem


def test_differing_versions_are_shown_by_node() -> None:
    assert not _check_equal("version of torch", {"n1": "2.13", "n2": "2.13"}).problem
    assert "n1: 2.13; n2: 2.12" in _check_equal("version of torch", {"n1": "2.13", "n2": "2.12"}).problem


def test_too_little_space_is_told_before_it_runs_out(tmp_path: Path) -> None:
    assert not check_space(tmp_path, 1).problem
    assert "free some space" in check_space(tmp_path, 2**60).problem


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
    assert found["ranks"].startswith("2 add up a number")
    assert len(found["sha256 of the image encoder"]) == 12
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_every_wrong_thing_gets_its_line(raw: dict[str, object], tmp_path: Path) -> None:
    raw |= {"image_encoder": {"preset": "vit_b"}, "cluster": {"num_train_workers": 0}}
    raw["dataset"] = {"root": str(tmp_path / "absent")}
    problems = [finding.problem for finding in examine(parse_recipe(raw, "test"), tmp_path / "runs")]
    told = json.dumps([problem for problem in problems if problem])
    assert "absent: does not exist" in told
    assert "image_encoder.checkpoint is empty" in told
