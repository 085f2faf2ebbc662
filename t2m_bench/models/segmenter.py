"""The frozen half after the adapter: a box and a fused embedding to mask logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2m_bench.data.frame import Frame
from t2m_bench.models.products import channel_dot, to_tokens
from t2m_bench.models.two_way import run_two_way

MULTIMASK_OFF = 0
"""Index of the mask token that SAM uses when asked for a single mask (segment_anything/modeling/mask_decoder.py)."""

VALUES_AT_ONCE = 2**20
"""Values of fused embeddings that a CPU decodes in one go, one case of 64x64x256: what is kept for the way back then
stays in its cache. Sixteen cases in one go take 1.5 times as long (one core of an EPYC 7003)."""


class BoxSegmenter(nn.Module):
    """SAM's frozen prompt encoder and mask decoder for one box a case, batched over cases.

    segment_anything's own `predict_masks` repeats every image embedding for every prompt, so B images with a box each
    become B * B rows, and decodes masks 1 to 3 and their quality too. Here are the same weights over B rows, for mask 0
    alone, in the order of products that costs least.
    """

    positions: Tensor
    prompt_encoder: Any  # segment_anything has no types
    mask_decoder: Any

    def __init__(self, prompt_encoder: Any, mask_decoder: Any) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder.requires_grad_(False).eval()
        self.mask_decoder = mask_decoder.requires_grad_(False).eval()
        with torch.no_grad():
            image_pe = prompt_encoder.get_dense_pe()  # (1, D, h, w)
            self.register_buffer("positions", image_pe[0].flatten(1).mT.contiguous(), persistent=False)  # (N, D)

    def train(self, mode: bool = True) -> "BoxSegmenter":
        """Stay in evaluation mode: these parts are frozen."""
        return super().train(False)

    def forward(
        self,
        image_embedding: Tensor,
        box_xyxy: Tensor,
        sparse_tokens: Tensor | None = None,
        sparse_bias: Tensor | None = None,
    ) -> Tensor:
        """Decode one mask a case.

        Args:
            image_embedding: (B, D, h, w), fused or not; fastest with its channels last in memory.
            box_xyxy: (B, 4) in pixels of the encoder's square input.
            sparse_tokens: (B, K, D), further tokens of the sparse prompt, behind the box's; None for the box alone.
            sparse_bias: (B, K), log of how many tokens each of them counts as; None counts each once, as SAM does.

        Returns:
            low_res_logits (B, 4h, 4w).
        """
        decoder = self.mask_decoder
        num_cases, _, height, width = image_embedding.shape
        sparse, dense = self.prompt_encoder(points=None, boxes=box_xyxy, masks=None)  # (B, 2, D), (B, D, h, w)
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(num_cases, -1, -1), sparse], dim=1)
        token_bias = None
        if sparse_tokens is not None and sparse_tokens.shape[1]:
            if sparse_bias is not None:
                token_bias = torch.cat([sparse_bias.new_zeros(tokens.shape[:2]), sparse_bias], dim=1)  # (B, T)
            tokens = torch.cat([tokens, sparse_tokens.to(tokens.dtype)], dim=1)
        image_tokens = to_tokens(image_embedding) + dense[0, :, 0, 0]  # no mask is given: one vector for all tokens
        kept = 1 + MULTIMASK_OFF  # token 0 is the IoU token
        mask_token, image_tokens = run_two_way(
            decoder.transformer, image_tokens, self.positions, tokens, kept, token_bias
        )
        weights = decoder.output_hypernetworks_mlps[MULTIMASK_OFF](mask_token)  # (B, D/8)
        return _upscale(decoder.output_upscaling, image_tokens.unflatten(1, (height, width)), weights)


def _upscale(layers: Any, image_tokens: Tensor, weights: Tensor) -> Tensor:
    """Return low_res_logits (B, 4h, 4w) of image_tokens (B, h, w, D) and the mask's weights (B, D/8).

    The two transposed convolutions have stride 2 and a kernel of 2 x 2: no outputs overlap, so each is one product with
    the channels last, and their pixels are put in order at the end, when a pixel is one number.
    """
    first, norm, activation, second, last_activation = layers
    num_cases, height, width, _ = image_tokens.shape
    upscaled = _multiply_out(first, image_tokens.flatten(0, 2))  # (B*h*w*4, D/4)
    # in fp32, as autocast does by itself on a GPU: where the norm is trained, its gradient is a sum over all pixels
    upscaled = functional.layer_norm(upscaled.float(), upscaled.shape[-1:], norm.weight, norm.bias, norm.eps)
    upscaled = last_activation(_multiply_out(second, activation(upscaled)))  # (B*h*w*16, D/8)
    logits = channel_dot(upscaled.view(num_cases, -1, upscaled.shape[-1]), weights)  # (B, h*w*16)
    pixels = logits.view(num_cases, height, width, 2, 2, 2, 2)  # y, x, then (dy, dx) of each convolution
    return pixels.permute(0, 1, 3, 5, 2, 4, 6).reshape(num_cases, 4 * height, 4 * width)


def _multiply_out(convolution: nn.ConvTranspose2d, rows: Tensor) -> Tensor:
    """Return (4M, out) of rows (M, in): what a transposed convolution of stride and kernel 2 makes of each."""
    weight = convolution.weight.permute(0, 2, 3, 1)  # (in, dy, dx, out)
    bias = convolution.bias
    assert bias is not None
    return torch.addmm(bias.repeat(4), rows, weight.flatten(1)).view(-1, weight.shape[-1])


def restore_mask(low_res_logits: Tensor, frame: Frame, height: int, width: int) -> Tensor:
    """Return the mask (H, W), bool, of an original image from logits (L, L) over a frame's input.

    Padding is cut off, then probabilities (as MedSAM infers) or logits (as LiteMedSAM does) are resized bilinearly.
    """
    logits = low_res_logits.float()[None, None]
    if frame.fit == "pad":
        if frame.low_res_size != frame.input_size:
            logits = _resize(logits, (frame.input_size, frame.input_size))
        rows, columns = frame.fit_image(height, width)
        logits = logits[..., :rows, :columns]
    if frame.resized == "logits":
        return _resize(logits, (height, width))[0, 0] > 0.0
    return _resize(logits.sigmoid(), (height, width))[0, 0] > 0.5


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(values, size=size, mode="bilinear", align_corners=False)


def split_for_cache(image_embedding: Tensor, num_rows: int | None = None) -> list[slice]:
    """Cut a batch into what a CPU's cache holds with all that is kept for the way back; a GPU takes it whole.

    Args:
        num_rows: of the batch, where it is not one row a case of image_embedding (B, D, h, w).
    """
    num_cases = image_embedding.shape[0] if num_rows is None else num_rows
    values = max(1, image_embedding[:1].numel())
    at_once = num_cases if image_embedding.is_cuda else max(1, VALUES_AT_ONCE // values)
    return [slice(start, start + at_once) for start in range(0, num_cases, at_once)]
