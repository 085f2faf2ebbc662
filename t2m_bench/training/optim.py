"""AdamW, and a learning rate that depends on the step alone, so that a resume needs no scheduler state."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from t2m_bench.recipe.schema import OptimSection


def build_optimizer(module: nn.Module, optim: OptimSection) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters; vectors and gates are not decayed."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.learning_rate)


def compute_learning_rate(step: int, num_steps: int, optim: OptimSection) -> float:
    """Return the rate of a step counted from 0 over the whole run: linear warm-up, then a cosine to zero."""
    warmup = min(optim.warmup_steps, num_steps // 2)
    if step < warmup:
        return optim.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return optim.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def find_state_keys(tensors: Mapping[str, Tensor], parameter: str) -> list[str]:
    """Return the KEYs of `optimizer/KEY/PARAMETER`."""
    return [key.split("/")[1] for key in tensors if key.startswith("optimizer/") and key.endswith(f"/{parameter}")]
