import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from t2m_bench.models.segmenter import BoxSegmenter, compute_mask_probability


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


def test_it_stays_frozen_and_in_evaluation_mode(parts: tuple[PromptEncoder, MaskDecoder]) -> None:
    segmenter = BoxSegmenter(*parts).train()
    assert not any(module.training for module in segmenter.modules())
    assert not any(parameter.requires_grad for parameter in segmenter.parameters())


def test_probability_is_resized_to_the_original_shape() -> None:
    logits = torch.full((4, 4), -20.0)
    logits[:, 2:] = 20.0
    probability = compute_mask_probability(logits, 6, 8)
    assert probability.shape == (6, 8)
    assert (probability > 0.5)[:, :4].sum() == 0
    assert (probability > 0.5)[:, 4:].all()
