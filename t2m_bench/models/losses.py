"""The three terms of the loss, one value a case so that any split of a batch gives the same sum."""

import torch
from torch import Tensor
from torch.nn import functional


def compute_dice_loss(low_res_logits: Tensor, mask_low_res: Tensor) -> Tensor:
    """Return 1 - soft Dice of each case: logits and reference in [0, 1], both (B, H, W); result (B,) float32."""
    probability = low_res_logits.float().sigmoid()
    mask = mask_low_res.float()
    intersection = (probability * mask).sum(dim=(1, 2))
    total = probability.square().sum(dim=(1, 2)) + mask.square().sum(dim=(1, 2))
    return 1.0 - (2.0 * intersection + 1.0) / (total + 1.0)


def compute_bce_loss(low_res_logits: Tensor, mask_low_res: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of each case: (B, H, W) twice to (B,) float32."""
    loss = functional.binary_cross_entropy_with_logits(low_res_logits.float(), mask_low_res.float(), reduction="none")
    return loss.mean(dim=(1, 2))


def compute_contrastive_loss(
    lesion_features: Tensor, text_features: Tensor, text_class: Tensor, temperature: float
) -> Tensor:
    """Return the contrastive loss of a whole global batch, a scalar.

    Binary cross-entropy on cosine / temperature of every pair of a lesion and a text; same class is a positive pair
    (the published form of Talk2MedSAM).

    Args:
        lesion_features, text_features: (B, D) of the global batch.
        text_class: (B,) integers, the class of the text that each case was given.
    """
    lesions = functional.normalize(lesion_features.float(), dim=1)
    texts = functional.normalize(text_features.float(), dim=1)
    logits = lesions @ texts.T / temperature
    positive = (text_class[:, None] == text_class[None, :]).to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, positive)


def compute_contrastive_gradients(
    lesion_features: Tensor, text_features: Tensor, text_class: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of a global batch and its gradients by lesion and by text features, each (B, D).

    The pool of the contrastive loss is the global batch, whatever its split over ranks and micro-batches. So features
    are gathered first without a graph, and each micro-batch then adds (features * gradient).sum() to its own loss.
    """
    with torch.enable_grad():
        lesions = lesion_features.detach().float().requires_grad_()
        texts = text_features.detach().float().requires_grad_()
        loss = compute_contrastive_loss(lesions, texts, text_class, temperature)
        by_lesion, by_text = torch.autograd.grad(loss, (lesions, texts))
    return loss.detach(), by_lesion, by_text
