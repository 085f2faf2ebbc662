import pytest
import torch
from ranks_bench import make_adapter, make_batches, make_recipe, make_segmenter

from t2m_bench.models.arm import count_trainable_parameters
from t2m_bench.models.fusion import compute_lesion_features
from t2m_bench.models.losses import compute_bce_loss, compute_contrastive_loss, compute_dice_loss
from t2m_bench.models.text_prompt import COUNT_SPEED, NUM_TOKENS, TextPrompt
from t2m_bench.recipe.schema import AdapterSection, LossSection, Recipe
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.step import compute_gradients

KINDS = {"text_prompt": True, "text_prompt_free": False}
ALONE = ProcessGroup("no", use_gpu=False)


def make_recipe_of(kind: str, start: str = "frozen", **optim: object) -> Recipe:
    recipe = make_recipe(**optim)
    return recipe.model_copy(update={"adapter": AdapterSection(kind=kind, start=start)})


def make_arm(kind: str, start: str = "frozen", count: float = 0.5) -> TextPrompt:
    """Return an arm whose tokens count as much as is said, so that all its parameters matter."""
    arm = make_adapter(make_recipe_of(kind, start))
    assert isinstance(arm, TextPrompt)
    if arm.count_raw is not None:
        arm.count_raw.data.fill_(float(torch.tensor(count).logit()) / COUNT_SPEED)
    return arm


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["default", "published"])
def test_the_arm_is_small(kind: str, preset: str) -> None:
    arm = TextPrompt(768, AdapterSection(kind=kind, preset=preset))
    assert 50_000 < count_trainable_parameters(arm) <= 500_000


@pytest.mark.parametrize(("kind", "has_text"), KINDS.items())
@pytest.mark.parametrize("start", ["frozen", "unscaled"])
def test_the_text_reaches_the_mask_by_the_tokens_alone(kind: str, has_text: bool, start: str) -> None:
    arm, segmenter = make_arm(kind, start), make_segmenter()
    image, texts = torch.randn(2, 256, 4, 4), torch.randn(2, 768)
    box = torch.tensor([[8.0, 8.0, 50.0, 40.0]]).repeat(2, 1)
    outputs = [arm(image, text) for text in (texts, texts.flip(0))]
    assert all(torch.equal(output.image_embedding, image) for output in outputs)
    assert all(output.sparse_tokens.shape == (2, NUM_TOKENS, 256) for output in outputs)
    one, other = (segmenter(image, box, *output.sparse_prompt) for output in outputs)
    assert torch.equal(one, other) != has_text
    assert not torch.allclose(one, segmenter(image, box), atol=1e-3)


@pytest.mark.parametrize("micro_batch_size", [16, 6])
@pytest.mark.parametrize("start", ["frozen", "unscaled"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_plain_autograd_through_the_whole(kind: str, start: str, micro_batch_size: int) -> None:
    recipe = make_recipe_of(kind, start, micro_batch_size=micro_batch_size)
    batches, segmenter, loss = make_batches(recipe), make_segmenter(), recipe.loss
    arm, micro_batches = make_arm(kind, start), list(batches.make(0, 0, 0, 1))
    compute_gradients(arm, segmenter, micro_batches, 16, loss, ALONE)

    plain, objective = make_arm(kind, start), torch.zeros(())
    lesions, texts, classes = [], [], []
    for batch in micro_batches:
        output = plain(batch.image_embedding, batch.text_embedding)
        logits = segmenter(output.image_embedding, batch.box_xyxy, output.sparse_tokens, output.sparse_bias)
        objective = objective + loss.dice_weight * compute_dice_loss(logits, batch.mask_low_res).sum() / 16
        objective = objective + loss.bce_weight * compute_bce_loss(logits, batch.mask_low_res).sum() / 16
        lesions.append(compute_lesion_features(batch.image_embedding, batch.mask_low_res))
        texts.append(output.text_features)
        classes.append(batch.text_class)
    if plain.has_text_loss:
        pool = torch.cat(lesions), torch.cat(texts), torch.cat(classes)
        objective = objective + loss.contrastive_weight * compute_contrastive_loss(*pool, loss.temperature)
    objective.backward()
    for (name, got), want in zip(arm.named_parameters(), plain.parameters(), strict=True):
        assert want.grad is not None
        assert want.grad.any(), name
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: name + text)


def test_the_contrastive_loss_trains_the_projection_alone() -> None:
    recipe = make_recipe_of("text_prompt")
    arm, micro_batches = make_arm("text_prompt"), list(make_batches(recipe).make(0, 0, 0, 1))
    loss = LossSection(dice_weight=0.0, bce_weight=0.0)
    compute_gradients(arm, make_segmenter(), micro_batches, 16, loss, ALONE)
    moved = {name.split(".")[0] for name, parameter in arm.named_parameters() if parameter.grad.any()}
    assert moved == {"text_projection"}


def test_bf16_gives_the_gradients_of_fp32_within_its_rounding() -> None:
    recipe = make_recipe_of("text_prompt")
    micro_batches, gradients = list(make_batches(recipe).make(0, 0, 0, 1)), []
    for precision in ("no", "bf16"):
        arm = make_arm("text_prompt")
        compute_gradients(arm, make_segmenter(), micro_batches, 16, recipe.loss, ProcessGroup(precision, False))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in arm.parameters()]))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.05
