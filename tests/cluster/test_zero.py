"""A run goes on with DeepSpeed or without; other numbers of workers train the same thing as two."""

import signal
from pathlib import Path

import pytest
import yaml
from real_runs import finish, load_history, make_recipe, restart, start, wait_for_epochs


def list_losses(folder: Path, epochs: int) -> list[object]:
    return [row["loss"] for row in load_history(folder)[:epochs]]


def list_updaters(folder: Path) -> list[object]:
    return list(dict.fromkeys(row["updater"] for row in load_history(folder)))


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (None, "zero1", ["AdamW", "DeepSpeedEngine ZeRO 1"]),
        pytest.param("zero2", None, ["DeepSpeedEngine ZeRO 2", "AdamW"], marks=pytest.mark.soak),
    ],
)
def test_a_run_goes_on_with_another_updater_and_elastic_workers(
    root: Path, undisturbed: Path, tmp_path: Path, first: str | None, second: str | None, names: list[str]
) -> None:
    folder = tmp_path / "a"
    process = start(make_recipe(root, deepspeed=first), folder, undisturbed)
    wait_for_epochs(folder, 2, process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=120)
    assert process.returncode == 85
    switched = make_recipe(root, deepspeed=second, num_train_workers=[1, 2]).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(switched))
    summary = finish(restart(process))
    assert summary["world_size"] == 2
    assert list_updaters(folder) == names
    assert list_losses(folder, 6) == pytest.approx(list_losses(undisturbed, 6), rel=1e-4)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 3])
def test_the_number_of_workers_changes_nothing_but_rounding(
    root: Path, undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    recipe = make_recipe(root, num_train_workers=workers, cpus_per_worker=0.5)
    summary = finish(start(recipe, tmp_path / "a", undisturbed))
    assert summary["world_size"] == workers
    assert list_losses(tmp_path / "a", 6) == pytest.approx(list_losses(undisturbed, 6), rel=1e-4)
