from copy import deepcopy

import pytest
import torch
from ranks_bench import make_batches, make_recipe, make_segmenter

from t2m_bench.models.arm import BuildContext, Built
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.models.tuned_fusion import build_tuned_fusion
from t2m_bench.recipe.schema import AdapterSection
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.step import compute_gradients

KINDS = {"tuned_hierarchical": True, "tuned_text_free": False}


def build(kind: str, frozen: BoxSegmenter) -> Built:
    adapter = AdapterSection(kind=kind)
    return build_tuned_fusion(BuildContext(adapter, 768, 0, torch.Generator().manual_seed(0), frozen))


@pytest.mark.parametrize(("kind", "has_text"), KINDS.items())
def test_adapter_and_decoder_train_together_and_the_frozen_decoder_stays(kind: str, has_text: bool) -> None:
    recipe, frozen = make_recipe(), make_segmenter()
    before = deepcopy(frozen.state_dict())
    built, batches = build(kind, frozen), make_batches(recipe)
    assert (built.arm.uses_text, built.arm.has_text_loss) == (has_text, has_text)
    assert built.arm.gates().keys() == {"coarse", "fine"}
    micro_batches = list(batches.make(0, 0, 0, 1))
    ranks = ProcessGroup("no", use_gpu=False)
    losses = compute_gradients(built.arm, built.segmenter, micro_batches, batches.count_cases(0), recipe.loss, ranks)
    assert (losses.contrastive_loss > 0) == has_text
    trained = {name.split(".")[0] for name, parameter in built.arm.named_parameters() if parameter.grad.any()}
    assert trained == {"adapter", "parts"}
    with torch.no_grad():
        for parameter in built.arm.parameters():
            parameter -= 1e-2 * parameter.grad
    image, box = micro_batches[0].image_embedding, micro_batches[0].box_xyxy
    assert not torch.equal(built.segmenter(image, box), frozen(image, box)), "the decode must read what is trained"
    assert all(torch.equal(frozen.state_dict()[name], value) for name, value in before.items())


def test_the_text_reaches_the_mask_of_the_arm_with_text_alone() -> None:
    frozen = make_segmenter()
    image, texts = torch.randn(2, 256, 4, 4), torch.randn(2, 768)
    for kind, has_text in KINDS.items():
        arm = build(kind, frozen).arm
        with torch.no_grad():
            for name, parameter in arm.named_parameters():
                if name.endswith("norm.weight"):  # the branch starts at nothing
                    parameter.fill_(1.0)
        one, other = (arm(image, text).image_embedding for text in (texts, texts.flip(0)))
        assert torch.equal(one, other) != has_text
