"""One training step of the hierarchical adapter: plain, ours, and the frozen decoder alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from t2m_bench.models.fusion import FusionAdapter
from t2m_bench.models.segmenter import split_for_cache
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, measure
from t2m_bench.perf.plain import PlainLevel, PlainSegmentation, compute_plain_loss
from t2m_bench.perf.problem import FULL_GRID, MINI_GRID, Alone, make_problem
from t2m_bench.recipe.schema import IMAGE_WIDTH, LossSection
from t2m_bench.training.step import accumulate_gradients

REPEATS, BATCH_SIZE, MINI_BATCH_SIZE = 5, 4, 16


def measure_step(device: str) -> Measurement:
    """Measure in fp32 on 64x64 tokens, on mini's 16x16, and in bf16.

    Raises:
        AssertionError: the two ways do not give the same loss and gradient; then no time means anything.
    """
    mini = measure_one(device, MINI_BATCH_SIZE, MINI_GRID, False, REPEATS)
    bf16 = measure_one(device, BATCH_SIZE if _has_bf16_instructions(device) else 1, FULL_GRID, True, REPEATS)
    return measure_one(device, BATCH_SIZE, FULL_GRID, False, REPEATS).with_others(mini, bf16)


def measure_one(device: str, batch_size: int, grid: int, bf16: bool, repeats: int) -> Measurement:
    """Measure loss and gradient of Dice, cross-entropy and the contrastive term, the same weights in all ways."""
    group = Alone(torch.device(device), bf16)
    problem = make_problem(group.device, batch_size, grid)
    adapter, segmenter, batch = problem.adapter, problem.segmenter, problem.batch
    plain = PlainSegmentation(adapter, segmenter).to(device)
    image_embedding = batch.image_embedding.contiguous()  # as a loader that knows of no other layout gives it

    def run_ours() -> float:
        losses = accumulate_gradients(adapter, segmenter, [batch], batch_size, LossSection(), group)
        return losses.total(LossSection())

    def run_plain() -> float:
        with group.autocast():
            outputs = plain(image_embedding, batch.text_embedding, batch.box_xyxy)
        loss = compute_plain_loss(outputs, batch.mask_low_res, batch.text_class)
        loss.backward()
        return float(loss.detach())

    def run_limit() -> None:
        for rows in split_for_cache(batch.image_embedding):
            part = batch.image_embedding[rows].detach().requires_grad_()
            with group.autocast():
                low_res_logits = segmenter(part, batch.box_xyxy[rows])
            torch.autograd.grad(low_res_logits.float().sum(), part)
        if device == "cuda":
            torch.cuda.synchronize()  # the other ways wait for their losses

    check_same(run_ours, run_plain, adapter, plain, bf16)
    ways = {
        (PLAIN, "nn.MultiheadAttention, segment_anything's decoder case by case"): run_plain,
        (OURS, "low-rank attention in adapter and decoder, one mask, upscaling multiplied out"): run_ours,
        (LIMIT, "our decode alone, forward and backward"): run_limit,
    }
    precision = "bf16" if bf16 else "fp32"
    setting = f"{batch_size} x {grid}x{grid}x{IMAGE_WIDTH}, {precision}, {device}, {torch.get_num_threads()} threads"
    return measure(f"step {grid}x{grid} {precision}", setting, ways, repeats)


def _has_bf16_instructions(device: str) -> bool:
    """Return whether the device has bf16 instructions; without them a CPU takes seconds for a case."""
    return device != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def check_same(
    ours: Callable[[], float],
    plain: Callable[[], float],
    adapter: FusionAdapter,
    plain_adapter: PlainSegmentation,
    bf16: bool,
) -> None:
    """Compare losses and gradients of every trainable parameter.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    for module in (plain_adapter, adapter):  # they share all but the attention
        module.zero_grad(set_to_none=True)
    our_loss, our_gradients = ours(), _list_gradients(adapter)
    adapter.zero_grad(set_to_none=True)
    plain_loss = plain()
    plain_gradients = _list_gradients(adapter) | _list_attention_gradients(adapter, plain_adapter)
    tolerance = 0.1 if bf16 else 1e-3
    assert abs(our_loss - plain_loss) <= tolerance * abs(plain_loss), f"losses {our_loss} and {plain_loss}"
    whole = float(torch.stack([gradient.norm() for gradient in plain_gradients.values()]).norm())
    for name, wanted in plain_gradients.items():
        error = float((our_gradients[name] - wanted).norm())
        allowed = tolerance * max(float(wanted.norm()), 1e-3 * whole)
        assert error <= allowed, f"gradients of {name} differ by {error:.1e}, more than {allowed:.1e}"


def _list_gradients(adapter: FusionAdapter) -> dict[str, Tensor]:
    """Return name -> gradient, zero where the parameter takes no part: queries and keys of a single text token."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in adapter.named_parameters()
    }


def _list_attention_gradients(adapter: FusionAdapter, plain_adapter: PlainSegmentation) -> dict[str, Tensor]:
    """Return the gradients of torch's attention under the names that ours has."""
    found = {}
    for name, level in zip(adapter.levels, plain_adapter.levels, strict=True):
        assert isinstance(level, PlainLevel)
        attention = level.attention
        pairs = {"weight": (attention.in_proj_weight, attention.out_proj.weight)}
        pairs["bias"] = (attention.in_proj_bias, attention.out_proj.bias)
        for part, (projections, out) in pairs.items():
            assert projections.grad is not None
            assert out.grad is not None
            gradients = (*projections.grad.chunk(3), out.grad)
            for layer, gradient in zip(("query", "key", "value", "out"), gradients, strict=True):
                found[f"levels.{name}.attention.{layer}.{part}"] = gradient
    return found
