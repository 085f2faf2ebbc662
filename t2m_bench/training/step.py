"""The gradient of one global batch, equal however it is split over ranks and micro-batches."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from t2m_bench.models.arm import Arm, Segmenter
from t2m_bench.models.fusion import compute_lesion_features
from t2m_bench.models.losses import compute_bce_loss, compute_contrastive_gradients, compute_dice_loss
from t2m_bench.models.segmenter import split_for_cache
from t2m_bench.recipe.schema import IMAGE_WIDTH, LossSection
from t2m_bench.training.batches import MicroBatch


class Group(Protocol):
    """Interface that a step needs of the processes that train together.

    `ProcessGroup` implements it; a single process needs no Accelerate.
    """

    @property
    def device(self) -> torch.device: ...

    @property
    def scaler(self) -> torch.amp.GradScaler: ...

    def autocast(self) -> AbstractContextManager[None]: ...

    def sum(self, tensor: Tensor) -> Tensor: ...

    def sum_gradients(self, module: nn.Module) -> None: ...


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
    ranks: Group,
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
    ranks: Group,
) -> StepLosses:
    """Add to the adapter's gradients this rank's share of the gradient of the global batch's loss.

    Args:
        micro_batches: this rank's share of the global batch, possibly none.
        num_global: cases of the global batch.
    """
    has_pool = loss.contrastive_weight != 0 and adapter.has_text_loss
    # what a rank fuses in one go keeps its graph; else it is fused twice, so that one micro-batch is kept at a time
    kept = _fuse(adapter, micro_batches[0], has_pool, ranks) if len(micro_batches) == 1 else None
    pool = _pool_features(adapter, micro_batches, kept, num_global, loss, ranks) if has_pool else None
    sums = torch.zeros(2, device=ranks.device)
    for batch in micro_batches:
        features = kept or _fuse(adapter, batch, has_pool, ranks)
        by_decoded, losses = _decode(adapter, segmenter, features.decoded, batch, num_global, loss, ranks)
        pulls = list(zip(features.decoded, by_decoded, strict=True))
        if pool is not None:
            scaled = ranks.scaler.scale(torch.tensor(loss.contrastive_weight, device=ranks.device))
            pulls.append((features.lesions, scaled * pool.by_lesion[batch.positions]))
            pulls.append((features.texts, scaled * pool.by_text[batch.positions]))
        pulls = [pull for pull in pulls if pull[0].requires_grad]  # none where the segmenter alone is trained
        if pulls:
            _add_gradients(adapter, *zip(*pulls, strict=True))
        sums += losses
    mean_dice, mean_bce = (ranks.sum(sums) / num_global).tolist()
    return StepLosses(mean_dice, mean_bce, float(pool.loss) if pool is not None else 0.0)


@dataclass(frozen=True)
class _Features:
    """A fused micro-batch.

    Attributes:
        decoded: what the decoder reads of it: image_embedding (B, D, h, w), then the sparse prompt where there is one,
            tokens (B, K, D) and their bias (B, K).
        lesions, texts: (B, D) float32, where they are compared.
    """

    decoded: tuple[Tensor, ...]
    lesions: Tensor
    texts: Tensor


def _fuse(adapter: Arm, batch: MicroBatch, has_pool: bool, ranks: Group) -> _Features:
    with ranks.autocast():
        fused = adapter(batch.image_embedding, batch.text_embedding)
    texts = fused.text_features.float()
    lesions = (
        compute_lesion_features(fused.image_embedding, batch.mask_low_res) if has_pool else torch.zeros_like(texts)
    )
    return _Features((fused.image_embedding, *fused.sparse_prompt), lesions, texts)


def _decode(
    adapter: Arm,
    segmenter: Segmenter,
    decoded: Sequence[Tensor],
    batch: MicroBatch,
    num_global: int,
    loss: LossSection,
    ranks: Group,
) -> tuple[list[Tensor], Tensor]:
    """Decode a fused embedding and its sparse prompt, forwards and backwards.

    What of the adapter lies in the segmenter gets its gradient here.

    Returns:
        the gradients of Dice and cross-entropy by each of decoded, and their sums over the cases (2,).
    """
    gradients = [torch.zeros_like(tensor) for tensor in decoded]
    sums = torch.zeros(2, device=ranks.device)
    for rows in split_for_cache(decoded[0]):
        parts = [tensor.detach()[rows].requires_grad_(tensor.requires_grad) for tensor in decoded]
        image_embedding, *sparse_prompt = parts
        with ranks.autocast():
            low_res_logits = segmenter(image_embedding, batch.box_xyxy[rows], *sparse_prompt)
        dice_loss = compute_dice_loss(low_res_logits, batch.mask_low_res[rows]).sum()
        bce_loss = compute_bce_loss(low_res_logits, batch.mask_low_res[rows]).sum()
        objective = ranks.scaler.scale((loss.dice_weight * dice_loss + loss.bce_weight * bce_loss) / num_global)
        _add_gradients(adapter, [objective], None, [part for part in parts if part.requires_grad])
        for gradient, part in zip(gradients, parts, strict=True):
            if part.grad is not None:
                gradient[rows] = part.grad
        sums += torch.stack([dice_loss, bce_loss]).detach()
    return gradients, sums


def _add_gradients(
    adapter: Arm, outputs: Sequence[Tensor], gradients: Sequence[Tensor] | None, others: Sequence[Tensor] = ()
) -> None:
    """Do what `backward()` does, past DeepSpeed's hooks, which would send each micro-batch's part at once."""
    leaves = [*(parameter for parameter in adapter.parameters() if parameter.requires_grad), *others]
    for leaf, part in zip(leaves, torch.autograd.grad(outputs, leaves, gradients, allow_unused=True), strict=True):
        if part is not None:
            leaf.grad = part if leaf.grad is None else leaf.grad + part


def _pool_features(
    adapter: Arm,
    micro_batches: Sequence[MicroBatch],
    kept: _Features | None,
    num_global: int,
    loss: LossSection,
    ranks: Group,
) -> _Pool:
    """Gather every case's features without a graph, and what the contrastive loss makes of them."""
    rows = torch.zeros(num_global, 2 * IMAGE_WIDTH + 1, device=ranks.device)
    for batch in micro_batches:
        with torch.no_grad():
            features = kept or _fuse(adapter, batch, True, ranks)
            columns = [features.lesions, features.texts, batch.text_class[:, None].float()]
            rows[batch.positions] = torch.cat(columns, dim=1)
    lesions, texts, classes = ranks.sum(rows).split([IMAGE_WIDTH, IMAGE_WIDTH, 1], dim=1)
    return _Pool(*compute_contrastive_gradients(lesions, texts, classes[:, 0].long(), loss.temperature))
