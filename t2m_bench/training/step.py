"""The gradient of one global batch, equal however it is split over ranks and micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2m_bench.config import IMAGE_WIDTH, LossSection
from t2m_bench.models.arm import Arm, Segmenter
from t2m_bench.models.fusion import compute_lesion_features
from t2m_bench.models.losses import compute_bce_loss, compute_contrastive_gradients, compute_dice_loss
from t2m_bench.training.batches import MicroBatch
from t2m_bench.training.ranks import Ranks


@dataclass(frozen=True)
class StepLosses:
    """Means over the global batch."""

    dice_loss: float
    bce_loss: float
    contrastive_loss: float

    def total(self, loss: LossSection) -> float:
        """Return the weighted sum that is minimised."""
        return (
            loss.dice_weight * self.dice_loss
            + loss.bce_weight * self.bce_loss
            + loss.contrastive_weight * self.contrastive_loss
        )


@dataclass(frozen=True)
class _Pool:
    """The contrastive loss of the global batch and its gradients by lesion and text features, (B, D) each."""

    loss: Tensor
    by_lesion: Tensor
    by_text: Tensor


def compute_gradients(
    adapter: Arm,
    segmenter: Segmenter,
    micro_batches: Sequence[MicroBatch],
    num_global: int,
    loss: LossSection,
    ranks: Ranks,
) -> StepLosses:
    """Leave the gradient of the global batch's loss in the adapter's parameters, on every rank."""
    losses = accumulate_gradients(adapter, segmenter, micro_batches, num_global, loss, ranks)
    ranks.sum_gradients(adapter)
    return losses


def accumulate_gradients(
    adapter: Arm,
    segmenter: Segmenter,
    micro_batches: Sequence[MicroBatch],
    num_global: int,
    loss: LossSection,
    ranks: Ranks,
) -> StepLosses:
    """Add to the adapter's gradients this rank's share of the gradient of the global batch's loss.

    Args:
        micro_batches: this rank's share of the global batch, possibly none.
        num_global: cases of the global batch.
    """
    pool = _pool_features(adapter, micro_batches, num_global, loss, ranks)
    sums = torch.zeros(2, device=ranks.device)
    for batch in micro_batches:
        with ranks.autocast():
            fused = adapter(batch.image_embedding, batch.text_embedding)
            low_res_logits = segmenter(fused.image_embedding, batch.box_xyxy)
        dice_loss = compute_dice_loss(low_res_logits, batch.mask_low_res).sum()
        bce_loss = compute_bce_loss(low_res_logits, batch.mask_low_res).sum()
        objective = (loss.dice_weight * dice_loss + loss.bce_weight * bce_loss) / num_global
        if pool is not None:
            lesions = compute_lesion_features(fused.image_embedding, batch.mask_low_res)
            pulled = (lesions * pool.by_lesion[batch.positions]).sum()
            pulled = pulled + (fused.text_features.float() * pool.by_text[batch.positions]).sum()
            objective = objective + loss.contrastive_weight * pulled
        _add_gradients(adapter, ranks.scaler.scale(objective))
        sums += torch.stack([dice_loss, bce_loss]).detach()
    mean_dice, mean_bce = (ranks.sum(sums) / num_global).tolist()
    return StepLosses(mean_dice, mean_bce, float(pool.loss) if pool is not None else 0.0)


def _add_gradients(adapter: Arm, objective: Tensor) -> None:
    """Do what `objective.backward()` does, past DeepSpeed's hooks, which would send each micro-batch's part at once."""
    parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    for parameter, part in zip(parameters, torch.autograd.grad(objective, parameters, allow_unused=True), strict=True):
        if part is not None:
            parameter.grad = part if parameter.grad is None else parameter.grad + part


def _pool_features(
    adapter: Arm, micro_batches: Sequence[MicroBatch], num_global: int, loss: LossSection, ranks: Ranks
) -> _Pool | None:
    """Gather every case's features without a graph; None where no contrastive loss applies."""
    if loss.contrastive_weight == 0 or not adapter.has_text_loss:
        return None
    rows = torch.zeros(num_global, 2 * IMAGE_WIDTH + 1, device=ranks.device)
    for batch in micro_batches:
        with torch.no_grad(), ranks.autocast():
            fused = adapter(batch.image_embedding, batch.text_embedding)
        lesions = compute_lesion_features(fused.image_embedding, batch.mask_low_res)
        columns = [lesions, fused.text_features.float(), batch.text_class[:, None].float()]
        rows[batch.positions] = torch.cat(columns, dim=1)
    lesions, texts, classes = ranks.sum(rows).split([IMAGE_WIDTH, IMAGE_WIDTH, 1], dim=1)
    return _Pool(*compute_contrastive_gradients(lesions, texts, classes[:, 0].long(), loss.temperature))
