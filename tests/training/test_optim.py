import math

import pytest
import torch
from ranks_bench import make_adapter, make_recipe

from t2m_bench.training.optim import compute_learning_rate
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.updater import build_updater


def test_warm_up_is_linear_and_the_cosine_ends_at_zero() -> None:
    optim = make_recipe(warmup_steps=4, learning_rate=0.8).optim
    rates = [compute_learning_rate(step, 12, optim) for step in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == pytest.approx(0.8)  # progress 0 of the cosine
    assert rates[6] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))  # a quarter
    assert rates[8] == pytest.approx(0.4)  # half
    assert rates[10] == pytest.approx(0.4 * (1 - math.sqrt(0.5)))  # three quarters
    assert compute_learning_rate(12, 12, optim) == pytest.approx(0.0)
    assert compute_learning_rate(0, 4, optim) == pytest.approx(0.4)  # never longer than half of the run


@pytest.mark.parametrize(("norm", "kept"), [(50.0, 1 / 25), (0.5, 1.0)])
def test_gradients_are_clipped_to_the_norm_and_short_ones_left_alone(norm: float, kept: float) -> None:
    recipe = make_recipe(clip_norm=2.0)
    adapter = make_adapter(recipe)
    updater = build_updater(adapter, recipe.optim, ProcessGroup("no", use_gpu=False))
    generator = torch.Generator().manual_seed(0)
    gradients = {name: torch.randn(p.shape, generator=generator) for name, p in adapter.named_parameters()}
    length = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    for name, parameter in adapter.named_parameters():
        gradients[name] *= norm / length
        parameter.grad = gradients[name].clone()
    updater.update(1e-3)
    state = updater.get_state()
    for name, gradient in gradients.items():  # after one step AdamW's first moment is a tenth of the gradient it got
        torch.testing.assert_close(state[f"optimizer/exp_avg/{name}"], 0.1 * kept * gradient, rtol=1e-4, atol=1e-9)
