"""The arm that asks whether an adapter is the right thing at all: SAM's mask decoder trained itself, without text."""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from t2m_bench.models.arm import Arm, ArmOutput, BuildContext, Built
from t2m_bench.models.segmenter import MULTIMASK_OFF, BoxSegmenter


class TunedDecoder(Arm):
    """Holds, as its parameters, the parts of a segmenter's mask decoder that its decode uses; leaves embeddings alone.

    The segmenter is changed in place, so it must be this arm's own: frozen modules are shared among runs.
    """

    def __init__(self, segmenter: BoxSegmenter) -> None:
        super().__init__()
        self.parts = free_decoder(segmenter)

    def forward(self, image_embedding: Tensor, text_embedding: Tensor) -> ArmOutput:
        """Return image_embedding (B, D, h, w) as it is; no text is read."""
        return ArmOutput(image_embedding, image_embedding.new_zeros(image_embedding.shape[:2]))


def free_decoder(segmenter: BoxSegmenter) -> nn.ModuleDict:
    """Return the parts of a segmenter's mask decoder that its decode uses, made trainable in place."""
    decoder = segmenter.mask_decoder
    parts = nn.ModuleDict(
        {
            "iou_token": decoder.iou_token,
            "mask_tokens": decoder.mask_tokens,
            "transformer": decoder.transformer,
            "output_upscaling": decoder.output_upscaling,
            "hypernetwork": decoder.output_hypernetworks_mlps[MULTIMASK_OFF],
        }
    )
    return parts.requires_grad_(True)


def build_tuned_decoder(context: BuildContext) -> Built:
    """Build a decoder of this arm's own: it is changed in place, and other runs of this process need the frozen one."""
    own: Any = deepcopy(context.segmenter)
    return Built(TunedDecoder(own), own)
