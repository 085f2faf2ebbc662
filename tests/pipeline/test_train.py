import csv
import json
import multiprocessing
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from messages import check_names, raises_naming

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.registry import read_cases
from t2m_bench.data.images import load_mask
from t2m_bench.data.manifest import load_manifest
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.embedding.shards.reader import EmbeddedBatch, ShardReader
from t2m_bench.errors import LeakageError, RunFolderError, WeightsError
from t2m_bench.evaluation.evaluate import Evaluator
from t2m_bench.evaluation.predicted_masks import PREDICTED_NAME, load_predicted
from t2m_bench.locks import hold_lock
from t2m_bench.metrics.floors import predict_ellipse
from t2m_bench.metrics.overlap import compute_dice
from t2m_bench.metrics.results import load_results
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.train import Experiment, evaluate, open_experiment, train, write_reference_once
from t2m_bench.recipe.schema import Recipe, list_default_suite
from t2m_bench.runs import job as run_job
from t2m_bench.runs.finished import is_finished
from t2m_bench.runs.run_folder import lock_run
from t2m_bench.terminal import Terminal
from t2m_bench.training.checkpoint import ADAPTER_NAME, load_tensors, save_tensors
from t2m_bench.training.process_group import ProcessGroup


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


# phrase: a text that must stand nowhere but in the manifest
OWN_TEXT = "Frau Beispiel hat einen Knoten"


@pytest.fixture(scope="module")
def experiment(small_recipe: Recipe, runs: Path) -> Experiment:
    """Of cases that have a text and a stratum of their own."""

    def read_with_text(*arguments: Any) -> list[Case]:
        return [replace(case, text=OWN_TEXT, strata={"scanner": "A"}) for case in read_cases(*arguments)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t2m_bench.pipeline.prepare.read_cases", read_with_text)
        return open_experiment(small_recipe, runs, Terminal())


@pytest.fixture(scope="module")
def run(experiment: Experiment) -> Path:
    train(experiment, "gated", 0, Terminal(), StopRequest())
    return experiment.make_job("gated", 0).run_folder


def test_a_run_holds_what_a_report_needs(experiment: Experiment, run: Path) -> None:
    summary = json.loads((run / "run.json").read_text())
    table = load_results(run / "cases.parquet")
    test_cases = set(experiment.prepared.splits.test)
    tight = table[table["box"] == "tight"]
    right, wrong = (tight[tight["condition"] == name] for name in ("right", "wrong"))
    assert set(right["case"]) == set(wrong["case"]) == test_cases
    counts = tight["condition"].value_counts()
    assert set(counts[~counts.index.str.startswith("swap")]) == {len(test_cases)}
    assert counts[counts.index.str.startswith("swap")].sum() == 3 * len(test_cases)
    assert set(table["condition"]) - set(counts.index) == set()
    assert set(table["box"]) == {"tight", "jitter_20", "loose_20"}
    assert summary["test_dice"] == pytest.approx(right["dice"].mean())
    assert (right["given_class"] == right["text_class"]).all()
    published = {"2": "5", "3": "5", "4": "2", "5": "2"}
    assert (wrong["given_class"] == wrong["text_class"].map(published)).all()
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [0, 1]
    assert summary["val_dice"] == max(row["val_dice"] for row in history)
    assert list(history[0]["gates"]) == ["gated"]
    assert any((run / "tensorboard").iterdir())


def test_tensorboard_reads_the_events(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("val_dice")] == pytest.approx([row["val_dice"] for row in history])


def test_floors_and_baseline_lie_beside_it(experiment: Experiment, run: Path) -> None:
    table = load_results(experiment.folder / "reference-fold1" / "cases.parquet")
    assert set(table["arm"]) == {"floor_box", "floor_ellipse", "floor_mean_mask", "floor_class_mask", "baseline"}
    table = table[table["box"] == "tight"]
    job = experiment.make_job("gated", 0)
    for case in job.data.select(job.data.splits.test):
        (found,) = table[(table["case"] == case.case_id) & (table["arm"] == "floor_ellipse")]["dice"]
        ellipse = predict_ellipse(case.height, case.width, case.box_xyxy)
        assert found == compute_dice(ellipse, load_mask(job.data.root, case))


def test_boxes_and_probe_are_drawn_once_a_fold(experiment: Experiment, run: Path) -> None:
    reference = experiment.folder / "reference-fold1"
    boxes = json.loads((reference / "boxes.json").read_text())
    test_cases = set(experiment.prepared.splits.test)
    assert set(boxes) == {"jitter_20", "loose_20"}
    assert all(set(of_case) == test_cases for of_case in boxes.values())
    probe = json.loads((reference / "probe.json").read_text())
    (found,) = probe["fields"].values()
    assert set(found["predicted"]) == test_cases
    assert set(found["predicted"].values()) <= set(found["classes"]) == {"2", "3"}, "too few patients of other classes"
    assert 0 <= probe["same_class_donors"] < 1
    noted = json.loads((experiment.folder / "experiment.json").read_text())
    assert noted["folds"]["1"]["audit"] == noted["audit"]


def test_a_box_that_is_asked_later_is_drawn_and_answered_without_training(
    experiment: Experiment, run: Path, runs: Path
) -> None:
    drawn = json.loads((experiment.folder / "reference-fold1" / "boxes.json").read_text())
    trained = (run / "adapter.safetensors").stat().st_mtime_ns
    raw = experiment.recipe.model_dump(mode="json")
    raw["bench"] |= {"boxes": ["tight", "jitter_20", "loose_20", "shift_10"]}
    asked = open_experiment(Recipe.model_validate(raw), runs, Terminal())
    assert asked.folder == experiment.folder
    summary = train(asked, "gated", 0, Terminal(), StopRequest())
    assert summary["boxes"] == ["tight", "jitter_20", "loose_20", "shift_10"]
    now = json.loads((experiment.folder / "reference-fold1" / "boxes.json").read_text())
    assert {name: now[name] for name in drawn} == drawn
    assert set(load_results(run / "cases.parquet")["box"]) == {*drawn, "tight", "shift_10"}
    assert (run / "adapter.safetensors").stat().st_mtime_ns == trained


def test_boxes_that_a_killed_process_drew_are_scored_by_the_next(
    experiment: Experiment, run: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = experiment.folder / "reference-fold1"
    raw = experiment.recipe.model_dump(mode="json")
    boxes = [*json.loads((reference / "boxes.json").read_text()), "tight", "shift_30"]
    raw["bench"] |= {"boxes": boxes}
    asked = open_experiment(Recipe.model_validate(raw), runs, Terminal()).make_job("gated", 0)

    class Killed(BaseException):
        pass

    def kill(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("t2m_bench.runs.reference.score_floors", kill)
        with pytest.raises(Killed):
            write_reference_once(asked, Terminal())
    assert "shift_30" in json.loads((reference / "boxes.json").read_text())
    assert "shift_30" not in set(load_results(reference / "cases.parquet")["box"])
    write_reference_once(asked, Terminal())
    table = load_results(reference / "cases.parquet")
    assert all(set(rows["box"]) == set(boxes) for _, rows in table[table["condition"] == "none"].groupby("arm"))
    written = (reference / "cases.parquet").stat().st_mtime_ns
    write_reference_once(asked, Terminal())
    assert (reference / "cases.parquet").stat().st_mtime_ns == written
    whole = (reference / "cases.parquet").read_bytes()
    (reference / "cases.parquet").write_bytes(whole[:1000])  # as a disk loses it
    write_reference_once(asked, Terminal())
    assert load_results(reference / "cases.parquet").equals(table)


def test_masks_are_kept_when_asked_later_without_training(experiment: Experiment, run: Path, runs: Path) -> None:
    reference = experiment.folder / "reference-fold1"
    assert not list(experiment.folder.rglob(PREDICTED_NAME))
    trained = (run / "adapter.safetensors").stat().st_mtime_ns
    raw = experiment.recipe.model_dump(mode="json")
    raw["bench"] |= {"keep_masks": True}
    asked = open_experiment(Recipe.model_validate(raw), runs, Terminal())
    assert asked.folder == experiment.folder
    train(asked, "gated", 0, Terminal(), StopRequest())
    assert (run / "adapter.safetensors").stat().st_mtime_ns == trained
    key = ["case", "condition", "box"]
    for folder in (run, reference):
        table, masks = load_results(folder / "cases.parquet"), load_predicted(folder / PREDICTED_NAME)
        table = table[~table["arm"].str.startswith("floor_")]
        assert masks[key].to_numpy().tolist() == table[key].to_numpy().tolist()
    written = (run / PREDICTED_NAME).stat().st_mtime_ns
    train(asked, "gated", 0, Terminal(), StopRequest())
    assert (run / PREDICTED_NAME).stat().st_mtime_ns == written, "kept masks are reused"
    suite = json.loads((run / "run.json").read_text())["suite"]
    change_note(run, suite=suite | {"bench": suite["bench"] | {"keep_masks": False}})
    evaluate(run, runs, Terminal())
    assert not (run / PREDICTED_NAME).exists(), "no mask of an evaluation that kept none"


def read_all(path: Path) -> str:
    """Return a file's content as text, what is compressed in it too."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_csv()
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return " ".join(f"{name} {archive.read(name).decode('latin-1')}" for name in archive.namelist())
    return path.read_bytes().decode("latin-1")


def test_no_identifier_of_the_source_leaves_the_manifest(experiment: Experiment, run: Path) -> None:
    files = [path for path in experiment.folder.rglob("*") if path.is_file()]
    assert {".parquet", ".npz", ".json", ".safetensors"} <= {path.suffix for path in files}
    names = {case.case_id for case in experiment.prepared.cases}
    assert any(name in read_all(run / "cases.parquet") for name in names), "the table is read as it should be"
    assert any(name in read_all(run / "masks.npz") for name in names)
    for path in files:
        assert not re.search(r"bus_\d", f"{path.relative_to(experiment.folder)} {read_all(path)}"), path


def test_a_case_s_own_text_stays_in_the_manifest(experiment: Experiment, run: Path, runs: Path) -> None:
    manifest = experiment.prepared.folder / "manifest.jsonl"
    assert all(case.text == OWN_TEXT for case in load_manifest(manifest))
    files = [path for path in runs.rglob("*") if path.is_file() and path != manifest]
    assert {".h5", ".parquet", ".npz", ".json", ".safetensors"} <= {path.suffix for path in files}
    for path in files:
        assert OWN_TEXT not in read_all(path), path
    assert all((case.text, case.strata) == ("", {"scanner": "A"}) for case in experiment.prepared.cases)


def change_note(run: Path, **changes: Any) -> None:
    """Change what run.json says; None takes a key out."""
    noted = json.loads((run / "run.json").read_text()) | changes
    kept = {name: value for name, value in noted.items() if value is not None}
    (run / "run.json").write_text(json.dumps(kept))


def test_a_run_is_unfinished_only_for_what_it_was_asked(experiment: Experiment, run: Path) -> None:
    job = experiment.make_job("gated", 0)
    kept = (run / "run.json").read_text()
    raw = experiment.recipe.model_dump(mode="json", exclude={"bench"})
    default = list_default_suite()
    named = replace(job, suite=Recipe.model_validate(raw | {"bench": default}))
    fewer = {"conditions": default["conditions"][:-1], "boxes": default["boxes"][:-1]}
    try:
        assert json.loads(kept)["default_suite"] == default
        assert is_finished(job)
        assert is_finished(named)
        change_note(run, **fewer, default_suite=fewer)  # of a version that knew one condition and one box less
        assert is_finished(job), "what became a default after it is not asked of it"
        assert not is_finished(named), "what the recipe names is"
        change_note(run, **fewer, default_suite=default)  # of a recipe that named fewer
        assert not is_finished(job)
        change_note(run, **fewer, default_suite=None)  # the same, before run.json said what the defaults were
        assert not is_finished(job)
        change_note(run, conditions=default["conditions"], boxes=fewer["boxes"])
        assert not is_finished(job)
    finally:
        (run / "run.json").write_text(kept)


def test_a_changed_recipe_leaves_unsaid_what_was(experiment: Experiment) -> None:
    changed = experiment.recipe.with_values({"bench.margin": 0.01})
    assert changed.bench.margin == 0.01
    assert changed.bench.model_fields_set == {"margin"}


def test_other_weights_than_those_of_the_embeddings_are_refused(experiment: Experiment) -> None:
    job = experiment.make_job("gated", 0)
    found = job.data.signature.weights_sha256
    signature = replace(job.data.signature, weights_sha256="0" * 64)
    signed = replace(job, data=replace(job.data, signature=signature))
    with raises_naming(WeightsError, "sha256", found, "0" * 64):
        run_job.set_up(signed, ProcessGroup("no", use_gpu=False))


def test_training_reads_training_cases_alone_and_validation_those_set_apart(
    experiment: Experiment, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = replace(experiment.make_job("gated", 0), run_folder=tmp_path)
    read = {"training": set(), "validation": set(), "after": set()}
    phase = ["training"]
    read_cases, validate, evaluate_best = ShardReader.read, Evaluator.compute_mean_dice, run_job.evaluate

    def recording(self: ShardReader, case_ids: list[str], into: EmbeddedBatch | None = None) -> object:
        read[phase[0]] |= set(case_ids)
        return read_cases(self, case_ids, into)

    def validating(self: Evaluator, *arguments: object) -> float:
        phase[0] = "validation"
        dice = validate(self, *arguments)
        phase[0] = "training"
        return dice

    def evaluating(*arguments: object) -> None:
        phase[0] = "after"
        evaluate_best(*arguments)

    monkeypatch.setattr(ShardReader, "read", recording)
    monkeypatch.setattr(Evaluator, "compute_mean_dice", validating)
    monkeypatch.setattr(run_job, "evaluate", evaluating)
    run_job.train(job, ProcessGroup("no", use_gpu=False))
    assert read == {
        "training": set(job.data.splits.train),
        "validation": set(job.data.splits.val),
        "after": set(job.data.splits.test),
    }


def test_arms_of_a_seed_train_on_the_same_cases_in_the_same_boxes(experiment: Experiment, tmp_path: Path) -> None:
    seen = {}
    for arm in ("gated", "text_free", "shuffled", "label"):
        bench = run_job.set_up(
            replace(experiment.make_job(arm, 0), run_folder=tmp_path), ProcessGroup("no", use_gpu=False)
        )
        trainer = run_job.make_trainer(bench, lambda arm: 0.0, lambda history: None, lambda: False)
        seen[arm] = list(trainer.batches.make(1, 0, 0, 1))
    for batches in seen.values():
        for batch, of_gated in zip(batches, seen["gated"], strict=True):
            assert torch.equal(batch.image_embedding, of_gated.image_embedding)
            assert torch.equal(batch.box_xyxy, of_gated.box_xyxy)


def test_a_finished_run_is_reused(
    experiment: Experiment, run: Path, capsys: pytest.CaptureFixture[str], runs: Path
) -> None:
    before = (run / "state.safetensors").stat().st_mtime_ns
    train(experiment, "gated", 0, Terminal(), StopRequest())
    assert f"reused {run}: finished" in capsys.readouterr().out
    assert (run / "state.safetensors").stat().st_mtime_ns == before


def test_a_checkpoint_of_another_recipe_is_refused_by_name_and_kept(experiment: Experiment, run: Path) -> None:
    folder = experiment.make_job("text_free", 1).run_folder
    folder.mkdir()
    state = folder / "state.safetensors"
    shutil.copy(run / state.name, state)
    with raises_naming(RunFolderError, state, "recipe", json.loads((run / "run.json").read_text())["run_hash"]):
        train(experiment, "text_free", 1, Terminal(), StopRequest())
    assert state.read_bytes() == (run / state.name).read_bytes()
    shutil.rmtree(folder)


def test_evaluating_again_gives_the_same_rows(run: Path, runs: Path) -> None:
    before = load_results(run / "cases.parquet")
    summary = json.loads((run / "run.json").read_text())
    (run / "cases.parquet").unlink()
    again = evaluate(run, runs, Terminal())
    took, before_took = again.pop("evaluation"), summary.pop("evaluation")
    assert again == summary
    assert took["decodes"] == before_took["decodes"]
    assert load_results(run / "cases.parquet").equals(before)


def test_an_arm_is_asked_in_the_boxes_that_its_fold_drew_once(
    experiment: Experiment, run: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = [], Evaluator.answer

    def recording(self: Evaluator, *arguments: Any, **named: Any) -> object:
        asked.append({name: {case: [*box] for case, box in of.items()} for name, of in self.boxes.items()})
        return answer(self, *arguments, **named)

    monkeypatch.setattr(Evaluator, "answer", recording)
    evaluate(run, runs, Terminal())
    assert asked == [json.loads((experiment.folder / "reference-fold1" / "boxes.json").read_text())]


def test_a_compiler_that_fails_is_noted_and_the_run_finishes(
    experiment: Experiment, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))  # noqa: SLF001  # torch has no other way
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    raw = experiment.recipe.model_dump(mode="json")
    raw["cluster"] |= {"compile": True}
    asked = open_experiment(Recipe.model_validate(raw), runs, Terminal())
    summary = train(asked, "gated", 7, Terminal(), StopRequest())
    assert summary["compiled"].startswith("failed: ")
    again = evaluate(asked.make_job("gated", 7).run_folder, runs, Terminal())
    assert again.pop("evaluation")["decodes"] == summary.pop("evaluation")["decodes"]  # besides, how long it took
    assert again == summary


def test_the_adapter_of_another_run_is_not_evaluated(run: Path, runs: Path) -> None:
    adapter = run / ADAPTER_NAME
    kept = adapter.read_bytes()
    tensors, note = load_tensors(adapter)
    save_tensors(adapter, tensors, note | {"run_hash": "0ther"})
    with raises_naming(RunFolderError, adapter, "run_hash", "0ther", "state.safetensors"):
        evaluate(run, runs, Terminal())
    adapter.write_bytes(kept)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with raises_naming(RunFolderError, tmp_path / "run.json", "absent"):
        evaluate(tmp_path, tmp_path, Terminal())


def _hold(folder: Path, held: "multiprocessing.Event", release: "multiprocessing.Event") -> None:
    with lock_run(folder):
        held.set()
        release.wait(60)


def test_a_run_that_another_process_writes_is_refused(experiment: Experiment, run: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(run, held, release))
    process.start()
    try:
        assert held.wait(60)
        with raises_naming(RunFolderError, run, f"process {process.pid}"):
            train(experiment, "gated", 0, Terminal(), StopRequest())
    finally:
        release.set()
        process.join()
    train(experiment, "gated", 0, Terminal(), StopRequest())


def _hold_for(folder: Path, held: "multiprocessing.Event", release: "multiprocessing.Event") -> None:
    with hold_lock(folder / ".lock"):
        held.set()
        release.wait(60)


def test_a_second_arm_waits_for_the_reference_that_the_first_writes(experiment: Experiment, run: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    reference = experiment.folder / "reference-fold1"
    process = context.Process(target=_hold_for, args=(reference, held, release))
    process.start()
    said = []

    class Telling(Terminal):
        def say(self, sentence: str) -> None:
            said.append(sentence)
            release.set()

    try:
        assert held.wait(60)
        train(experiment, "gated", 0, Telling(), StopRequest())
    finally:
        release.set()
        process.join()
    check_names(said[0], "waiting", reference)


def test_a_leak_is_refused_unless_allowed_and_then_noted(small_recipe: Recipe, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_bus_bra_phantom(root, num_cases=40, seed=5, text_effect=1.0)
    with (root / "5-fold-cv.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    by_fold = {row["kFold"]: row["ID"] for row in rows}
    images = root / "Images"
    one, other = (next(images.glob(f"{by_fold[fold]}*")) for fold in ("1", "2"))
    other.write_bytes(one.read_bytes())
    masks = root / "Masks"
    names = [path.name.replace("bus_", "mask_") for path in (one, other)]
    (masks / names[1]).write_bytes((masks / names[0]).read_bytes())
    raw = small_recipe.model_dump(mode="json")
    raw["dataset"] |= {"root": str(root), "phantom": None}
    with raises_naming(LeakageError, "images", "allow_leakage=true"):
        prepare(Recipe.model_validate(raw), tmp_path, Terminal())
    allowed = open_experiment(Recipe.model_validate(raw | {"allow_leakage": True}), tmp_path, Terminal())
    noted = json.loads((allowed.folder / "experiment.json").read_text())
    assert noted["allow_leakage"]
    assert "identical images" in noted["audit"]["leaks"][0]


def test_two_ray_workers_train_what_one_process_trains(experiment: Experiment, run: Path, runs: Path) -> None:
    raw = experiment.recipe.model_dump(mode="json")
    raw["cluster"] |= {"num_train_workers": 2, "num_embed_workers": 2}
    apart = open_experiment(Recipe.model_validate(raw), runs.parent / "ray-runs", Terminal())
    summary = train(apart, "gated", 0, Terminal(), StopRequest())
    assert summary["world_size"] == 2
    alone = json.loads((run / "run.json").read_text())
    assert summary["run"] == alone["run"]
    assert summary["val_dice"] == pytest.approx(alone["val_dice"], abs=2e-3)
    tables = [load_results(folder / "cases.parquet") for folder in (run, apart.make_job("gated", 0).run_folder)]
    tables[0] = tables[0][tables[0]["box"].isin(tables[1]["box"])]  # other tests may have asked the run more boxes
    assert len(tables[0]) == len(tables[1])
    assert np.allclose(tables[0]["dice"], tables[1]["dice"], atol=2e-2)
