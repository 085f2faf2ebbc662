"""Trials in this process: judged on validation cases alone, several trainings in lockstep."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2m_bench.config import Recipe, parse_recipe
from t2m_bench.pipeline.terminal import Terminal
from t2m_bench.pipeline.train import Experiment, gather
from t2m_bench.shards.reader import ShardReader
from t2m_bench.training.checkpoint import load_progress
from t2m_bench.training.evaluate import ask
from t2m_bench.training.job import make_trainer, set_up
from t2m_bench.training.ranks import Ranks
from t2m_bench.training.trial import FrozenParts, TrialData, TrialReport, compute_reliance, hide_test_cases


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    raw = {
        "name": "trial",
        "dataset": {"root": str(tmp_path_factory.mktemp("phantoms") / "data"), "phantom": {"cases": 40, "seed": 3}},
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": 3, "warmup_steps": 2, "global_batch_size": 8, "patience": 9},
    }
    return parse_recipe(raw, "test")


@pytest.fixture(scope="module")
def experiments(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Experiment]:
    runs = tmp_path_factory.mktemp("runs")
    draws = [recipe.dataset.model_copy(update={"split_seed": seed}) for seed in (0, 1)]
    return [gather(recipe.model_copy(update={"dataset": draw}), runs, Terminal())[0] for draw in draws]


def run(
    experiments: Sequence[Experiment], recipe: Recipe, folder: Path, seeds: tuple[int, ...], *metrics: str
) -> list[TrialReport]:
    jobs = tuple(hide_test_cases(experiment.make_job("gated", 0)) for experiment in experiments)
    ranks = Ranks("no", use_gpu=False)
    parts = FrozenParts(TrialData(jobs, seeds, metrics or ("val_dice",)), ranks)
    return list(parts.run_trial(recipe, folder, ranks))


def test_a_trial_is_judged_as_its_training_would_be(
    experiments: list[Experiment], recipe: Recipe, tmp_path: Path
) -> None:
    reports = run(experiments[:1], recipe, tmp_path / "trial", (0,))
    job = replace(experiments[0].make_job("hierarchical", 0), run_folder=tmp_path / "run")
    bench = set_up(job, Ranks("no", use_gpu=False))
    cases = job.select(job.splits.val)
    trainer = make_trainer(
        bench, lambda adapter: bench.evaluator.compute_mean_dice(adapter, cases), lambda history: None, lambda: False
    )
    history = trainer.fit().history
    best_so_far = np.maximum.accumulate([row["val_dice"] for row in history])
    assert [report.values["val_dice"] for report in reports] == list(best_so_far)
    assert [report.finished for report in reports] == [False, False, True]
    assert not (tmp_path / "trial").exists()
    assert load_progress(tmp_path / "run").finished


def test_seeds_and_draws_advance_together_and_their_mean_is_reported(
    experiments: list[Experiment], recipe: Recipe, tmp_path: Path
) -> None:
    reports = run(experiments, recipe, tmp_path / "all", (0, 1))
    assert list(reports[0].members) == ["seed0-split0", "seed1-split0", "seed0-split1", "seed1-split1"]
    for report in reports:
        assert report.values["val_dice"] == pytest.approx(np.mean(list(report.members.values())))
    alone = run(experiments[1:], recipe, tmp_path / "alone", (1,))
    assert [r.values["val_dice"] for r in alone] == [r.members["seed1-split1"] for r in reports]
    assert len(set(reports[-1].members.values())) == 4


def test_a_member_that_stops_early_waits_for_the_others(
    experiments: list[Experiment], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5, 0.1, 0.4, 0.2, 0.3])  # members in turn: the first gets no better and ends after two epochs
    monkeypatch.setattr("t2m_bench.training.evaluate.Evaluator.compute_mean_dice", lambda *arguments: next(values))
    impatient = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"patience": 1})})
    reports = run(experiments[:1], impatient, tmp_path / "t", (0, 1))
    assert [report.members["seed0-split0"] for report in reports] == [0.5, 0.5, 0.5]
    assert [report.members["seed1-split0"] for report in reports] == [0.1, 0.2, 0.3]
    assert reports[-1].finished


def test_no_test_case_is_ever_read(
    experiments: list[Experiment], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = experiments[0].make_job("hierarchical", 0)
    test_ids = set(job.splits.test)
    assert test_ids
    root = tmp_path / "data"
    shutil.copytree(job.root, root)
    for case in job.select(job.splits.test):
        (root / case.mask_path).unlink()
        (root / case.image_path).unlink()
    read: set[str] = set()
    original = ShardReader.read

    def watch(self: ShardReader, case_ids: Sequence[str]) -> Any:
        read.update(case_ids)
        return original(self, case_ids)

    monkeypatch.setattr(ShardReader, "read", watch)
    hidden = hide_test_cases(replace(job, root=root))
    ranks = Ranks("no", use_gpu=False)
    metrics = ("val_dice", "val_reliance", "trainable_parameters")
    list(FrozenParts(TrialData((hidden,), (0,), metrics), ranks).run_trial(recipe, tmp_path / "t", ranks))
    assert read == {*job.splits.train, *job.splits.val}
    known = {case.case_id for case in hidden.cases} | set(hidden.texts.fields_of) | set(hidden.splits.test)
    assert not known & test_ids


def test_reliance_is_what_wrong_text_costs(experiments: list[Experiment], recipe: Recipe, tmp_path: Path) -> None:
    job = experiments[0].make_job("hierarchical", 0)
    bench = set_up(job, Ranks("no", use_gpu=False))
    cases = job.select(job.splits.val)
    questions = ask(cases, True, job.wrong)
    scores = bench.evaluator.answer(bench.adapter, questions).scores[:, 0]
    dice = {
        name: np.mean([s for q, s in zip(questions, scores, strict=True) if q.condition == name])
        for name in ("right", "wrong")
    }
    assert compute_reliance(bench, bench.adapter, cases) == pytest.approx(dice["right"] - dice["wrong"])
    free = set_up(experiments[0].make_job("text_free", 0), Ranks("no", use_gpu=False))
    assert compute_reliance(free, free.adapter, cases) == 0.0
