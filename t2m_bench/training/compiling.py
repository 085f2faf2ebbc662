"""torch.compile as an option: the same results within rounding, and training goes on without it where it fails."""

import sys

import torch

from t2m_bench.config import IMAGE_WIDTH
from t2m_bench.models.fusion import FusionAdapter
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.training.ranks import Ranks

NOT_ASKED = "not asked"
COMPILED = "compiled"


def compile_forward(
    adapter: FusionAdapter, segmenter: BoxSegmenter, text_width: int, grid: int, num_cases: int, ranks: Ranks
) -> str:
    """Compile the adapter and the frozen decoder, in place; return COMPILED or why not.

    A step on blank cases shows whether the compiler works here, before training depends on it: on a CPU it needs a C++
    compiler. It takes a minute or more, once a machine; torch keeps what it compiled.

    Args:
        text_width: E. grid: h = w of the image embedding. num_cases: B, as training will have it.
    """
    modules = (adapter, segmenter)
    try:
        for module in modules:
            module.compile()
        _try_step(adapter, segmenter, text_width, grid, num_cases, ranks)
    except Exception as error:  # whatever a compiler, a driver or a missing header brings up
        for module in modules:
            module._compiled_call_impl = None  # what Module.compile set
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if ranks.is_first:
            print(f"t2m-bench: torch.compile fails here, training goes on without ({reason})", file=sys.stderr)
        return f"failed: {reason}"
    return COMPILED


def _try_step(
    adapter: FusionAdapter, segmenter: BoxSegmenter, text_width: int, grid: int, num_cases: int, ranks: Ranks
) -> None:
    blank = torch.zeros(num_cases, IMAGE_WIDTH, grid, grid, device=ranks.device)
    box_xyxy = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=ranks.device).repeat(num_cases, 1)
    with ranks.autocast():
        fused = adapter(blank, torch.zeros(num_cases, text_width, device=ranks.device))
        low_res_logits = segmenter(fused.image_embedding, box_xyxy)
    parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    torch.autograd.grad(low_res_logits.float().mean(), parameters, allow_unused=True)
