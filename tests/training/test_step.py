from pathlib import Path

import pytest
import torch
from ranks_bench import compute_one_gradient, run_ranks

SPLITS = {"2x8": (2, 0, 16), "1x4x4": (1, 0, 4), "2x4x2": (2, 0, 4)}


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    return compute_one_gradient(step=0, micro_batch_size=16)


@pytest.mark.parametrize("split", SPLITS)
def test_any_split_of_the_global_batch_gives_the_same_loss_and_gradient(
    split: str, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    world_size, step, micro_batch_size = SPLITS[split]
    got = run_ranks(tmp_path / "result.pt", world_size, step, micro_batch_size)
    torch.testing.assert_close(got["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    assert float(whole["losses"][2]) > 0
    error = (got["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()
    assert float(error) < 1e-5


def test_a_short_last_batch_is_weighted_by_its_count_even_where_ranks_get_uneven_shares(tmp_path: Path) -> None:
    whole = compute_one_gradient(step=1, micro_batch_size=16)  # 5 of 21 cases are left
    got = run_ranks(tmp_path / "result.pt", 3, 1, 16)
    torch.testing.assert_close(got["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    assert float((got["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()) < 1e-5


def test_decoding_a_few_cases_at_a_time_changes_nothing(
    whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    values_a_case = 256 * 4 * 4
    monkeypatch.setattr("t2m_bench.training.step.VALUES_AT_ONCE", 5 * values_a_case)  # 16 cases: 5, 5, 5, 1
    got = compute_one_gradient(step=0, micro_batch_size=16)
    torch.testing.assert_close(got["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    assert float((got["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()) < 1e-5
