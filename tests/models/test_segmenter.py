import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from t2m_bench.data.frame import Frame
from t2m_bench.data.images import compute_tight_box
from t2m_bench.embedding.encode import compute_mask_low_res
from t2m_bench.models.segmenter import BoxSegmenter, restore_mask
from t2m_bench.recipe.encoders import Resized


@pytest.fixture
def parts() -> tuple[PromptEncoder, MaskDecoder]:
    torch.manual_seed(0)
    encoder = PromptEncoder(256, (8, 8), (128, 128), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=128, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 1:  # a norm's weight of 1 and a bias of 0 would hide that they are left out
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder, decoder


def test_batched_decode_equals_segment_anythings_loop(parts: tuple[PromptEncoder, MaskDecoder]) -> None:
    encoder, decoder = parts
    embedding = torch.randn(3, 256, 8, 8, requires_grad=True)
    boxes = torch.tensor([[4.0, 6.0, 90.0, 70.0], [20.0, 30.0, 60.0, 80.0], [0.0, 0.0, 128.0, 128.0]])
    got = BoxSegmenter(encoder, decoder)(embedding, boxes)
    rows = []
    for row, box in zip(embedding, boxes, strict=True):
        sparse, dense = encoder(points=None, boxes=box[None], masks=None)
        logits, _ = decoder(row[None], encoder.get_dense_pe(), sparse, dense, multimask_output=False)
        rows.append(logits[0, 0])
    want = torch.stack(rows)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(want)
    got_gradient = torch.autograd.grad((got * weight).sum(), embedding)[0]
    want_gradient = torch.autograd.grad((want * weight).sum(), embedding)[0]
    torch.testing.assert_close(got_gradient, want_gradient, rtol=1e-3, atol=1e-4)


BOXES = torch.tensor([[4.0, 6.0, 90.0, 70.0], [20.0, 30.0, 60.0, 80.0], [0.0, 0.0, 128.0, 128.0]])


def test_further_tokens_join_the_box_as_in_segment_anythings_decoder(parts: tuple[PromptEncoder, MaskDecoder]) -> None:
    encoder, decoder = parts
    embedding, tokens = torch.randn(3, 256, 8, 8), torch.randn(3, 2, 256, requires_grad=True)
    got = BoxSegmenter(encoder, decoder)(embedding, BOXES, tokens)
    rows = []
    for row, box, further in zip(embedding, BOXES, tokens, strict=True):
        sparse, dense = encoder(points=None, boxes=box[None], masks=None)
        sparse = torch.cat([sparse, further[None]], dim=1)
        rows.append(decoder(row[None], encoder.get_dense_pe(), sparse, dense, multimask_output=False)[0][0, 0])
    want = torch.stack(rows)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(want)
    gradients = [torch.autograd.grad((logits * weight).sum(), tokens)[0] for logits in (got, want)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_a_token_counts_as_many_times_as_its_bias_says(parts: tuple[PromptEncoder, MaskDecoder]) -> None:
    segmenter = BoxSegmenter(*parts)
    embedding, tokens = torch.randn(3, 256, 8, 8), torch.randn(3, 2, 256)

    def decode(tokens: torch.Tensor, *counts: float) -> torch.Tensor:
        return segmenter(embedding, BOXES, tokens, torch.tensor(counts).log().expand(3, -1))

    plain = segmenter(embedding, BOXES, tokens)
    torch.testing.assert_close(decode(tokens, 1, 1), plain, rtol=1e-4, atol=1e-5)
    thrice = segmenter(embedding, BOXES, tokens[:, [0, 0, 0, 1]])
    torch.testing.assert_close(decode(tokens, 3, 1), thrice, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        decode(tokens, 1e-30, 1), segmenter(embedding, BOXES, tokens[:, 1:]), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(decode(tokens, 0.5, 0.5), plain, atol=1e-3)


def test_no_further_token_leaves_the_decode_as_it_is_bit_for_bit(parts: tuple[PromptEncoder, MaskDecoder]) -> None:
    segmenter, embedding = BoxSegmenter(*parts), torch.randn(3, 256, 8, 8)
    alone = segmenter(embedding, BOXES)
    assert torch.equal(segmenter(embedding, BOXES, torch.zeros(3, 0, 256)), alone)
    assert torch.equal(segmenter(embedding, BOXES, torch.zeros(3, 0, 256), torch.zeros(3, 0)), alone)


def test_it_stays_frozen_and_in_evaluation_mode(parts: tuple[PromptEncoder, MaskDecoder]) -> None:
    segmenter = BoxSegmenter(*parts).train()
    assert not any(module.training for module in segmenter.modules())
    assert not any(parameter.requires_grad for parameter in segmenter.parameters())


HALF = torch.cat([torch.full((4, 2), -20.0), torch.full((4, 2), 20.0)], dim=1)


@pytest.mark.parametrize("resized", ["probability", "logits"])
def test_a_mask_comes_back_in_the_original_shape(resized: Resized) -> None:
    mask = restore_mask(HALF, Frame(16, 1, "stretch", resized), 6, 8)
    assert mask.shape == (6, 8)
    assert mask[:, 4:].all()
    assert not mask[:, :4].any()


def test_logits_and_probabilities_are_cut_at_other_places() -> None:
    """Probabilities saturate: a weak yes beside a strong no wins more ground among them than among logits."""
    logits = torch.tensor([[-20.0, 2.0]]).expand(4, -1).repeat_interleave(2, dim=1)
    by_probability = restore_mask(logits, Frame(16, 1, "stretch", "probability"), 400, 400)
    by_logits = restore_mask(logits, Frame(16, 1, "stretch", "logits"), 400, 400)
    assert by_probability.float().mean() > by_logits.float().mean() + 0.05


@pytest.mark.parametrize(("input_size", "grid"), [(256, 64), (1024, 64)])
@pytest.mark.parametrize(("height", "width"), [(300, 200), (200, 300), (77, 301), (256, 256)])
def test_a_mask_goes_into_a_padded_frame_and_comes_back(input_size: int, grid: int, height: int, width: int) -> None:
    frame = Frame(input_size, grid, "pad", "logits")
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : height // 2, width // 3 : 2 * width // 3] = True
    shares = torch.from_numpy(compute_mask_low_res(mask, frame)).float() / 255.0
    back = restore_mask(torch.logit(shares.clamp(1e-4, 1 - 1e-4)), frame, height, width).numpy()
    found, wanted = compute_tight_box(back), compute_tight_box(mask)
    coarse = max(1.0, max(height, width) / frame.low_res_size)
    assert np.abs(np.array(found) - np.array(wanted)).max() <= coarse
