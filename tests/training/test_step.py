from pathlib import Path

import pytest
import torch
from ranks_bench import compute_one_gradient, make_adapter, make_batches, make_recipe, make_segmenter, run_ranks

from t2m_bench.recipe.schema import LossSection
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.step import StepLosses, compute_gradients

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


def test_two_ranks_give_the_gradient_of_tokens_beside_the_box_too(tmp_path: Path) -> None:
    whole = compute_one_gradient(0, 16, "text_prompt")
    got = run_ranks(tmp_path / "result.pt", 2, 0, 4, "text_prompt")
    torch.testing.assert_close(got["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    assert float((got["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()) < 1e-5


def test_a_short_last_batch_is_weighted_by_its_count_even_where_ranks_get_uneven_shares(tmp_path: Path) -> None:
    whole = compute_one_gradient(step=1, micro_batch_size=16)  # 5 of 21 cases are left
    got = run_ranks(tmp_path / "result.pt", 3, 1, 16)
    torch.testing.assert_close(got["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    assert float((got["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()) < 1e-5


def test_decoding_a_few_cases_at_a_time_changes_nothing(
    whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    values_a_case = 256 * 4 * 4
    monkeypatch.setattr("t2m_bench.models.segmenter.VALUES_AT_ONCE", 5 * values_a_case)  # 16 cases: 5, 5, 5, 1
    got = compute_one_gradient(step=0, micro_batch_size=16)
    torch.testing.assert_close(got["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    assert float((got["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()) < 1e-5


def test_an_arm_that_reads_text_without_a_text_loss_trains_as_at_contrastive_weight_zero() -> None:
    found = []
    for kind, weight in (("text_input_only", 2.0), ("hierarchical", 0.0), ("hierarchical", 2.0)):
        recipe = make_recipe().with_arm(kind, seed=0)
        adapter, batches = make_adapter(recipe), make_batches(recipe)
        loss = LossSection(contrastive_weight=weight)
        made, count = list(batches.make(0, 0, 0, 1)), batches.count_cases(0)
        losses = compute_gradients(adapter, make_segmenter(), made, count, loss, ProcessGroup("no", use_gpu=False))
        found.append((losses, torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()])))
    (losses, gradient), (weightless, without), (both, with_loss) = found
    assert losses == weightless
    assert losses.contrastive_loss == 0.0 < both.contrastive_loss
    assert torch.equal(gradient, without)
    assert not torch.equal(gradient, with_loss)


def test_weights_of_the_loss_scale_their_terms() -> None:
    losses = StepLosses(dice_loss=0.5, bce_loss=0.25, contrastive_loss=0.125)
    assert losses.total(LossSection()) == 0.5 + 0.25 + 2 * 0.125
    assert losses.total(LossSection(dice_weight=0.7, bce_weight=0.3, contrastive_weight=0)) == pytest.approx(0.425)
    gradients = {}
    for dice, bce in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.3)):
        recipe = make_recipe()
        adapter, batches = make_adapter(recipe), make_batches(recipe)
        loss = LossSection(dice_weight=dice, bce_weight=bce, contrastive_weight=0)
        made = list(batches.make(0, 0, 0, 1))
        compute_gradients(
            adapter, make_segmenter(), made, batches.count_cases(0), loss, ProcessGroup("no", use_gpu=False)
        )
        gradients[dice, bce] = torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()])
    expected = 0.7 * gradients[1.0, 0.0] + 0.3 * gradients[0.0, 1.0]
    torch.testing.assert_close(gradients[0.7, 0.3], expected, rtol=1e-3, atol=1e-6)
