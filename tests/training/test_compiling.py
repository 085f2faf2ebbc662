"""torch.compile by its real compiler: equal results, and a way on where it fails."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks_bench import make_adapter, make_batches, make_recipe, make_segmenter

from t2m_bench.training.compiling import COMPILED, compile_forward
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.step import compute_gradients

IMAGE_SHAPE = (256, 4, 4)
WITHOUT_COMPILER = """
import sys
sys.path[:0] = sys.argv[1:]
from test_compiling import compute_step
losses, gradient, how = compute_step("gated", compiled=True)
plain, wanted, _ = compute_step("gated", compiled=False)
assert losses == plain and gradient.equal(wanted)
print(how)
"""


def compute_step(kind: str, compiled: bool) -> tuple[list[float], torch.Tensor, str]:
    """Return losses, the flat gradient of a global batch in two micro-batches of unequal size, and how it went."""
    torch.set_num_threads(1)
    recipe = make_recipe(micro_batch_size=10).with_arm(kind, seed=0)
    ranks, adapter, segmenter = ProcessGroup("no", use_gpu=False), make_adapter(recipe), make_segmenter()
    how = compile_forward(adapter, segmenter, 768, IMAGE_SHAPE, 10, ranks) if compiled else ""
    batches = make_batches(recipe)
    losses = compute_gradients(
        adapter, segmenter, list(batches.make(0, 0, 0, 1)), batches.count_cases(0), recipe.loss, ranks
    )
    gradient = torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()])
    return list(vars(losses).values()), gradient, how


@pytest.mark.soak  # a minute of compiling and more
@pytest.mark.parametrize("kind", ["gated", "hierarchical"])
def test_a_compiled_step_is_the_plain_one_within_rounding(kind: str) -> None:
    plain, wanted, _ = compute_step(kind, compiled=False)
    losses, gradient, how = compute_step(kind, compiled=True)
    assert how == COMPILED
    assert losses == pytest.approx(plain, rel=1e-5)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_without_a_compiler_training_goes_on_and_says_so(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, here, here.parent / "helpers"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("failed: ")
    assert "torch.compile" in done.stderr
