import re
from pathlib import Path

import pytest
from messages import check_names

from t2m_bench.search.axes import find_idle_axes
from t2m_bench.search.sweep import load_sweep

DEMO = Path(__file__).resolve().parents[2] / "sweeps" / "demo.yaml"


def find(*overrides: str) -> list[str]:
    loaded = load_sweep(DEMO, overrides)
    return [str(axis) for axis in find_idle_axes(loaded.sweep, loaded.recipe)]


def test_the_demo_has_no_idle_axis() -> None:
    assert find() == []


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "sweep.space.adapter.coarse.heads={choices: [1, 2], when: {adapter.kind: hierarchical}}",
            {"token", "softmax"},
        ),
        ("sweep.space.adapter.gated.heads={choices: [1, 2], when: {adapter.kind: gated}}", {"token", "softmax"}),
        (
            "sweep.space.adapter.coarse.tokens={low: 1, high: 2, integer: true}",
            {"gated", "coarse", "{adapter.kind: hierarchical}"},
        ),
        ("sweep.space.optim.micro_batch_size={choices: [4, 16]}", {"global batch"}),
        ("sweep.space.optim.patience={low: 5, high: 9, integer: true}", {"epochs", 3}),
        (
            "sweep.space.adapter.norm={choices: [branch, output], when: {adapter.kind: tuned_decoder}}",
            {"always", "tuned_decoder", "no adapter"},
        ),
        (
            "sweep.space.adapter.coarse.tokens={choices: [1, 2], when: {adapter.kind: tuned_decoder}}",
            {"always", "tuned_decoder", "no coarse"},
        ),
        (
            "sweep.space.adapter.norm={choices: [branch, output], when: {adapter.kind: text_prompt}}",
            {"always", "text_prompt", "no adapter"},
        ),
        (
            "sweep.space.adapter.prompt.gate_init={choices: [0.2, 0.5]}",
            {"always", "gated", "hierarchical", "no prompt"},
        ),
        (
            "sweep.space.loss.temperature={low: 0.1, high: 0.5, when: {adapter.kind: text_free}}",
            {"text_free", "no contrastive"},
        ),
        (
            "sweep.space.loss.temperature={low: 0.1, high: 0.5, when: {adapter.kind: text_input_only}}",
            {"text_input_only", "no contrastive"},
        ),
    ],
)
def test_an_axis_that_cannot_matter_is_named_with_the_reason(override: str, named: set[object]) -> None:
    others = {"text_free", "text_input_only", "tuned_decoder", "text_prompt"} & set(re.findall(r"\w+", override))
    kinds = [f"sweep.space.adapter.kind.choices=[gated, hierarchical, {kind}]" for kind in others]
    axis = override.split("=")[0].removeprefix("sweep.")
    (sentence,) = [line for line in find(override, *kinds) if line.startswith(f"{axis}: ")]
    check_names(sentence, *named)


def test_the_gate_of_tokens_beside_the_box_matters_where_there_are_such() -> None:
    when = "when: {adapter.kind: text_prompt}"
    gate = f"sweep.space.adapter.prompt.gate_init={{low: 0.1, high: 0.9, {when}}}"
    start = f"sweep.space.adapter.start={{choices: [frozen, unscaled], {when}}}"
    assert find(gate, start, "sweep.space.adapter.kind.choices=[gated, hierarchical, text_prompt]") == []


def test_heads_matter_where_the_level_may_have_two_tokens() -> None:
    when = "when: {adapter.kind: hierarchical}"
    tokens = f"sweep.space.adapter.coarse.tokens={{low: 1, high: 2, integer: true, {when}}}"
    heads = f"sweep.space.adapter.coarse.heads={{choices: [1, 2], {when}}}"
    assert find(tokens, heads) == []


def test_the_weights_of_dice_and_bce_matter_without_a_text_too() -> None:
    weights = "sweep.space.loss={dice_weight: {low: 0.1, high: 1.0}, temperature: {low: 0.1, high: 0.5}}"
    sentences = find(weights, "sweep.space.adapter.kind.choices=[gated, hierarchical, text_free]")
    assert not [line for line in sentences if line.startswith("space.loss.dice_weight")]
    assert [line for line in sentences if line.startswith("space.loss.temperature")]


def test_the_adapters_own_arithmetic_agrees_about_one_token() -> None:
    """The claim behind the check: with one text token the heads change nothing, with two they do."""
    import torch

    from t2m_bench.models.fusion import LowRankCrossAttention

    torch.manual_seed(0)
    one, four = (LowRankCrossAttention(16, 8, heads) for heads in (1, 4))
    four.load_state_dict(one.state_dict())
    image, text = torch.randn(2, 9, 16), torch.randn(2, 2, 16)
    assert torch.allclose(one(image, text[:, :1]), four(image, text[:, :1]), atol=1e-6)
    assert not torch.allclose(one(image, text), four(image, text), atol=1e-3)
