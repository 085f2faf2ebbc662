"""torch.compile as an option: the same results within rounding, and training goes on without it where it fails."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from t2m_bench.errors import RecipeError
from t2m_bench.models.arm import Arm
from t2m_bench.training.process_group import ProcessGroup

NOT_ASKED = "not asked"
COMPILED = "compiled"


def compile_forward(
    adapter: Arm, segmenter: Any, text_width: int, image_shape: Sequence[int], num_cases: int, ranks: ProcessGroup
) -> str:
    """Compile the adapter and the frozen decoder, in place; return COMPILED or why not.

    A step on blank cases shows whether the compiler works here, before training depends on it: on a CPU it needs a C++
    compiler. It takes a minute or more, once a machine; torch keeps what it compiled.

    Args:
        segmenter: a module. text_width: E. image_shape: (D, h, w) of what the adapter reads. num_cases: B, as training
            will have it.

    Raises:
        RecipeError: the compiler fails, and this torch has no way back.
    """
    modules = (adapter, segmenter)
    try:
        for module in modules:
            module.compile()
        _try_step(adapter, segmenter, text_width, image_shape, num_cases, ranks)
    except Exception as error:  # whatever a compiler, a driver or a missing header brings up
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if not all(hasattr(module, "_compiled_call_impl") for module in modules):
            raise RecipeError(
                f"torch.compile fails here ({reason}), and what it did to the model cannot be undone with torch "
                f"{torch.__version__}: set cluster.compile to false."
            ) from error
        for module in modules:
            module._compiled_call_impl = None  # what Module.compile set; a private name, which a later torch may lack
        if ranks.is_main:
            print(f"t2m-bench: torch.compile fails here, training goes on without ({reason})", file=sys.stderr)
        return f"failed: {reason}"
    return COMPILED


def _try_step(
    adapter: Arm, segmenter: Any, text_width: int, image_shape: Sequence[int], num_cases: int, ranks: ProcessGroup
) -> None:
    blank = torch.zeros(num_cases, *image_shape, device=ranks.device)
    box_xyxy = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=ranks.device).repeat(num_cases, 1)
    with ranks.autocast():
        fused = adapter(blank, torch.zeros(num_cases, text_width, device=ranks.device))
        low_res_logits = fused.decode(segmenter, box_xyxy)
    parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    torch.autograd.grad(low_res_logits.float().mean(), parameters, allow_unused=True)
