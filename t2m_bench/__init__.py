"""t2m-bench: trains and benchmarks text-guided fusion adapters between frozen MedSAM parts.

From Python: `Predictor` applies a trained adapter, `load_recipe` reads a recipe, `load_results` an experiment's table.
Each is imported when it is first used, so that importing the package takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2m_bench.prediction.predictor import Prediction as Prediction
    from t2m_bench.prediction.predictor import Predictor as Predictor
    from t2m_bench.recipe.schema import load_recipe as load_recipe
    from t2m_bench.reporting.results_frame import load_results as load_results

__version__ = "0.1.0"

__all__ = ["Prediction", "Predictor", "__version__", "load_recipe", "load_results"]

_HOMES = {
    "Prediction": "t2m_bench.prediction.predictor",
    "Predictor": "t2m_bench.prediction.predictor",
    "load_recipe": "t2m_bench.recipe.schema",
    "load_results": "t2m_bench.reporting.results_frame",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module t2m_bench has no attribute {name}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Names for completion."""
    return sorted(__all__)
