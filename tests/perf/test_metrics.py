import pytest
from messages import raises_naming

from t2m_bench.errors import UserError
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN
from t2m_bench.perf.metrics import measure_metrics


def test_the_metrics_are_compared_at_equal_values() -> None:
    found = measure_metrics("cpu", num_pairs=2, repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


def test_unequal_values_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2m_bench.metrics.surface.PERCENTILE", 90.0)
    with pytest.raises(AssertionError):
        measure_metrics("cpu", num_pairs=2, repeats=1)


def test_another_device_is_refused() -> None:
    with raises_naming(UserError, "perf metrics", "--device", "cuda", "CPU"):
        measure_metrics("cuda")
