import shutil
from pathlib import Path

import pytest
from simulated_suite import Suite

TRAINED = ("text_free", "label", "gated", "hierarchical", "text_free_one_level")
ARMS = ("floor_ellipse", "floor_class_mask", "baseline", *TRAINED)


@pytest.fixture(scope="session")
def whole_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment of two folds and three seeds; nobody may write in it."""
    folder = tmp_path_factory.mktemp("runs") / "simulated-00000000"
    return Suite(ARMS, seeds=(0, 1, 2), patients=32, boxes={"tight": 0.0, "loose_20": 0.05}).write(folder)


@pytest.fixture
def experiment(whole_suite: Path, tmp_path: Path) -> Path:
    """A copy to write in."""
    return Path(shutil.copytree(whole_suite, tmp_path / "runs" / whole_suite.name))
