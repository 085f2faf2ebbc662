import math

import monai.losses
import pytest
import torch

from t2m_bench.models.losses import (
    compute_bce_loss,
    compute_contrastive_gradients,
    compute_contrastive_loss,
    compute_dice_loss,
)


def test_dice_loss_agrees_with_monai() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(3, 16, 16), (torch.rand(3, 16, 16) > 0.6).float()
    reference = monai.losses.DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1.0, smooth_dr=1.0, reduction="none")(
        logits[:, None], mask[:, None]
    )
    torch.testing.assert_close(compute_dice_loss(logits, mask), reference.flatten())


def test_bce_loss_of_a_coin_toss_is_log_two() -> None:
    assert compute_bce_loss(torch.zeros(2, 4, 4), torch.ones(2, 4, 4)).tolist() == pytest.approx([math.log(2)] * 2)


def test_contrastive_loss_by_hand() -> None:
    features = torch.eye(2)
    loss = compute_contrastive_loss(features, features, torch.tensor([0, 1]), temperature=1.0)
    want = (math.log1p(math.exp(-1.0)) + math.log(2.0)) / 2  # two pairs of cosine 1 and positive, two of cosine 0
    assert float(loss) == pytest.approx(want, rel=1e-6)


def test_gradients_of_the_gathered_features_are_those_of_the_loss() -> None:
    torch.manual_seed(1)
    lesions, texts = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    classes = torch.tensor([0, 0, 1, 2, 2, 1])
    loss = compute_contrastive_loss(lesions, texts, classes, 0.07)
    want = torch.autograd.grad(loss, (lesions, texts))
    got_loss, *got = compute_contrastive_gradients(lesions, texts, classes, 0.07)
    torch.testing.assert_close(got_loss, loss.detach())
    torch.testing.assert_close(tuple(got), want)
