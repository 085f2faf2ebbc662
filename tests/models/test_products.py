import pytest
import torch
from torch import Tensor

from t2m_bench.models.products import add_weighted_rows, channel_dot, rows_times_tokens, to_tokens

FORMULAS = {
    "rows_times_tokens": (rows_times_tokens, lambda rows, tokens: rows @ tokens.mT, [(2, 3, 5), (2, 7, 5)]),
    "add_weighted_rows": (
        add_weighted_rows,
        lambda tokens, shares, rows: tokens + shares.mT @ rows,
        [(2, 7, 5), (2, 3, 7), (2, 3, 5)],
    ),
    "channel_dot": (
        channel_dot,
        lambda channels, weights: torch.einsum("bmc,bc->bm", channels, weights),
        [(2, 7, 3), (2, 3)],
    ),
}


def draw(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    ours, formula, shapes = FORMULAS[name]
    inputs = draw(shapes, torch.float64)
    torch.testing.assert_close(ours(*inputs), formula(*inputs))
    assert torch.autograd.gradcheck(ours, inputs)


@pytest.mark.parametrize("name", FORMULAS)
def test_under_autocast_gradients_keep_the_inputs_type(name: str) -> None:
    ours, formula, shapes = FORMULAS[name]
    inputs = draw(shapes, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = ours(*inputs)
    want = formula(*inputs)
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=5e-2)
    got_gradients = torch.autograd.grad(got.float().square().sum(), inputs)
    want_gradients = torch.autograd.grad(want.square().sum(), inputs)
    for got_one, want_one in zip(got_gradients, want_gradients, strict=True):
        assert got_one.dtype == torch.float32
        torch.testing.assert_close(got_one, want_one, rtol=5e-2, atol=5e-1)


def test_the_residual_stays_in_full_precision_under_autocast() -> None:
    tokens = torch.full((1, 4, 2), 1.0 + 2**-12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        summed = add_weighted_rows(tokens, torch.zeros(1, 3, 4), torch.zeros(1, 3, 2))
    assert torch.equal(summed, tokens)


def test_tokens_are_the_pixels_of_the_grid_in_reading_order() -> None:
    embedding = torch.arange(24.0).view(1, 2, 3, 4)
    tokens = to_tokens(embedding)
    assert tokens.is_contiguous()
    assert tokens[0, 5].tolist() == embedding[0, :, 1, 1].tolist()
