"""LiteMedSAM: MedSAM's own light model, a TinyViT before SAM's prompt encoder and mask decoder, for 256 px.

The encoder is timm's TinyViT (Wu et al., "TinyViT", ECCV 2022) with what LiteMedSAM changed: patches of one pixel, the
third merging without stride, and SAM's neck, so that 256 px give the 64x64 tokens of SAM's large encoders.

Legend of shapes: B cases, D = 256 channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from t2m_bench.errors import WeightsError
from t2m_bench.models.torchvision_ops import declare_missing_operators

INPUT_SIZE = 256
GRID = 64
WIDTH = 256

EMBED_DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (2, 4, 5, 10)
WINDOW_SIZES = (7, 7, 14, 7)

ENCODER = "image_encoder."
RENAMED = (
    ("patch_embed.seq.0.", "patch_embed.conv1."),
    ("patch_embed.seq.2.", "patch_embed.conv2."),
    (".c.", ".conv."),
)
"""Parts of the published names, and what timm calls them; layers are renumbered beside that."""

UNUSED = ("norm_head.", "head.")
"""Parts of the published encoder that no embedding passes through."""


class LiteMedSamEncoder(nn.Module):
    """The image encoder, (B, 3, 256, 256) in [0, 1] to (B, 256, 64, 64).

    Raises:
        WeightsError: timm is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        declare_missing_operators()
        tiny_vit = _import_tiny_vit()
        from segment_anything.modeling.common import LayerNorm2d

        self.body: Any = tiny_vit.TinyVit(
            embed_dims=EMBED_DIMS,
            depths=DEPTHS,
            num_heads=NUM_HEADS,
            window_sizes=WINDOW_SIZES,
            num_classes=0,
            global_pool="",
            drop_path_rate=0.0,
        )
        self.body.head = nn.Identity()
        first, second = EMBED_DIMS[0] // 2, EMBED_DIMS[0]
        self.body.patch_embed.conv1 = tiny_vit.ConvNorm(3, first, 1, 1, 0)
        self.body.patch_embed.conv2 = tiny_vit.ConvNorm(first, second, 1, 1, 0)
        self.body.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(EMBED_DIMS[-1], WIDTH, kernel_size=1, bias=False),
            LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(WIDTH),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return image embeddings (B, 256, 64, 64) of images (B, 3, 256, 256)."""
        embedding: Tensor = self.neck(self.body.forward_features(images))
        return embedding


def _import_tiny_vit() -> Any:
    try:
        from timm.models import tiny_vit
    except ImportError as error:
        raise WeightsError(
            f"image_encoder.preset = lite_medsam needs timm, which cannot be imported ({error}); pip install timm"
        ) from None
    return tiny_vit


def build_lite_medsam() -> nn.ModuleDict:
    """Build the three parts with random weights, keyed as in SAM's state dicts.

    Raises:
        WeightsError: timm is not installed.
    """
    declare_missing_operators()
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    prompt_encoder = PromptEncoder(
        embed_dim=WIDTH,
        image_embedding_size=(GRID, GRID),
        input_image_size=(INPUT_SIZE, INPUT_SIZE),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=WIDTH,
        transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=8, mlp_dim=2048),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return nn.ModuleDict(
        {"image_encoder": LiteMedSamEncoder(), "prompt_encoder": prompt_encoder, "mask_decoder": mask_decoder}
    )


def rename_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published state dict under the names of `build_lite_medsam`; other names are kept as they are."""
    return {_rename(key): value for key, value in state.items() if not key.startswith(_UNUSED_KEYS)}


_UNUSED_KEYS = tuple(ENCODER + name for name in UNUSED)


def _rename(key: str) -> str:
    if not key.startswith(ENCODER) or key.startswith(f"{ENCODER}neck."):
        return key
    name = key.removeprefix(ENCODER)
    for published, ours in RENAMED:
        name = name.replace(published, ours)
    if name.startswith("layers."):
        _, number, *rest = name.split(".")
        # timm merges at a stage's beginning, the published model at its end
        stage = int(number) + (rest[0] == "downsample")
        name = ".".join(["stages", str(stage), *rest])
    return f"{ENCODER}body.{name}"


def fuse_for_inference(encoder: Any) -> None:
    """Fold each batch norm into its convolution and put channels last: the same function in less time.

    The encoder (a `LiteMedSamEncoder`) must hold its weights and be in evaluation mode; it can be neither trained nor
    loaded into afterwards.
    """
    with torch.no_grad():
        _fuse(encoder)
    encoder.to(memory_format=torch.channels_last)


def _fuse(module: nn.Module) -> None:
    """Replace every convolution that a batch norm follows, at any depth, by one convolution."""
    conv_norm = _import_tiny_vit().ConvNorm
    children: list[tuple[str, Any]] = list(module.named_children())
    for name, child in children:
        if isinstance(child, conv_norm):
            module.add_module(name, child.fuse().eval().requires_grad_(False))
        else:
            _fuse(child)
