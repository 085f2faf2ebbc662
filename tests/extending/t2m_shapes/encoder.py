"""An image encoder: 128 px in, 16x16 tokens out, before the prompt encoder and mask decoder of Segment Anything."""

from typing import Any

from t2m_bench.recipe.encoders import ImageEncoder

INPUT_SIZE, GRID, WIDTH = 128, 16, 256


def build_tiny() -> Any:
    """Build an nn.ModuleDict of the three parts with random weights; its state dict's names are the checkpoint's.

    `image_encoder` makes (B, 256, 16, 16) of images (B, 3, 128, 128) in [0, 1].
    """
    from torch import nn

    from t2m_bench.models.torchvision_ops import declare_missing_operators

    declare_missing_operators()  # where torchvision has no compiled part, segment_anything cannot be imported
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    token = INPUT_SIZE // GRID
    return nn.ModuleDict(
        {
            "image_encoder": nn.Conv2d(3, WIDTH, token, token),
            "prompt_encoder": PromptEncoder(WIDTH, (GRID, GRID), (INPUT_SIZE, INPUT_SIZE), mask_in_chans=16),
            "mask_decoder": MaskDecoder(
                transformer_dim=WIDTH,
                transformer=TwoWayTransformer(depth=1, embedding_dim=WIDTH, num_heads=8, mlp_dim=64),
                num_multimask_outputs=0,
                iou_head_depth=2,
                iou_head_hidden_dim=32,
            ),
        }
    )


TINY = ImageEncoder(
    name="tiny",
    label="Tiny SAM",
    build="t2m_shapes.encoder:build_tiny",
    input_size=INPUT_SIZE,
    grid=GRID,
    input_ranges=("unit",),
    published="the state dict of build_tiny",
    licence="CC0",
    training_data="none: its weights are random",
    warning="The image encoder is untrained. {seen}",
)
