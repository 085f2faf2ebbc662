import pytest

from t2m_bench.recipe.schema import Recipe, parse_recipe


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The demo in small: 63 phantoms, two epochs, in the calling process; two classes have the patients for a probe.

    The phantoms are written by the first stage that needs them, and shared after.
    """
    root = tmp_path_factory.mktemp("phantoms") / "data"
    raw = {
        "name": "small",
        "dataset": {"root": str(root), "phantom": {"cases": 63, "seed": 6, "text_effect": 1.0}},
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": 2, "warmup_steps": 2},
    }
    return parse_recipe(raw, "test")
