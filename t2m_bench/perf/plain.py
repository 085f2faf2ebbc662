"""The training step as one would write it first: `nn.MultiheadAttention`, and segment_anything's decoder in a loop."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2m_bench.models.fusion import FusionAdapter, FusionLevel, LowRankCrossAttention
from t2m_bench.models.segmenter import BoxSegmenter


class PlainLevel(nn.Module):
    """The same level as a `FusionLevel` of branch norm, with the same weights, by torch's own attention."""

    def __init__(self, level: FusionLevel) -> None:
        super().__init__()
        self.level = level
        self.attention = copy_attention(level.attention)

    def forward(self, image_tokens: Tensor, text_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse image_tokens (B, N, D) with text_embedding (B, E); return them and the text tokens (B, K, D)."""
        width = image_tokens.shape[-1]
        text_tokens = self.level.text_projection(text_embedding).unflatten(-1, (-1, width))
        attended, _ = self.attention(image_tokens, text_tokens, text_tokens, need_weights=False)
        # in fp32, as autocast does by itself on a GPU; on a CPU its gradient would be another one in bf16
        return image_tokens + self.level.share * self.level.norm(attended.float()), text_tokens


def copy_attention(ours: LowRankCrossAttention) -> nn.MultiheadAttention:
    """Return torch's attention with the weights of ours, whose inner width must be D."""
    width = ours.out.out_features
    plain = nn.MultiheadAttention(width, ours.heads, batch_first=True, device=ours.out.weight.device)
    with torch.no_grad():
        plain.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        plain.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        plain.out_proj.weight.copy_(ours.out.weight)
        plain.out_proj.bias.copy_(ours.out.bias)
    return plain


class PlainSegmentation(nn.Module):
    """Adapter over the batch, decode of one case after the other."""

    def __init__(self, adapter: FusionAdapter, segmenter: BoxSegmenter) -> None:
        super().__init__()
        self.levels = nn.ModuleList([PlainLevel(level) for level in adapter.list_levels()])
        self.prompt_encoder: Any = segmenter.prompt_encoder
        self.mask_decoder: Any = segmenter.mask_decoder

    def forward(
        self, image_embedding: Tensor, text_embedding: Tensor, box_xyxy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Segment image_embedding (B, D, h, w) with text (B, E) and boxes (B, 4).

        Returns:
            low_res_logits (B, 4h, 4w), the fused embedding (B, D, h, w), the text's features (B, D).
        """
        image_tokens = text_tokens = image_embedding.flatten(2).transpose(1, 2)
        for level in self.levels:
            image_tokens, text_tokens = level(image_tokens, text_embedding)
        fused = image_tokens.transpose(1, 2).view_as(image_embedding)
        rows = []
        for embedding, box in zip(fused, box_xyxy, strict=True):
            sparse, dense = self.prompt_encoder(points=None, boxes=box[None], masks=None)
            image_pe = self.prompt_encoder.get_dense_pe()
            logits, _ = self.mask_decoder(embedding[None], image_pe, sparse, dense, multimask_output=False)
            rows.append(logits[0, 0])
        return torch.stack(rows), fused, text_tokens.mean(dim=1)


def compute_plain_loss(outputs: tuple[Tensor, Tensor, Tensor], mask: Tensor, text_class: Tensor) -> Tensor:
    """Return Dice + cross-entropy + 2 * contrastive of a batch from their formulas; mask (B, 4h, 4w) in [0, 1]."""
    low_res_logits, fused, texts = outputs
    low_res_logits, fused = low_res_logits.float(), fused.float()
    probability = low_res_logits.sigmoid()
    intersection = (probability * mask).sum(dim=(1, 2))
    total = (probability**2).sum(dim=(1, 2)) + (mask**2).sum(dim=(1, 2))
    dice = (1.0 - (2.0 * intersection + 1.0) / (total + 1.0)).mean()
    bce = functional.binary_cross_entropy_with_logits(low_res_logits, mask)
    weight = functional.adaptive_avg_pool2d(mask[:, None], (fused.shape[-2], fused.shape[-1]))
    lesions = (fused * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    cosine = functional.normalize(lesions, dim=1) @ functional.normalize(texts.float(), dim=1).T
    positive = (text_class[:, None] == text_class[None, :]).float()
    contrastive = functional.binary_cross_entropy_with_logits(cosine / 0.07, positive)
    return dice + bce + 2.0 * contrastive
