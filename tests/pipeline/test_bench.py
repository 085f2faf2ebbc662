"""A suite over folds and seeds, with a cell that fails, in this process."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from messages import check_names, raises_naming

from t2m_bench.cli import main
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.errors import DatasetError, LeakageError, RecipeError, StoppedError
from t2m_bench.metrics.results import load_results
from t2m_bench.pipeline.bench import Share, bench, note_suite
from t2m_bench.pipeline.plan import make_plan
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.train import evaluate
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal

NAMED = {
    "narrow": {"adapter": {"kind": "gated", "inner_width": 16}},
    "wild": {"optim": {"learning_rate": 1e30}, "differently_tuned": True, "trials": 7},
}


def make_suite(small_recipe: Recipe, **changes: object) -> Recipe:
    raw = small_recipe.model_dump(mode="json")
    raw["optim"] |= {"epochs": 1}
    raw["bench"] |= {"arms": ["wild", "text_free", "narrow"], "named": NAMED, "folds": [1, 2]}
    raw["bench"] |= {"conditions": ["right"], "boxes": ["tight"], **changes}
    return parse_recipe(raw, "test")


def run(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    arguments = ["bench", str(folder / "recipe.yaml"), "--runs", str(folder / "runs"), "--json"]
    monkeypatch.setattr(sys, "argv", ["t2m-bench", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_failing_cell_is_told_at_the_end_and_the_others_finish(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(make_suite(small_recipe), tmp_path, monkeypatch) == 2
    printed, errors = capsys.readouterr()
    check_names(errors, "2 cells", "wild-fold2-seed0", "nan")
    summary = json.loads(printed.splitlines()[-1])
    assert len(summary["failures"]) == 2
    cells = {(cell["arm"], cell["fold"]) for cell in summary["runs"]}
    assert cells == {(arm, fold) for arm in ("text_free", "narrow") for fold in (1, 2)}
    assert Path(summary["report"]).is_file()
    experiment = Path(summary["experiment"])
    assert {path.name for path in experiment.glob("reference-*")} == {"reference-fold1", "reference-fold2"}
    tables = pd.concat(load_results(path) for path in experiment.glob("*/cases.parquet"))
    trained = tables[tables["arm"] == "narrow"]
    noted = json.loads((experiment / "experiment.json").read_text())["folds"]
    for fold in (1, 2):
        assert len(trained[trained["fold"] == fold]) == noted[str(fold)]["audit"]["cases"]["test"]
    assert not trained["case"].duplicated().any(), "a case is a test case in one fold alone"
    assert run(make_suite(small_recipe, arms=["text_free", "narrow"]), tmp_path, monkeypatch) == 0
    check_names(capsys.readouterr().out, "reused", "4 of 4")


def test_an_experiment_remembers_all_that_it_was_asked_for_and_its_margin(small_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps({"recipe": small_recipe.model_dump(mode="json")}))
    note_suite(make_suite(small_recipe, arms=["gated"], folds=[2], seeds=[0]), tmp_path)
    note_suite(make_suite(small_recipe, arms=["text_free", "gated"], folds=[], seeds=[3, 0]), tmp_path)
    noted = json.loads(path.read_text())
    assert noted["suite"] == {"arms": ["gated", "text_free"], "folds": [2, 1], "seeds": [0, 3]}
    with raises_naming(RecipeError, "bench.margin", 0.05, path, 0.005):
        note_suite(make_suite(small_recipe, margin=0.05), tmp_path)
    assert json.loads(path.read_text()) == noted


def test_a_suite_that_was_asked_to_stop_begins_no_further_cell(small_recipe: Recipe, tmp_path: Path) -> None:
    stop = StopRequest()
    stop.number = signal.SIGUSR1  # while the cell before evaluated, say
    with pytest.raises(StoppedError):
        bench(make_suite(small_recipe, arms=["text_free"]), tmp_path, Terminal(), stop)
    assert list(tmp_path.glob("*/reference-*/cases.parquet"))
    assert not list(tmp_path.glob("*/text_free-*"))


def test_what_no_training_needs_is_refused_before_it(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2m_bench.models.box_unet.importlib.util.find_spec", lambda name: None)
    with raises_naming(RecipeError, "unet", "monai", ".[unet]"):
        bench(make_suite(small_recipe, arms=["unet"]), tmp_path / "runs", Terminal(), StopRequest())
    assert not (tmp_path / "runs").exists()


def test_a_fold_that_does_not_exist_is_refused_before_anything_is_embedded(
    small_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = make_suite(small_recipe, arms=["text_free"], folds=[1, 7])
    for work in (
        lambda: bench(recipe, tmp_path, Terminal(), StopRequest()),
        lambda: make_plan(recipe, tmp_path, Said()),
    ):
        with raises_naming(DatasetError, "bench.folds", 7, "1, 2, 3, 4, 5"):
            work()
        assert not list(tmp_path.glob("shards/*"))
        assert not list(tmp_path.glob("*/experiment.json"))


class Said(Terminal):
    """A terminal on which nothing is embedded or measured."""

    @contextmanager
    def watch(self, what: str, total: int | None = None, done: int = 0) -> Iterator[Any]:
        assert "embedded" not in what
        yield lambda done, total: None


def test_a_leak_in_a_later_fold_is_refused_before_anything_is_embedded(small_recipe: Recipe, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_bus_bra_phantom(root, num_cases=60, seed=5, text_effect=1.0)
    raw = make_suite(small_recipe, arms=["text_free"], folds=[1, 2]).model_dump(mode="json")
    raw["dataset"] |= {"root": str(root), "phantom": None}
    recipe = parse_recipe(raw, "test")
    prepare(recipe, tmp_path, Terminal())
    (noted,) = tmp_path.glob("prepared/*/splits-fold1-*.json")
    trained = set(json.loads(noted.read_text())["splits"]["train"])
    folds = pd.read_csv(root / "5-fold-cv.csv").set_index("ID")["kFold"]
    one, other = (next(name for name in folds[folds == fold].index if name in trained) for fold in (2, 3))
    shutil.copy(root / "Images" / f"{one}.png", root / "Images" / f"{other}.png")
    masks = [root / "Masks" / f"{name.replace('bus_', 'mask_')}.png" for name in (one, other)]
    shutil.copy(*masks)
    prepare(recipe, tmp_path, Terminal())
    for work in (
        lambda: bench(recipe, tmp_path, Terminal(), StopRequest()),
        lambda: make_plan(recipe, tmp_path, Said()),
    ):
        with raises_naming(LeakageError, 2, "images", one):
            work()
        assert not list(tmp_path.glob("shards/*"))


EVERY_ARM = (
    *("text_free_one_level", "text_train_only", "text_input_only", "label", "shuffled"),
    *("tuned_decoder", "tuned_hierarchical", "text_prompt", "unet"),
)


@pytest.mark.parametrize("arm", EVERY_ARM)
def test_every_arm_trains_answers_and_is_read_back(
    small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, arm: str
) -> None:
    runs = tmp_path_factory.getbasetemp() / "every-arm"  # shared, so that shards are made once
    recipe = make_suite(small_recipe, arms=[arm], folds=[1], conditions=["right", "wrong", "paraphrase", "random"])
    suite = bench(recipe, runs, Terminal(), StopRequest())
    (summary,) = suite.summaries
    folder = suite.experiment.folder / summary["run"]
    found = set(load_results(folder / "cases.parquet")["condition"])
    asked = {"right", "wrong", "paraphrase:1", "paraphrase:2", "paraphrase:3", "random"}
    expected = {"label": {"right", "wrong"}} | dict.fromkeys(
        ("shuffled", "text_input_only", "tuned_hierarchical", "text_prompt"), asked
    )
    assert found == expected.get(arm, {"none"})
    before = load_results(folder / "cases.parquet")
    (folder / "cases.parquet").unlink()
    assert evaluate(folder, runs, Terminal())["test_dice"] == summary["test_dice"]
    assert load_results(folder / "cases.parquet").equals(before)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16])
def test_every_cell_is_dealt_to_one_part(count: int) -> None:
    cells = [SimpleNamespace(arm=arm, seed=seed) for seed in range(5) for arm in ("text_free", "narrow", "wild")[:seed]]
    parts = [Share(number, count).select(cells) for number in range(1, count + 1)]
    dealt = [(cell.arm, cell.seed) for part in parts for cell in part]
    assert sorted(dealt) == sorted((cell.arm, cell.seed) for cell in cells)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_share_a_suite_and_the_last_one_reports(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_suite(small_recipe, arms=["text_free", "narrow"]).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))

    def take(part: str, runs: str) -> dict[str, object]:
        arguments = ["bench", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / runs), "--json", "--part", part]
        monkeypatch.setattr(sys, "argv", ["t2m-bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        summary: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return summary

    first = take("1/2", "parts")
    assert "report" not in first
    done = [json.loads(path.read_text())["arm"] for path in (tmp_path / "parts").glob("*/*/run.json")]
    assert sorted(done) == ["narrow", "text_free"], "parts take about as long: each has some of every arm"
    last = take("2/2", "parts")
    assert Path(str(last["report"])).is_file()
    whole = take("1/1", "whole")
    tables = [
        pd.concat(load_results(path) for path in sorted(Path(str(found["experiment"])).glob("*/cases.parquet")))
        for found in (last, whole)
    ]
    keys = ["arm", "fold", "seed", "case", "condition", "box"]
    # pseudonyms are drawn anew in each runs folder
    nameless = [table.drop(columns=["case", "patient"]) for table in tables]
    shown = [table.sort_values([*keys[:3], "dice"]).reset_index(drop=True) for table in nameless]
    pd.testing.assert_frame_equal(*shown)
