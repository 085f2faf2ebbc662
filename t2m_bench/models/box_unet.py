"""A small U-Net on box crops of the image, without text and without SAM: what the pixels in the box give (MONAI's)."""

import importlib.util

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2m_bench.data.frame import Frame
from t2m_bench.errors import RecipeError
from t2m_bench.models.arm import Arm, ArmOutput, BuildContext, Built, seeded

CROP_SIDE = 64
"""Side of the square that a box with its margin is stretched to, pixels."""

MARGIN = 0.2
"""Margin of the crop on each side of the box, as a share of the box's size."""

FRAME = Frame(input_size=256, grid=32)
"""Images are stretched to 256 px; a crop is put back into logits over the whole image, 128 px."""

OUTSIDE = -10.0
"""Logit outside the crop."""

CHANNELS = (16, 32, 64, 128)


def check_monai() -> None:
    """Look whether MONAI is there, without importing it.

    Raises:
        RecipeError: it is not installed.
    """
    if importlib.util.find_spec("monai") is None:
        raise RecipeError(
            "the arm unet needs MONAI, which is not installed: pip install '.[unet]' in the checkout, or leave the arm "
            "out of bench.arms."
        )


class BoxUnet(Arm):
    """The network's parameters; the box comes with `BoxUnetSegmenter`."""

    def __init__(self) -> None:
        super().__init__()
        check_monai()
        from monai.networks.nets.unet import UNet

        strides = (2,) * (len(CHANNELS) - 1)
        self.net: nn.Module = UNet(2, in_channels=2, out_channels=1, channels=CHANNELS, strides=strides)

    def forward(self, image_embedding: Tensor, text_embedding: Tensor) -> ArmOutput:
        """Return the image (B, 1, S, S), which is this arm's embedding, as it is; no text is read."""
        return ArmOutput(image_embedding, image_embedding.new_zeros(len(image_embedding), 1))


class BoxUnetSegmenter(nn.Module):
    """Crops, segments and puts back, so that the box may be any and logits cover the whole image as SAM's do."""

    def __init__(self, unet: BoxUnet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, image_embedding: Tensor, box_xyxy: Tensor) -> Tensor:
        """Segment one box a case.

        Args:
            image_embedding: (B, 1, S, S), the grey image in [0, 1].
            box_xyxy: (B, 4) in its pixels.

        Returns:
            low_res_logits (B, L, L), L the frame's low-resolution size.
        """
        size = image_embedding.shape[-1]
        box = 2.0 * box_xyxy / size - 1.0  # in grid_sample's frame, -1 to 1 over the image
        centre = (box[:, :2] + box[:, 2:]) / 2
        half = ((box[:, 2:] - box[:, :2]) / 2).clamp_min(1.0 / size)
        frame = half * (1.0 + 2.0 * MARGIN)
        crop = _sample(image_embedding, frame, centre, CROP_SIDE)
        ticks = (torch.arange(CROP_SIDE, device=box.device) + 0.5) * 2.0 / CROP_SIDE - 1.0
        inside = (ticks.abs() <= 1.0 / (1.0 + 2.0 * MARGIN)).to(crop.dtype)
        is_box = (inside[:, None] * inside[None, :]).expand(len(crop), 1, -1, -1)
        logits = self.unet.net(torch.cat([crop, is_box], dim=1))
        # the inverse map: a pixel of the image at q lies in the crop at (q - centre) / frame; zero outside the crop
        back = _sample(logits.float() - OUTSIDE, 1.0 / frame, -centre / frame, FRAME.low_res_size)
        return back[:, 0] + OUTSIDE


def _sample(image: Tensor, scale: Tensor, offset: Tensor, side: int) -> Tensor:
    """Return (B, C, side, side): image (B, C, h, w) read at scale * p + offset for p over -1 to 1; zero outside."""
    theta = torch.zeros(len(image), 2, 3, device=image.device)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0], scale[:, 1]
    theta[:, :, 2] = offset
    grid = functional.affine_grid(theta, [len(image), 1, side, side], align_corners=False)
    return functional.grid_sample(image.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def build_box_unet(generator: torch.Generator) -> BoxUnet:
    """Build a U-Net whose start depends on the generator's seed alone.

    Raises:
        RecipeError: MONAI is not installed.
    """
    with seeded(generator):
        return BoxUnet()


def build_unet_arm(context: BuildContext) -> Built:
    """Build a U-Net that reads images in place of embeddings, and decodes for itself."""
    unet = build_box_unet(context.generator)
    return Built(unet, BoxUnetSegmenter(unet), FRAME)
