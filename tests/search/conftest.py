from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2m_bench.recipe.typed_yaml import validate
from t2m_bench.search.sweep import Sweep

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def make_sweep() -> MakeSweep:
    """Returns sweeps over two ranges, for trials whose objective a test computes itself."""

    def make(**changes: Any) -> Sweep:
        space = {
            "adapter.fine.gate_init": {"low": 0.01, "high": 0.99},
            "optim.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        }
        raw = {"name": "trial", "recipe": str(Path("unread.yaml")), "space": space, "scheduler": {"kind": "none"}}
        return validate(Sweep, raw | changes, "sweep", "test")

    return make
