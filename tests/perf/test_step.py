import subprocess
import sys

import pytest

from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, Row, measure
from t2m_bench.perf.step import measure_step


def test_ratios_are_of_medians_and_against_the_fastest_peer() -> None:
    rows = [
        Row(PLAIN, "a", 9.0, 1, 9),
        Row(PLAIN, "b", 6.0, 1, 9),
        Row(OURS, "c", 2.0, 1, 9),
        Row(LIMIT, "d", 1.5, 1, 9),
    ]
    found = Measurement("x", "", tuple(rows)).to_json()
    assert (found["speedup"], found["of_limit"]) == (3.0, 0.75)
    assert len(found["rows"]) == 4


def test_the_ways_take_turns_and_the_first_turn_does_not_count() -> None:
    turns: list[str] = []
    ways = {(PLAIN, "p"): lambda: turns.append("p"), (OURS, "o"): lambda: turns.append("o")}
    found = measure("x", "", ways, repeats=3)
    assert turns == ["p", "o"] * 4
    assert all(0 <= row.fastest_s <= row.median_s <= row.slowest_s for row in found.rows)


def test_the_step_compares_equal_numerics() -> None:
    found = measure_step("cpu", batch_size=2, grid=8, repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


def test_unequal_ways_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2m_bench.perf.plain.PlainLevel.forward", lambda self, tokens, text: tokens + self.level.gate)
    with pytest.raises(AssertionError):
        measure_step("cpu", batch_size=2, grid=8, repeats=1)


def test_the_step_can_be_measured_without_ray_and_transformers() -> None:
    code = (
        "import sys, t2m_bench.perf.step;"
        "print({'ray', 'accelerate', 'deepspeed', 'transformers', 'h5py'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
