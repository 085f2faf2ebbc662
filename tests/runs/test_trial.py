"""Trials in this process: judged on validation cases alone, several trainings in lockstep."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import raises_naming

from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.errors import RecipeError, RunFolderError
from t2m_bench.evaluation.conditions import build_questions
from t2m_bench.pipeline.train import Experiment, gather
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.runs.job import ask_to_validate, make_trainer
from t2m_bench.runs.setup import set_up
from t2m_bench.runs.trial import (
    FrozenParts,
    TrialData,
    TrialReport,
    ask_for_reliance,
    compute_reliance,
    hide_test_cases,
)
from t2m_bench.terminal import Terminal
from t2m_bench.training.checkpoint import load_progress
from t2m_bench.training.process_group import ProcessGroup


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
    ranks = ProcessGroup("no", use_gpu=False)
    parts = FrozenParts(TrialData(jobs, seeds, metrics or ("val_dice",)), ranks)
    return list(parts.run_trial(recipe, folder, ranks))


def test_a_trial_is_judged_as_its_training_would_be(
    experiments: list[Experiment], recipe: Recipe, tmp_path: Path
) -> None:
    reports = run(experiments[:1], recipe, tmp_path / "trial", (0,))
    job = replace(experiments[0].make_job("hierarchical", 0), run_folder=tmp_path / "run")
    bench = set_up(job, ProcessGroup("no", use_gpu=False))
    validation = ask_to_validate(bench)
    trainer = make_trainer(
        bench, lambda arm: bench.evaluator.compute_mean_dice(arm, validation), lambda history: None, lambda: False
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
    monkeypatch.setattr("t2m_bench.evaluation.evaluate.Evaluator.compute_mean_dice", lambda *arguments: next(values))
    impatient = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"patience": 1})})
    reports = run(experiments[:1], impatient, tmp_path / "t", (0, 1))
    assert [report.members["seed0-split0"] for report in reports] == [0.5, 0.5, 0.5]
    assert [report.members["seed1-split0"] for report in reports] == [0.1, 0.2, 0.3]
    assert reports[-1].finished


def test_no_test_case_is_ever_read(
    experiments: list[Experiment], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = experiments[0].make_job("hierarchical", 0)
    test_ids = set(job.data.splits.test)
    assert test_ids
    root = tmp_path / "data"
    shutil.copytree(job.data.root, root)
    for case in job.data.select(job.data.splits.test):
        (root / case.mask_path).unlink()
        (root / case.image_path).unlink()
    read: set[str] = set()
    original = ShardReader.read

    def watch(self: ShardReader, case_ids: Sequence[str], into: Any = None) -> Any:
        read.update(case_ids)
        return original(self, case_ids, into)

    monkeypatch.setattr(ShardReader, "read", watch)
    hidden = hide_test_cases(replace(job, data=replace(job.data, root=root)))
    ranks = ProcessGroup("no", use_gpu=False)
    metrics = ("val_dice", "val_reliance", "trainable_parameters")
    list(FrozenParts(TrialData((hidden,), (0,), metrics), ranks).run_trial(recipe, tmp_path / "t", ranks))
    assert read == {*job.data.splits.train, *job.data.splits.val}
    data = hidden.data
    known = {case.case_id for case in data.cases} | set(data.texts.fields_of) | set(data.splits.test)
    assert not known & test_ids
    assert not set(data.asking.places) & test_ids
    with pytest.raises(RunFolderError):
        hidden.data.load_asking()


def test_validation_on_the_test_cases_leaves_a_sweep_nothing_to_choose_by(experiments: list[Experiment]) -> None:
    job = experiments[0].make_job("gated", 0)
    splits = replace(job.data.splits, val=job.data.splits.test)
    published = replace(job, data=replace(job.data, splits=splits))
    with raises_naming(RecipeError, "dataset.validation", "apart"):
        hide_test_cases(published)


def test_reliance_is_what_wrong_text_costs(experiments: list[Experiment], recipe: Recipe, tmp_path: Path) -> None:
    job = experiments[0].make_job("hierarchical", 0)
    bench = set_up(job, ProcessGroup("no", use_gpu=False))
    question_set = build_questions(
        job.data.select(job.data.splits.val), bench.texts, replace(job.data.asking, boxes=("tight",))
    )
    dice = bench.evaluator.answer(bench.arm, question_set).select("dice")
    means = {
        name: np.mean([d for q, d in zip(question_set.questions, dice, strict=True) if q.condition == name])
        for name in ("right", "wrong")
    }
    assert compute_reliance(bench, bench.arm, ask_for_reliance(bench)) == pytest.approx(means["right"] - means["wrong"])
    free = recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"kind": "text_free"})})
    reports = run(experiments[:1], free, tmp_path / "t", (0,), "val_dice", "val_reliance")
    assert {report.values["val_reliance"] for report in reports} == {0.0}


@pytest.mark.parametrize("kind", ["text_train_only", "label", "shuffled", "tuned_decoder", "text_prompt", "unet"])
def test_a_trial_may_train_any_kind_of_arm(
    experiments: list[Experiment], recipe: Recipe, tmp_path: Path, kind: str
) -> None:
    changed = {"adapter": recipe.adapter.model_copy(update={"kind": kind})}
    short = recipe.model_copy(update={**changed, "optim": recipe.optim.model_copy(update={"epochs": 1})})
    (report,) = run(experiments[:1], short, tmp_path / "t", (0,), "val_dice", "val_reliance")
    assert report.finished
    assert 0 < report.values["val_dice"] <= 1
