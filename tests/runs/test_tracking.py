"""Trackers of a run: TensorBoard always, MLflow and Weights & Biases where they are installed; none may stop a run."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from messages import check_names, raises_naming
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2m_bench.errors import RecipeError
from t2m_bench.pipeline.preflight import check_trackers
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.runs import tracking
from t2m_bench.runs.tracking import RunLog, flatten

EPOCHS = [
    {"epoch": 0, "step": 3, "val_dice": 0.5, "dice_loss": 0.4, "gates": {"fine": 0.8}},
    {"epoch": 1, "step": 6, "val_dice": 0.6, "dice_loss": 0.3, "gates": {"fine": 0.9}},
]


def make_recipe(*names: str) -> Recipe:
    raw = {"name": "tracked", "dataset": {"root": "/secret/place"}, "cluster": {"tracking": list(names)}}
    return parse_recipe(raw, "test")


def write_run(folder: Path, recipe: Recipe) -> None:
    folder.mkdir(parents=True)
    log = RunLog(folder, recipe, "hierarchical")
    for count in (1, 2):
        log.write(EPOCHS[:count])
    (folder / "run.json").write_text('{"test_dice": 0.75}')
    log.write_test(6)
    log.close()


def test_tensorboard_has_epochs_gates_test_figure_and_recipe(tmp_path: Path) -> None:
    write_run(tmp_path / "exp" / "run", make_recipe("tensorboard"))
    events = EventAccumulator(str(tmp_path / "exp" / "run" / "tensorboard"))
    events.Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found["gate/fine"] == [(3, pytest.approx(0.8)), (6, pytest.approx(0.9))]
    assert found["test_dice"] == [(6, 0.75)]
    (told,) = events.Tensors("recipe/text_summary")
    text = told.tensor_proto.string_val[0].decode()
    check_names(text, "hierarchical", "global_batch_size")
    assert "secret" not in text, "where data lie is nobody's business"


def test_mlflow_has_them_in_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_run(tmp_path / "exp" / "run", make_recipe("mlflow"))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'exp' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("exp").experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_dice"] == 0.75
    assert [point.value for point in client.get_metric_history(run.info.run_id, "val_dice")] == [0.5, 0.6]
    assert run.data.params["arm"] == "hierarchical"
    assert not [value for value in run.data.params.values() if "secret" in value]


def test_wandb_keeps_an_offline_run_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    write_run(tmp_path / "exp" / "run", make_recipe("wandb"))
    (file,) = (tmp_path / "exp" / "run" / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 30.0
    while b"test_dice" not in file.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)  # a process of wandb's own writes it
    content = file.read_bytes()
    assert b"val_dice" in content
    assert b"test_dice" in content
    assert b"/secret/place" not in content


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
            self.folder = folder

        def log(self, values: Mapping[str, float], step: int) -> None:
            raise ConnectionError(f"no server at step {step}")

        def close(self) -> None:
            raise AssertionError("it was left out before")

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Failing)
    write_run(tmp_path / "exp" / "run", make_recipe("mlflow", "tensorboard"))
    said = capsys.readouterr().err
    check_names(said, "mlflow", "no server at step 3")  # phrase: another library's message, which is repeated
    assert len(said.splitlines()) == 1
    events = EventAccumulator(str(tmp_path / "exp" / "run" / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("val_dice")) == 2


def test_a_tracker_that_is_not_installed_is_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises_naming(RecipeError, "cluster.tracking", "wandb"):
        check_trackers(["wandb"])


def test_trackers_are_in_no_hash_and_named_once() -> None:
    assert make_recipe("wandb").compute_run_hash() == make_recipe("tensorboard").compute_run_hash()
    with raises_naming(RecipeError, "cluster.tracking"):
        make_recipe("wandb", "wandb")
    with raises_naming(RecipeError, "comet"):
        make_recipe("comet")


def test_settings_are_flat() -> None:
    assert flatten({"optim": {"epochs": 2, "name": ["a"]}, "seed": 1}) == {
        "optim.epochs": 2,
        "optim.name": "['a']",
        "seed": 1,
    }
