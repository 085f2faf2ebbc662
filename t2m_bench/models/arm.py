"""Defines the interface between an arm and the code that trains and evaluates it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from t2m_bench.data.frame import Frame
from t2m_bench.recipe.schema import AdapterSection


@dataclass
class ArmOutput:
    """Output of an arm for a batch.

    Attributes:
        image_embedding: (B, D, h, w), for the mask decoder.
        text_features: (B, D), the last level's text tokens averaged, for the contrastive loss.
        sparse_tokens: (B, K, D), tokens that join the box's in the sparse prompt of the mask decoder; None for the box
            alone.
        sparse_bias: (B, K), log of how many tokens each of these counts as in the decoder's attention; None counts each
            once. Means nothing without sparse_tokens.
    """

    image_embedding: Tensor
    text_features: Tensor
    sparse_tokens: Tensor | None = None
    sparse_bias: Tensor | None = None

    @property
    def sparse_prompt(self) -> tuple[Tensor, ...]:
        """Return what a segmenter is given besides embedding and box: nothing, tokens, or tokens and their bias."""
        given = (self.sparse_tokens, self.sparse_bias)
        return tuple(part for part in given if part is not None)

    def decode(self, segmenter: "Segmenter", box_xyxy: Tensor) -> Tensor:
        """Return low_res_logits (B, 4h, 4w) for boxes (B, 4) in pixels of the encoder's input."""
        return segmenter(self.image_embedding, box_xyxy, *self.sparse_prompt)


class Segmenter(Protocol):
    """Interface that turns an arm's output and a box into mask logits; `BoxSegmenter` implements it.

    It is called with a sparse prompt where the arm's output has one, so only those of such arms need to take it.
    """

    def __call__(self, image_embedding: Tensor, box_xyxy: Tensor, *sparse_prompt: Tensor) -> Tensor: ...


class Arm(nn.Module):
    """Base class of all arms. Every parameter is trainable; `uses_text` says whether inference reads the text."""

    @property
    def uses_text(self) -> bool:
        """Return whether the text given at inference matters."""
        return False

    @property
    def has_text_loss(self) -> bool:
        """Return whether the contrastive loss with the text applies in training."""
        return self.uses_text

    def gates(self) -> dict[str, float]:
        """Return each level's opening in (0, 1); none where there are no levels."""
        return {}


@dataclass(frozen=True)
class BuildContext:
    """Parts from which an arm is built.

    Attributes:
        adapter: the recipe's section. text_width: E of the text encoder.
        num_labels: values of all text fields together, for arms that are given classes.
        generator: decides the first weights. segmenter: the frozen decoder, shared with other arms.
        embedding_scale: standard deviation of the image embeddings of the training cases; 1 where the arm has no
            levels, or does not start at the frozen model.
    """

    adapter: AdapterSection
    text_width: int
    num_labels: int
    generator: torch.Generator
    segmenter: Segmenter
    embedding_scale: float = 1.0


@dataclass(frozen=True)
class Built:
    """An arm, and what decodes for it.

    Attributes:
        image_frame: the frame of the images that it reads in place of embeddings; None where it reads embeddings.
    """

    arm: Arm
    segmenter: Segmenter
    image_frame: Frame | None = None


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Let torch's own initialisation draw from a generator inside this context."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        yield


def count_trainable_parameters(module: nn.Module) -> int:
    """Return the number of scalars that training moves."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
