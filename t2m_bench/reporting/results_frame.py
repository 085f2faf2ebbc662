"""An experiment's results for Python: one DataFrame with the verdicts beside it."""

from pathlib import Path
from typing import Any

import pandas as pd

from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.results import load_experiment
from t2m_bench.reporting.verdicts import make_verdicts


class ResultsFrame(pd.DataFrame):
    """Rows of all finished runs, floors and the baseline: one a case, arm, seed, fold, condition and box.

    The columns are those of `t2m_bench.metrics.results.list_columns`, and `run`, the folder that a row comes from.
    The verdicts lie in `attrs`, so that selections and copies keep them.
    """

    @property
    def _constructor(self) -> Any:
        return ResultsFrame

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """The report's verdicts: `about`, `question`, `outcome`, `headline`, and `sentences` that say why."""
        return list(self.attrs.get("verdicts", ()))


def load_results(experiment: Path | str, mixed: bool = False) -> ResultsFrame:
    """Read the results of an experiment's folder, such as `runs/demo-1a2b3c4d`.

    Args:
        mixed: read runs of two commits of the code together.

    Raises:
        RunFolderError: the folder holds no finished run, or one that cannot be read.
    """
    results = load_experiment(Path(experiment), mixed)
    frame = ResultsFrame(results.table)
    frame.attrs["verdicts"] = [
        {
            "about": verdict.key,
            "question": verdict.question,
            "outcome": str(verdict.outcome),
            "headline": verdict.headline,
            "sentences": list(verdict.sentences),
        }
        for verdict in make_verdicts(results, make_comparisons(results))
    ]
    return frame
