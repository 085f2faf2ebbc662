from pathlib import Path

import numpy as np
import pytest
from messages import check_names
from simulated_suite import Suite

from t2m_bench.metrics.results import write_results
from t2m_bench.reporting.deviations import Deviations, ProtocolRow, measure_protocol


def write_runs(folder: Path, gain: float, patients: int = 24) -> list[Path]:
    """Two runs of gated on the same patients, whatever the gain."""
    suite = Suite(("gated",), folds=(1,), seeds=(0, 1), patients=patients, boxes={"tight": 0.0})
    suite.gain = suite.gain | {"gated": gain}
    suite.rng = np.random.default_rng(round(1000 * gain))
    paths = [folder / f"gated-fold1-seed{seed}-00000000" / "cases.parquet" for seed in suite.seeds]
    for seed, path in zip(suite.seeds, paths, strict=True):
        write_results(path, suite.make_rows("gated", seed, 1))
    return paths


def test_a_paired_difference_has_an_interval_and_another_split_has_none(tmp_path: Path) -> None:
    rows = (
        measure_protocol("clean protocol", write_runs(tmp_path / "clean", 0.02)),
        measure_protocol("other loss", write_runs(tmp_path / "loss", 0.03)),
        measure_protocol("other split", write_runs(tmp_path / "split", 0.03, patients=30)),
        ProtocolRow("bytes", None),
    )
    table = Deviations("mini", ("gated",), rows)
    numbers = table.to_frame().set_index("protocol")
    paired = numbers.loc["other loss"]
    assert paired["gated_worth"] == pytest.approx(0.01, abs=5e-3)
    assert paired["gated_worth_low"] < paired["gated_worth"] < paired["gated_worth_high"]
    assert np.isnan(numbers.loc["other split", "gated_worth_low"])
    assert not np.isnan(numbers.loc["other split", "gated_worth"])
    text = table.to_markdown()
    check_names(text, "2 training", "trained models")
    assert f"| {paired['gated_worth']:+.4f} [{paired['gated_worth_low']:+.4f}, " in text
    (row,) = [line for line in text.splitlines() if line.startswith("| bytes |")]
    check_names(row, "not measured", "mini")
    assert row.endswith("| - |")


def test_only_this_suite_s_runs_are_read(tmp_path: Path) -> None:
    first, second = write_runs(tmp_path, 0.02)
    one, both = measure_protocol("x", [first]), measure_protocol("x", [first, second])
    assert (one.count_runs(), both.count_runs()) == (1, 2)
    assert "gated-fold1-seed1-00000000" in {path.name for path in tmp_path.iterdir()}
    assert measure_protocol("x", []).estimate("gated") is None
