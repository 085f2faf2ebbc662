from copy import deepcopy

import torch
from ranks_bench import make_batches, make_recipe, make_segmenter

from t2m_bench.models.tuned_decoder import TunedDecoder
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.step import compute_gradients


def test_every_parameter_takes_a_gradient_and_the_frozen_decoder_stays() -> None:
    recipe, frozen = make_recipe(), make_segmenter()
    before = deepcopy(frozen.state_dict())
    own = deepcopy(frozen)
    arm, batches = TunedDecoder(own), make_batches(recipe)
    micro_batches = list(batches.make(0, 0, 0, 1))
    image, box = micro_batches[0].image_embedding, micro_batches[0].box_xyxy
    untouched = own(arm(image, image).image_embedding, box)
    torch.testing.assert_close(untouched, frozen(image, box))
    compute_gradients(arm, own, micro_batches, batches.count_cases(0), recipe.loss, ProcessGroup("no", use_gpu=False))
    names = [name for name, parameter in arm.named_parameters() if not parameter.grad.any()]
    # the bias of attention keys moves all logits of a query alike, so its gradient is zero but for rounding
    assert all("k_proj.bias" in name for name in names)
    with torch.no_grad():
        for parameter in arm.parameters():
            parameter -= 1e-2 * parameter.grad
    assert not torch.equal(own(image, box), untouched), "the decode must read what is trained"
    assert all(torch.equal(frozen.state_dict()[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_gradients_of_the_upscaling_under_bf16_autocast_are_near_fp32() -> None:
    torch.manual_seed(0)
    own = make_segmenter(grid=32)
    arm = TunedDecoder(own)
    image, weight = torch.randn(1, 256, 32, 32), torch.rand(1, 128, 128)
    found = []
    for enabled in (False, True):
        arm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = own(image, torch.tensor([[40.0, 60.0, 300.0, 400.0]]))
        (logits.float() * weight).mean().backward()
        norm = own.mask_decoder.output_upscaling[1]
        found.append([norm.weight.grad.clone(), norm.bias.grad.clone()])
    for exact, rounded in zip(*found, strict=True):
        assert (rounded - exact).norm() < 0.05 * exact.norm()
