"""The arms that ask whether the image embedding is the right place for text: it joins the box in SAM's sparse prompt.

The frozen decoder reads K further tokens beside the box's two corners; the image embedding stays as it is.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2m_bench.models.arm import Arm, ArmOutput, BuildContext, Built, seeded
from t2m_bench.models.fusion import build_text_projection
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.schema import IMAGE_WIDTH, AdapterSection

NUM_TOKENS = 2
"""K, as many as a box has."""

FIRST_COUNT = 0.001
"""How many tokens each of the K counts as where an arm starts at the frozen model.

No token leaves the masks as they are, not even zero: each takes its part of the decoder's softmax. Two tokens that
counted in full changed the Dice of single lesions by up to 0.02 (zeros), 0.04 (the corners once more), 0.28 (the
padding of a prompt without a box) and 0.43 (LN of noise) with LiteMedSAM; at this count by at most 0.0004.
"""

COUNT_SPEED = 300.0
"""Factor on the count's logit. A step of AdamW moves a parameter by the learning rate whatever its size: without this
factor the count would stay what it is at first for thousands of steps, with 100 for most of the demo's six epochs."""


class TextPrompt(Arm):
    """K tokens for the sparse prompt, gate x LN(projection) of the text.

    `text_prompt_free` projects a learned constant in place of the text, so its K tokens are learned constants.
    Where the arm starts at the frozen model, each token counts as `count` tokens in the decoder's attention; count is
    trained, between 0 (the frozen decoder) and 1 (SAM with K further tokens). Else each counts once from the start.
    """

    def __init__(self, text_width: int, adapter: AdapterSection) -> None:
        super().__init__()
        self.entry = ARMS.find(adapter.kind)
        self.text_projection = build_text_projection(text_width, NUM_TOKENS, adapter.preset == "published")
        self.norm = nn.LayerNorm(IMAGE_WIDTH)
        opening = adapter.prompt.gate_init
        self.gate_raw = nn.Parameter(torch.tensor([_find_logit(opening)]))
        first = torch.tensor([_find_logit(FIRST_COUNT) / COUNT_SPEED])
        self.count_raw = nn.Parameter(first) if adapter.start == "frozen" else None
        self.constant_text = None if self.entry.reads_text else nn.Parameter(torch.randn(text_width) * 0.02)

    @property
    def uses_text(self) -> bool:
        """Return whether inference reads the text."""
        return self.constant_text is None

    def gates(self) -> dict[str, float]:
        """Return the gate's opening, and the count where it is trained, both in (0, 1)."""
        found = {"prompt": float(self.gate_raw.detach().sigmoid())}
        if self.count_raw is not None:
            found["count"] = float((COUNT_SPEED * self.count_raw.detach()).sigmoid())
        return found

    def forward(self, image_embedding: Tensor, text_embedding: Tensor) -> ArmOutput:
        """Return image_embedding (B, D, h, w) as it is, and the K tokens of text_embedding (B, E).

        The contrastive loss reads the mean of the K projections before norm and gate: beside a frozen image embedding
        it trains the projection alone.
        """
        if self.constant_text is not None:
            text_embedding = self.constant_text.expand(image_embedding.shape[0], -1)
        projected = self.text_projection(text_embedding).unflatten(-1, (NUM_TOKENS, IMAGE_WIDTH))
        sparse_tokens = torch.sigmoid(self.gate_raw) * self.norm(projected.float())
        sparse_bias = None
        if self.count_raw is not None:
            sparse_bias = functional.logsigmoid(COUNT_SPEED * self.count_raw).expand(sparse_tokens.shape[:2])
        return ArmOutput(image_embedding, projected.mean(dim=1), sparse_tokens, sparse_bias)


def _find_logit(share: float) -> float:
    return math.log(share / (1.0 - share))


def build_text_prompt(context: BuildContext) -> Built:
    """Build the arm before the frozen decoder, its start depending on the generator's seed alone."""
    with seeded(context.generator):
        return Built(TextPrompt(context.text_width, context.adapter), context.segmenter)
