"""Precisions of a step by their names in recipes."""

from contextlib import AbstractContextManager

import torch

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Compute in a precision of PRECISIONS inside this context."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
