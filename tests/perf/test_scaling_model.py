from pathlib import Path

import numpy as np
import pytest

from t2m_bench.perf.scaling_model import CASE_BYTES, NUM_CASES, Machine, format_predictions, predict

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_one_gpu_without_jitter_by_hand() -> None:
    machine = Machine(case_s=1e-3, step_s=4e-3, jitter=0.0, node_read_bytes_s=1e12, storage_bytes_s=1e12)
    found = predict(1, machine, np.random.default_rng(0), num_draws=2)
    assert found.epoch_s == pytest.approx(NUM_CASES / 16 * 0.020)
    assert found.limit == "computing"


def test_what_the_contrastive_loss_adds_by_hand() -> None:
    machine = Machine(jitter=0.0, message_s=0.0, link_bytes_s=1e9, flops_s=1e12)
    found = predict(2, machine, np.random.default_rng(0), num_draws=2)
    assert found.reduce_s == pytest.approx((4 * 412_802 + 32 * 4 * 513) / 1e9)  # a ring of two sends everything once
    assert found.work_s == pytest.approx(machine.step_s + 16 * machine.case_s + 32 * 32 * 1536 / 1e12)


def test_when_reading_is_slower_than_the_rest_it_alone_counts() -> None:
    found = predict(8, Machine(node_read_bytes_s=1e8), np.random.default_rng(0), num_draws=2)
    assert found.epoch_s == pytest.approx(NUM_CASES * CASE_BYTES / 1e8)
    assert found.limit == "shards read"


def test_the_slowest_of_many_ranks_is_waited_for() -> None:
    waits = [predict(gpus, Machine(), np.random.default_rng(0)).wait_s for gpus in (1, 8, 64, 512)]
    assert waits == sorted(waits)


def test_the_page_shows_what_the_model_says() -> None:
    rng = np.random.default_rng(0)
    assert format_predictions([predict(gpus, Machine(), rng) for gpus in (1, 8, 64, 512)]) in DOCS.read_text("utf-8")
