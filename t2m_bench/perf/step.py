"""One training step of the hierarchical adapter on 64x64x256 embeddings: plain, ours, and the decoder alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from t2m_bench.config import IMAGE_WIDTH, AdapterSection
from t2m_bench.models.fusion import build_adapter
from t2m_bench.models.losses import compute_bce_loss, compute_dice_loss
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.models.torchvision_ops import declare_missing_operators
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, measure
from t2m_bench.perf.plain import PlainSegmentation

GRID, IMAGE_SIZE, TEXT_WIDTH = 64, 1024, 768
REPEATS = 5


def measure_step(device: str, batch_size: int = 2, grid: int = GRID, repeats: int = REPEATS) -> Measurement:
    """Measure forward and backward of Dice and cross-entropy in fp32, the same weights in both ways.

    Raises:
        AssertionError: the two ways do not give the same loss and gradient; then no time means anything.
    """
    generator = torch.Generator().manual_seed(0)
    # as wide inside as nn.MultiheadAttention always is, so that both ways compute the same numbers
    adapter = build_adapter(AdapterSection(inner_width=IMAGE_WIDTH), TEXT_WIDTH, generator).to(device)
    segmenter = _build_segmenter(grid).to(device)
    plain = PlainSegmentation(adapter, segmenter).to(device)
    size = grid * IMAGE_SIZE // GRID
    image = torch.randn(batch_size, IMAGE_WIDTH, grid, grid, generator=generator).to(device)
    text = torch.randn(batch_size, TEXT_WIDTH, generator=generator).to(device)
    mask = (torch.rand(batch_size, 4 * grid, 4 * grid, generator=generator) > 0.5).float().to(device)
    box = torch.tensor([[0.2, 0.25, 0.7, 0.8]], device=device).expand(batch_size, -1) * size
    leaf = image.clone().requires_grad_()

    def run_ours() -> Tensor:
        return _finish(segmenter(adapter(image, text).image_embedding, box), mask)

    def run_plain() -> Tensor:
        return _finish(plain(image, text, box), mask)

    def run_limit() -> Tensor:
        return _finish(segmenter(leaf, box), mask)

    _check_same(run_ours, run_plain, adapter)
    return measure(
        "step",
        f"{batch_size} x {grid}x{grid}x{IMAGE_WIDTH}, fp32, {device}, {torch.get_num_threads()} threads",
        {
            (PLAIN, "nn.MultiheadAttention, segment_anything's decoder case by case"): run_plain,
            (OURS, "low-rank attention, batched decode"): run_ours,
            (LIMIT, "batched decode alone, forward and backward"): run_limit,
        },
        repeats,
    )


def _finish(low_res_logits: Tensor, mask: Tensor) -> Tensor:
    loss = (compute_dice_loss(low_res_logits, mask) + compute_bce_loss(low_res_logits, mask)).mean()
    loss.backward()
    if loss.is_cuda:
        torch.cuda.synchronize()
    return loss.detach()


def _check_same(ours: Callable[[], Tensor], plain: Callable[[], Tensor], adapter: torch.nn.Module) -> None:
    shared = adapter.get_parameter("levels.fine.text_projection.0.weight")
    found = []
    for way in (ours, plain):
        adapter.zero_grad(set_to_none=True)
        loss = way()
        assert shared.grad is not None
        found.append((loss, shared.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=2e-3, atol=1e-5)


def _build_segmenter(grid: int) -> BoxSegmenter:
    """Build SAM's own prompt encoder and mask decoder (segment_anything/build_sam.py) with random weights."""
    declare_missing_operators()
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = grid * IMAGE_SIZE // GRID
        prompt_encoder = PromptEncoder(IMAGE_WIDTH, (grid, grid), (size, size), 16)
        transformer = TwoWayTransformer(depth=2, embedding_dim=IMAGE_WIDTH, mlp_dim=2048, num_heads=8)
        mask_decoder = MaskDecoder(transformer_dim=IMAGE_WIDTH, transformer=transformer)
    return BoxSegmenter(prompt_encoder, mask_decoder)
