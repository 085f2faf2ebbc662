"""The frozen half after the adapter: a box and a fused embedding to mask logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MULTIMASK_OFF = 0
"""Index of the mask token that SAM uses when asked for a single mask (segment_anything/modeling/mask_decoder.py)."""


class BoxSegmenter(nn.Module):
    """SAM's frozen prompt encoder and mask decoder for one box a case, batched over cases.

    segment_anything's own `predict_masks` repeats every image embedding for every prompt, so B images with a box each
    become B * B rows. This decode runs the same submodules over B rows and leaves out masks 1 to 3 and the IoU head.
    """

    image_pe: Tensor
    prompt_encoder: Any  # segment_anything has no types
    mask_decoder: Any

    def __init__(self, prompt_encoder: Any, mask_decoder: Any) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder.requires_grad_(False).eval()
        self.mask_decoder = mask_decoder.requires_grad_(False).eval()
        with torch.no_grad():
            self.register_buffer("image_pe", prompt_encoder.get_dense_pe(), persistent=False)  # (1, D, h, w)

    def train(self, mode: bool = True) -> "BoxSegmenter":
        """Stay in evaluation mode: these parts are frozen."""
        return super().train(False)

    def forward(self, image_embedding: Tensor, box_xyxy: Tensor) -> Tensor:
        """Decode one mask a case.

        Args:
            image_embedding: (B, D, h, w), fused or not.
            box_xyxy: (B, 4) in pixels of the encoder's square input.

        Returns:
            low_res_logits (B, 4h, 4w).
        """
        decoder = self.mask_decoder
        sparse, dense = self.prompt_encoder(points=None, boxes=box_xyxy, masks=None)  # (B, 2, D), (B, D, h, w)
        num_cases = image_embedding.shape[0]
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(num_cases, -1, -1), sparse], dim=1)
        positions = self.image_pe.expand(num_cases, -1, -1, -1)
        hidden, source = decoder.transformer(image_embedding + dense, positions, tokens)
        mask_token = hidden[:, 1 + MULTIMASK_OFF]  # (B, D); token 0 is the IoU token
        source = source.transpose(1, 2).view_as(image_embedding)
        upscaled = decoder.output_upscaling(source)  # (B, D/8, 4h, 4w)
        weights = decoder.output_hypernetworks_mlps[MULTIMASK_OFF](mask_token)  # (B, D/8)
        return torch.einsum("bc,bchw->bhw", weights, upscaled)


def compute_mask_probability(low_res_logits: Tensor, height: int, width: int) -> Tensor:
    """Return (H, W) probabilities in original pixels from (h, w) logits: sigmoid, then bilinear, as MedSAM infers."""
    probability = low_res_logits.float().sigmoid()[None, None]
    resized = functional.interpolate(probability, size=(height, width), mode="bilinear", align_corners=False)
    return resized[0, 0]
