import pytest
import torch
from segment_anything.modeling.transformer import Attention
from torch import nn

from t2m_bench.models.arm import count_trainable_parameters
from t2m_bench.models.fusion import FusionAdapter, LowRankCrossAttention, build_adapter, compute_lesion_features
from t2m_bench.recipe.schema import AdapterSection, OptimSection
from t2m_bench.training.optim import build_optimizer


def adapter_section(**fields: object) -> AdapterSection:
    return AdapterSection.model_validate(fields)


def copy_into_multihead(ours: LowRankCrossAttention) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(256, ours.heads, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        reference.out_proj.weight.copy_(ours.out.weight)
        reference.out_proj.bias.copy_(ours.out.bias)
    return reference


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1)


@pytest.mark.parametrize(("num_tokens", "heads"), [(1, 4), (2, 8), (3, 2)])
def test_attention_equals_multihead_attention(num_tokens: int, heads: int) -> None:
    torch.manual_seed(0)
    ours = LowRankCrossAttention(256, 256, heads)
    randomise(ours)
    reference = copy_into_multihead(ours)
    image = torch.randn(2, 64, 256, requires_grad=True)
    text = torch.randn(2, num_tokens, 256, requires_grad=True)
    got = ours(image, text).expand(-1, 64, -1)
    want = reference(image, text, text, need_weights=False)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(want)
    want_image, want_text = torch.autograd.grad((want * weight).sum(), (image, text))
    got_image, got_text = torch.autograd.grad((got * weight).sum(), (image, text), allow_unused=True)
    torch.testing.assert_close(got_text, want_text, rtol=1e-3, atol=1e-4)
    got_image = torch.zeros_like(image) if got_image is None else got_image  # K = 1: the image has no say
    torch.testing.assert_close(got_image, want_image, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_attention_in_bf16_is_as_near_to_fp32_as_multihead_attention_is(num_tokens: int) -> None:
    torch.manual_seed(7)
    ours = LowRankCrossAttention(256, 256, 8)
    randomise(ours)
    reference = copy_into_multihead(ours)
    image, text, weight = torch.randn(2, 64, 256), torch.randn(2, num_tokens, 256), torch.randn(2, 64, 256)

    def measure(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        module.zero_grad()
        inputs = [each.detach().clone().to(dtype).requires_grad_() for each in (image, text)]
        module.to(dtype)
        is_ours = module is ours
        out = module(*inputs).expand(-1, 64, -1) if is_ours else module(*inputs, inputs[1], need_weights=False)[0]
        (out * weight.to(dtype)).sum().backward()
        found = {"out": out, "text": inputs[1].grad}
        found["out weight"] = module.out.weight.grad if is_ours else module.out_proj.weight.grad
        found["value weight"] = module.value.weight.grad if is_ours else module.in_proj_weight.grad[512:]
        if num_tokens > 1:  # of one token the image has no say, nor do query and key
            found["image"] = inputs[0].grad
            found["key weight"] = module.key.weight.grad if is_ours else module.in_proj_weight.grad[256:512]
        return {name: value.detach().float().clone() for name, value in found.items()}

    exact = measure(reference, torch.float32)
    theirs, got = measure(reference, torch.bfloat16), measure(ours, torch.bfloat16)
    for name, want in exact.items():
        errors = [float((found[name] - want).norm() / want.norm()) for found in (got, theirs)]
        assert errors[0] < max(2 * errors[1], 0.01), (name, errors)
        assert errors[0] < 0.05, (name, errors)


def test_parameter_gradients_equal_multihead_attention() -> None:
    torch.manual_seed(1)
    ours = LowRankCrossAttention(256, 256, 8)
    randomise(ours)
    reference = copy_into_multihead(ours)
    image, text = torch.randn(2, 30, 256), torch.randn(2, 2, 256)
    ours(image, text).square().sum().backward()
    reference(image, text, text)[0].square().sum().backward()
    got = torch.cat([ours.query.weight.grad, ours.key.weight.grad, ours.value.weight.grad])
    torch.testing.assert_close(got, reference.in_proj_weight.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.out.weight.grad, reference.out_proj.weight.grad, rtol=1e-3, atol=1e-3)


def test_half_inner_width_equals_sams_attention() -> None:
    torch.manual_seed(2)
    ours = LowRankCrossAttention(256, 128, 8)
    randomise(ours)
    reference = Attention(256, 8, downsample_rate=2)
    pairs = {"q_proj": ours.query, "k_proj": ours.key, "v_proj": ours.value, "out_proj": ours.out}
    for name, layer in pairs.items():
        getattr(reference, name).load_state_dict(layer.state_dict())
    image, text = torch.randn(2, 49, 256), torch.randn(2, 2, 256)
    torch.testing.assert_close(ours(image, text), reference(image, text, text), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["branch", "output"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_norm_forms_follow_their_formula(norm: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    adapter = FusionAdapter(768, adapter_section(kind="gated", preset="published", norm=norm, gated={"gate_init": 0.7}))
    randomise(adapter.levels["gated"].attention)
    level = adapter.levels["gated"].to(dtype)
    image = torch.randn(2, 256, 4, 4, dtype=dtype)
    text = torch.randn(2, 768, dtype=dtype)
    tokens = image.flatten(2).transpose(1, 2)
    key = level.text_projection(text)[:, None]
    attended = copy_into_multihead(level.attention).to(dtype)(tokens, key, key)[0]
    gate = torch.tensor(0.7, dtype=dtype)
    forms = {"branch": tokens + gate * level.norm(attended), "output": level.norm(tokens + gate * attended)}
    got = adapter.to(dtype)(image, text).image_embedding.flatten(2).transpose(1, 2)
    tolerance = 1e-4 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(got, forms[norm], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["gated", "hierarchical"])
def test_gradients_under_bf16_autocast_are_near_fp32_however_many_tokens_they_sum(kind: str) -> None:
    adapter = build_adapter(adapter_section(kind=kind), 768, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    image, text, weight = torch.randn(1, 256, 64, 64), torch.randn(1, 768), torch.randn(1, 256, 64, 64)
    found = []
    for enabled in (False, True):
        adapter.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            fused = adapter(image, text).image_embedding
        (fused * (weight + 0.5)).mean().backward()
        found.append(
            {
                name: parameter.grad.clone()
                for name, parameter in adapter.named_parameters()
                if parameter.grad is not None
            }
        )
    exact, rounded = found
    whole = torch.stack([gradient.norm() for gradient in exact.values()]).norm()
    for name, wanted in exact.items():
        error = (rounded[name] - wanted).norm() / max(wanted.norm(), 1e-3 * whole)
        assert error < 0.05, (name, float(error))


def test_published_preset_has_the_published_parameter_counts() -> None:
    gated = FusionAdapter(768, adapter_section(kind="gated", preset="published"))
    hierarchical = FusionAdapter(768, adapter_section(kind="hierarchical", preset="published"))
    assert count_trainable_parameters(gated) == 526_337
    assert count_trainable_parameters(hierarchical) == 1_118_466


def test_default_hierarchical_stays_small_and_text_free_differs_by_its_constant() -> None:
    hierarchical = FusionAdapter(768, adapter_section(kind="hierarchical"))
    text_free = FusionAdapter(768, adapter_section(kind="text_free"))
    assert count_trainable_parameters(hierarchical) <= 500_000
    assert count_trainable_parameters(text_free) == count_trainable_parameters(hierarchical) + 768


def test_gate_init_is_the_opening() -> None:
    adapter = FusionAdapter(768, adapter_section(kind="hierarchical"))
    assert adapter.gates() == pytest.approx({"coarse": 0.5, "fine": 0.8})


@pytest.mark.parametrize("norm", ["branch", "output"])
@pytest.mark.parametrize("kind", ["gated", "hierarchical", "text_free"])
def test_training_moves_every_gate(kind: str, norm: str) -> None:
    adapter = build_adapter(adapter_section(kind=kind, norm=norm), 768, torch.Generator().manual_seed(0))
    torch.manual_seed(8)
    image, text, weight = torch.randn(2, 256, 4, 4), torch.randn(2, 768), torch.randn(2, 256, 4, 4)
    before, optimizer = adapter.gates(), build_optimizer(adapter, OptimSection())
    (adapter(image, text).image_embedding * weight).sum().backward()
    optimizer.step()
    after = adapter.gates()
    assert [name for name in before if after[name] != before[name]] == list(before)


def test_text_free_ignores_the_text_and_the_others_do_not() -> None:
    torch.manual_seed(4)
    image, texts = torch.randn(1, 256, 4, 4), torch.randn(2, 1, 768)
    for kind in ("text_free", "gated", "hierarchical"):
        adapter = FusionAdapter(768, adapter_section(kind=kind))
        first, second = (adapter(image, text).image_embedding for text in texts)
        assert torch.equal(first, second) == (kind == "text_free")


def test_the_start_depends_on_the_generator_alone() -> None:
    section = adapter_section(kind="hierarchical")
    torch.manual_seed(5)
    first = build_adapter(section, 768, torch.Generator().manual_seed(7))
    torch.manual_seed(6)
    state = torch.get_rng_state()
    second = build_adapter(section, 768, torch.Generator().manual_seed(7))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_lesion_features_average_the_lesion_only() -> None:
    embedding = torch.zeros(1, 256, 2, 2)
    embedding[0, :, 0, 0], embedding[0, :, 1, 1] = 3.0, 9.0
    mask = torch.zeros(1, 8, 8)
    mask[0, :4, :4] = 1.0
    torch.testing.assert_close(compute_lesion_features(embedding, mask), torch.full((1, 256), 3.0))


@pytest.mark.parametrize("kind", ["text_free", "text_train_only"])
def test_arms_with_a_constant_ignore_the_text_they_are_given(kind: str) -> None:
    adapter = build_adapter(AdapterSection(kind=kind), 768, torch.Generator().manual_seed(0))
    image = torch.randn(2, 256, 4, 4)
    one, other = (adapter(image, torch.randn(2, 768)) for _ in range(2))
    assert torch.equal(one.image_embedding, other.image_embedding)
    assert not adapter.uses_text
    # the contrastive loss of text_train_only still sees the real text, that of text_free none
    assert torch.equal(one.text_features, other.text_features) == (kind == "text_free")
    assert adapter.has_text_loss == (kind == "text_train_only")


def test_text_at_the_input_alone_is_the_method_without_its_loss() -> None:
    """Same parameters from one seed, same embedding of one text; only the contrastive loss is gone."""
    both, input_alone = (
        build_adapter(adapter_section(kind=kind), 768, torch.Generator().manual_seed(0))
        for kind in ("hierarchical", "text_input_only")
    )
    assert input_alone.uses_text
    assert not input_alone.has_text_loss
    input_alone.load_state_dict(both.state_dict())
    image, text = torch.randn(2, 256, 4, 4), torch.randn(2, 768)
    assert torch.equal(both(image, text).image_embedding, input_alone(image, text).image_embedding)


def test_a_label_is_one_learned_vector_and_fields_are_averaged() -> None:
    adapter = build_adapter(AdapterSection(kind="label"), 768, torch.Generator().manual_seed(0), num_labels=5)
    image = torch.randn(1, 256, 4, 4)
    mean = torch.tensor([[0.5, 0.0, 0.0, 0.5, 0.0]])  # one value of each of two fields
    fused = adapter(image, mean).image_embedding
    plain = build_adapter(AdapterSection(kind="hierarchical"), 768, torch.Generator().manual_seed(1))
    plain.load_state_dict({k: v for k, v in adapter.state_dict().items() if k != "label_vectors"})
    vectors = adapter.get_parameter("label_vectors")
    torch.testing.assert_close(fused, plain(image, (vectors[0] + vectors[3])[None] / 2).image_embedding)
    fused.sum().backward()
    moved = vectors.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [True, False, False, True, False]
