"""Whatever lies under a name that is read: one line, exit code 2, nothing executed."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import run
from messages import check_names

from t2m_bench.recipe.schema import Recipe


class Planted:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def recipe_file(small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = small_recipe.model_dump(mode="json")
    raw["optim"] |= {"epochs": 1}
    path = tmp_path_factory.mktemp("planted") / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def runs(recipe_file: Path) -> Path:
    """All that one training makes."""
    runs = recipe_file.parent / "runs"
    assert run("train", recipe_file, "--runs", runs) == 0
    return runs


def plant_pickle(path: Path, trace: Path) -> None:
    path.write_bytes(pickle.dumps({"note": Planted(trace), "cases": [Planted(trace)]}))


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "pickle": plant_pickle,
    "empty": lambda path, trace: path.write_bytes(b""),
    "half": lambda path, trace: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}
READ = {
    "prepared/*/manifest.jsonl": "prepare",
    "pseudonyms.key": "prepare",
    "shards/*/index.json": "embed",
    "shards/*/cases.npy": "embed",
    "shards/*/shard-00000.h5": "embed",
    "prompt_banks/*.h5": "embed",
    "*/hierarchical-*/run.json": "train",
    "*/hierarchical-*/state.safetensors": "evaluate",
    "*/hierarchical-*/adapter.safetensors": "evaluate",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", READ)
def test_what_is_planted_is_one_line_and_never_run(
    runs: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, damage: str
) -> None:
    (path,) = runs.glob(place)
    shutil.copy2(path, tmp_path / "kept")
    DAMAGE[damage](path, tmp_path / "trace")
    asked = recipe_file if READ[place] != "evaluate" else path.parent
    capsys.readouterr()
    try:
        code = run(READ[place], asked, "--runs", runs)
    finally:
        shutil.copy2(tmp_path / "kept", path)
    errors = capsys.readouterr().err
    assert code == 2, errors
    (line,) = errors.strip().splitlines()
    assert line.startswith("t2m-bench: ")
    assert path.name in line
    assert not (tmp_path / "trace").exists()
    assert not list(runs.rglob("*.partial"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_training_does_not_go_on_from_what_is_planted(
    runs: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    (state,) = (tmp_path / "runs").glob("*/hierarchical-*/state.safetensors")
    (state.parent / "run.json").unlink()
    DAMAGE[damage](state, tmp_path / "trace")
    capsys.readouterr()
    assert run("train", recipe_file, "--runs", tmp_path / "runs") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    check_names(line, tmp_path / state.relative_to(tmp_path), "checkpoint")
    assert not (tmp_path / "trace").exists()
