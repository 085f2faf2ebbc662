"""Reports of very few patients, or without any spread, say that there is no test; none fails after the training."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import check_names
from simulated_suite import GAIN, Suite

from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.deviations import Deviations, ProtocolRow
from t2m_bench.reporting.report import FORMATS, write_report
from t2m_bench.reporting.results import load_experiment
from t2m_bench.reporting.verdicts import make_verdicts
from t2m_bench.statistics.decision import Outcome
from t2m_bench.statistics.intervals import estimate_mean
from t2m_bench.statistics.tests import find_equivalence, flip_signs, rank_signs

ARMS = ("floor_ellipse", "floor_class_mask", "baseline", "text_free", "label", "gated", "hierarchical")


class Still:
    """A generator whose normal draws have no spread at all."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def normal(self, mean: float, _: float) -> float:
        return mean

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


def write(folder: Path, is_still: bool = False, **given: Any) -> Path:
    suite = Suite(ARMS, **given)
    if is_still:
        suite.rng = Still()  # type: ignore[assignment]  # all that a suite asks of it
        suite.cases["level"], suite.gain, suite.cost = 0.88, dict.fromkeys(GAIN, 0.0), 0.0
    return suite.write(folder / "simulated-00000000")


SETTINGS = {
    "one patient": {"patients": 1, "folds": (1,), "seeds": (0, 1)},
    "one patient, one run": {"patients": 1, "folds": (1,), "seeds": (0,)},
    "one patient a fold": {"patients": 2, "folds": (1, 2), "seeds": (0, 1)},
    "one fold of one patient": {"patients": 3, "folds": (1, 2), "seeds": (0, 1)},
    "no spread": {"patients": 12, "folds": (1, 2), "seeds": (0, 1), "is_still": True},
    "one patient without spread": {"patients": 1, "folds": (1,), "seeds": (0,), "is_still": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_format_is_written_without_a_warning_or_a_bare_nan(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_report(load_experiment(write(tmp_path, **SETTINGS[name])), FORMATS)
    said = written.paths["md"].read_text(encoding="utf-8")
    assert " nan" not in said
    assert "[nan" not in said
    help_ = written.verdicts[0]
    if len(SETTINGS[name]["folds"]) == 2 and SETTINGS[name].get("is_still"):
        assert help_.outcome is Outcome.NO_DIFFERENCE
    else:
        assert help_.outcome is Outcome.UNDECIDED
        check_names(help_.headline, "no test")


@pytest.mark.parametrize(("patients", "named"), [(1, "one patient"), (2, "2 patients")])
def test_the_verdict_says_that_there_is_no_test(patients: int, named: str, tmp_path: Path) -> None:
    results = load_experiment(write(tmp_path, patients=patients, folds=(1,), seeds=(0,)))
    for verdict in make_verdicts(results, make_comparisons(results)):
        check_names(" ".join((verdict.headline, *verdict.sentences)), named, "no test")


def test_tests_of_one_patient_have_no_p() -> None:
    rng = np.random.default_rng(0)
    for values in (np.array([0.1]), np.array([])):
        assert np.isnan(flip_signs(values, rng))
        assert np.isnan(rank_signs(values))
        assert np.isnan(find_equivalence(values, 0.005))
    assert flip_signs(np.zeros(4), rng) == 1.0
    assert rank_signs(np.zeros(4)) == 1.0


def test_a_stratum_without_patients_has_no_mean_and_warns_of_nothing(tmp_path: Path) -> None:
    results = load_experiment(write(tmp_path, patients=3, folds=(1,), seeds=(0,)))
    table = results.select_main("gated")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(estimate_mean(table[table["case"] == "none"].groupby("patient")["dice"].mean(), None).mean)  # type: ignore[arg-type]  # not drawn from
        one = table[table["patient"] == table["patient"].iloc[0]]
        rows = (ProtocolRow("clean", {"gated": one}), ProtocolRow("other", {"gated": one}))
        assert "nan" not in Deviations("mini", ("gated",), rows).to_markdown()
