"""What every arm of the benchmark is to the code that trains and evaluates it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass
class Fused:
    """What an arm makes of a batch.

    Attributes:
        image_embedding: (B, D, h, w), for the mask decoder.
        text_features: (B, D), the last level's text tokens averaged, for the contrastive loss.
    """

    image_embedding: Tensor
    text_features: Tensor


class Segmenter(Protocol):
    """From what an arm made and a box to mask logits; `BoxSegmenter` is one."""

    def __call__(self, image_embedding: Tensor, box_xyxy: Tensor) -> Tensor: ...


class Arm(nn.Module):
    """A module all of whose parameters are trained, and who reads text when."""

    @property
    def uses_text(self) -> bool:
        """Whether the text given at inference matters."""
        return False

    @property
    def has_text_loss(self) -> bool:
        """Whether the contrastive loss with the text applies in training."""
        return self.uses_text

    def gates(self) -> dict[str, float]:
        """Return each level's opening in (0, 1); none where there are no levels."""
        return {}


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Let torch's own initialisation draw from a generator inside this context."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        yield


def count_trainable_parameters(module: nn.Module) -> int:
    """Return the number of scalars that training moves."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
