"""A small benchmark that is trained once, for all that applies its adapters."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.data.images import load_image
from t2m_bench.pipeline.bench import bench
from t2m_bench.pipeline.prepare import Prepared, prepare
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal

ARMS = ("text_free", "unet", "label", "hierarchical", "tuned_hierarchical", "prompted")

PROMPTED = {"adapter": {"kind": "text_prompt", "start": "unscaled"}}
"""Tokens beside the box that count in full from the first step: one epoch would leave them next to nothing."""


@dataclass(frozen=True)
class Benched:
    """A finished benchmark of one fold and seed, with its data."""

    recipe: Recipe
    runs: Path
    experiment: Path
    prepared: Prepared

    def find_run(self, arm: str) -> Path:
        """Return the folder of an arm's run."""
        (run,) = self.experiment.glob(f"{arm}-fold*")
        return run

    def list_test_cases(self) -> list[Case]:
        """Return the cases of the test fold."""
        wanted = set(self.prepared.splits.test)
        return [case for case in self.prepared.cases if case.case_id in wanted]

    def load_image(self, case: Case) -> NDArray[np.uint8]:
        """Return a case's pixels."""
        return load_image(self.prepared.root, case)


def make_bench(folder: Path) -> Benched:
    """Train and evaluate one arm after the other below a folder."""
    raw = {
        "name": "small",
        "dataset": {"root": str(folder / "data"), "phantom": {"cases": 40, "seed": 6}},
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": 1, "warmup_steps": 2},
        "bench": {"arms": list(ARMS), "named": {"prompted": PROMPTED}, "conditions": ["right"], "boxes": ["tight"]},
    }
    recipe = parse_recipe(raw, "test")
    suite = bench(recipe, folder / "runs", Terminal(), StopRequest())
    assert not suite.failures
    return Benched(recipe, folder / "runs", suite.experiment.folder, prepare(recipe, folder / "runs", Terminal()))
