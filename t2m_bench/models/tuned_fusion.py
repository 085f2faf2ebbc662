"""The arms that ask whether text helps on a strong base: adapter and mask decoder trained together."""

from copy import deepcopy
from typing import Any

from torch import Tensor

from t2m_bench.models.arm import Arm, ArmOutput, BuildContext, Built
from t2m_bench.models.fusion import FusionAdapter, build_adapter
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.models.tuned_decoder import free_decoder


class TunedFusion(Arm):
    """Holds an adapter and, as its parameters too, the parts of the mask decoder that a decode uses.

    The segmenter is changed in place, so it must be this arm's own.
    """

    def __init__(self, adapter: FusionAdapter, segmenter: BoxSegmenter) -> None:
        super().__init__()
        self.adapter = adapter
        self.parts = free_decoder(segmenter)

    @property
    def uses_text(self) -> bool:
        """Return whether inference reads the text, as the adapter does."""
        return self.adapter.uses_text

    @property
    def has_text_loss(self) -> bool:
        """Return whether training applies the contrastive loss with the text."""
        return self.adapter.has_text_loss

    def gates(self) -> dict[str, float]:
        """Return the opening of each of the adapter's levels in (0, 1)."""
        return self.adapter.gates()

    def forward(self, image_embedding: Tensor, text_embedding: Tensor) -> ArmOutput:
        """Fuse image_embedding (B, D, h, w) with text_embedding (B, E)."""
        fused: ArmOutput = self.adapter(image_embedding, text_embedding)
        return fused


def build_tuned_fusion(context: BuildContext) -> Built:
    """Build an adapter before a decoder of this arm's own: other runs of this process need the frozen one."""
    own: Any = deepcopy(context.segmenter)
    adapter = build_adapter(
        context.adapter, context.text_width, context.generator, context.num_labels, context.embedding_scale
    )
    return Built(TunedFusion(adapter, own), own)
