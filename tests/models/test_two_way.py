import pytest
import torch
from segment_anything.modeling import TwoWayTransformer

from t2m_bench.models.two_way import run_two_way

KEPT = 1


@pytest.fixture
def transformer() -> TwoWayTransformer:
    torch.manual_seed(0)
    built = TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=32, num_heads=4)
    with torch.no_grad():
        for parameter in built.parameters():  # biases too: SAM's start at zero would hide a lost one
            parameter.normal_(std=0.2)
    return built


def run_both(transformer: TwoWayTransformer, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Return values and gradients by image, tokens and every weight, of ours and of segment_anything's own forward."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 64, 5, 6, generator=generator).requires_grad_()
    tokens = torch.randn(2, 7, 64, generator=generator).requires_grad_()
    image_pe = torch.randn(1, 64, 5, 6, generator=generator)
    positions = image_pe[0].flatten(1).mT
    weigh = torch.randn(2, 64, generator=generator), torch.randn(2, 30, 64, generator=generator)
    leaves = [image, tokens, *transformer.parameters()]
    results = []
    for ours in (True, False):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            if ours:
                token, out = run_two_way(transformer, image.flatten(2).mT, positions, tokens, KEPT)
            else:
                hidden, out = transformer(image, image_pe.expand(2, -1, -1, -1), tokens)
                token = hidden[:, KEPT]
        objective = (token.float() * weigh[0]).sum() + (out.float() * weigh[1]).sum()
        gradients = torch.autograd.grad(objective, leaves, allow_unused=True)
        gradients = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)]
        results.append([token.float(), out.float(), *gradients])
    return results


def test_it_equals_segment_anythings_transformer_in_values_and_gradients(transformer: TwoWayTransformer) -> None:
    for got, want in zip(*run_both(transformer, torch.float32), strict=True):
        error, largest = (got - want).abs().max().item(), want.abs().max().item()
        assert error <= 2e-5 * max(1.0, largest)


def test_it_agrees_in_bf16_within_that_types_rounding(transformer: TwoWayTransformer) -> None:
    ours, plain = run_both(transformer, torch.bfloat16)
    for got, want in zip(ours[:4], plain[:4], strict=True):  # values, gradients by image and tokens
        assert ((got - want).norm() / want.norm()).item() < 5e-2
