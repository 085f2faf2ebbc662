from pathlib import Path

import pytest

from t2m_bench.config import Recipe, parse_recipe


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that phantoms are written into by the first stage that needs it, and shared after."""
    return tmp_path_factory.mktemp("phantoms") / "data"


@pytest.fixture(scope="session")
def small_recipe(phantom_root: Path) -> Recipe:
    """The demo in small: 63 phantoms, two epochs, in the calling process; two classes have the patients for a probe."""
    raw = {
        "name": "small",
        "dataset": {"root": str(phantom_root), "phantom": {"cases": 63, "seed": 6, "text_effect": 1.0}},
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": 2, "warmup_steps": 2},
    }
    return parse_recipe(raw, "test")
