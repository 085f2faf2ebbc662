"""What a suite will take: its runs are counted, its steps are really measured, and nothing is trained."""

from pathlib import Path

import pytest
from messages import raises_naming

from t2m_bench.errors import RecipeError
from t2m_bench.pipeline.bench import bench
from t2m_bench.pipeline.plan import describe_plan, make_plan
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal


def make_suite(small_recipe: Recipe, **bench_changes: object) -> Recipe:
    raw = small_recipe.model_dump(mode="json")
    raw["bench"] |= {"arms": ["text_free", "gated"], "folds": [1, 2], "seeds": [0, 1], "boxes": ["tight"]}
    raw["bench"] |= {"conditions": ["right"], **bench_changes}
    return parse_recipe(raw, "test")


def list_runs(runs: Path) -> list[str]:
    return [path.parent.name for path in runs.glob("*/*/run.json")]


def test_a_plan_counts_every_run_and_trains_none(small_recipe: Recipe, tmp_path: Path) -> None:
    plan = make_plan(make_suite(small_recipe), tmp_path, Terminal())
    assert [(cost.arm, cost.runs, cost.finished) for cost in plan.arms] == [("text_free", 4, 0), ("gated", 4, 0)]
    assert (plan.num_cells, plan.num_finished, plan.num_cases) == (8, 0, 63)
    assert plan.hours == pytest.approx(sum(cost.runs * cost.run_h for cost in plan.arms))
    assert all(0 < cost.step_s < cost.epoch_s < 3600 * cost.run_h for cost in plan.arms)
    assert plan.embed_h > 0
    assert plan.shards_gib > 0
    assert list_runs(tmp_path) == []
    assert not list(tmp_path.glob("shards/*"))
    assert max(map(len, describe_plan(plan)[:-1])) <= 80


def test_finished_runs_and_embeddings_take_nothing_more(small_recipe: Recipe, tmp_path: Path) -> None:
    half = make_suite(small_recipe, arms=["text_free"], folds=[1])
    bench(half, tmp_path, Terminal(), StopRequest())
    before = list_runs(tmp_path)
    plan = make_plan(make_suite(small_recipe), tmp_path, Terminal())
    assert plan.num_finished == 2
    assert {cost.arm: cost.finished for cost in plan.arms} == {"text_free": 2, "gated": 0}
    assert (plan.embed_h, plan.shards_gib) == (0.0, 0.0)
    assert plan.hours == pytest.approx(sum((cost.runs - cost.finished) * cost.run_h for cost in plan.arms))
    assert list_runs(tmp_path) == before


def test_what_would_refuse_the_suite_refuses_its_plan(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2m_bench.models.box_unet.importlib.util.find_spec", lambda name: None)
    with raises_naming(RecipeError, "[unet]"):
        make_plan(make_suite(small_recipe, arms=["unet"]), tmp_path, Terminal())
