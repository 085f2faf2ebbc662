import subprocess
import sys

import pytest
from torch import Tensor

from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, Row, measure
from t2m_bench.perf.plain import PlainLevel
from t2m_bench.perf.step import measure_one


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


@pytest.mark.parametrize("bf16", [False, True])
def test_the_step_compares_equal_numerics(bf16: bool) -> None:
    found = measure_one("cpu", batch_size=2, grid=4, bf16=bf16, repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


def test_unequal_ways_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_the_gate(self: PlainLevel, tokens: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return tokens + self.level.gate, self.level.text_projection(text)[:, None, :256]

    monkeypatch.setattr(PlainLevel, "forward", add_the_gate)
    with pytest.raises(AssertionError):
        measure_one("cpu", batch_size=2, grid=4, bf16=False, repeats=1)


def test_a_gradient_that_is_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def detach_the_gate(self: PlainLevel, tokens: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        text_tokens = self.level.project(text)
        attended, _ = self.attention(tokens, text_tokens, text_tokens, need_weights=False)
        return tokens + self.level.gate.detach() * self.level.norm(attended), text_tokens

    monkeypatch.setattr(PlainLevel, "forward", detach_the_gate)
    with pytest.raises(AssertionError, match="gate_raw"):
        measure_one("cpu", batch_size=2, grid=4, bf16=False, repeats=1)


def test_the_step_can_be_measured_without_ray_and_transformers() -> None:
    code = (
        "import sys, t2m_bench.perf.step;print({'ray', 'accelerate', 'deepspeed', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
