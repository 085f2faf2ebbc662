"""The frozen SAM parts: image encoder, prompt encoder, mask decoder, their weights, and an image's way into them.

Legend of shapes: B cases, S side of the encoder's square input in pixels, g side of the token grid, D = 256 channels.
"""

import hashlib
import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from t2m_bench.errors import WeightsError
from t2m_bench.models.torchvision_ops import declare_missing_operators

PRESETS = ("mini", "vit_b", "vit_l", "vit_h")
EMBEDDING_WIDTH = 256
"""D of every preset: adapters count the same parameters whichever encoder stands behind them."""

UNIT = "unit"
"""Pixels from 0 to 1, what every preset was trained with."""

PATCH_PX = 16
FULL_IMAGE_SIZE = 1024
MINI_IMAGE_SIZE = 256
MINI_ENCODER_WIDTH = 192
MINI_ENCODER_DEPTH = 4
MINI_ENCODER_HEADS = 6
MINI_ENCODER_MLP_RATIO = 2.5
MINI_DECODER_DEPTH = 2
MINI_DECODER_HEADS = 8
MINI_DECODER_MLP_WIDTH = 256

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
MINI_WEIGHTS = WEIGHTS_FOLDER / "mini.safetensors"
MINI_RECORD = WEIGHTS_FOLDER / "mini.json"
MINI_SEEN_IMAGES = WEIGHTS_FOLDER / "mini_seen_images.safetensors"

UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
    *(struct.error, SafetensorError),
)
"""What torch and safetensors raise of damaged files; torch's reader of its older format raises all of these."""

PUBLISHED_CHECKPOINTS = {
    "vit_b": "MedSAM's medsam_vit_b.pth or Segment Anything's sam_vit_b_01ec64.pth",
    "vit_l": "Segment Anything's sam_vit_l_0b3195.pth",
    "vit_h": "Segment Anything's sam_vit_h_4b8939.pth",
}


@dataclass(frozen=True)
class FrozenSam:
    """SAM in evaluation mode, no parameter of which takes a gradient.

    Attributes:
        preset: one of PRESETS.
        image_size: S, the side of the square input, pixels.
        grid: g, the side of the token grid; embeddings are (D, g, g), low-resolution logits (4g, 4g).
        weights_sha256: of the weights file.
        preprocessing_id: names what `preprocess_image` does to an image, for the signature of embeddings.
        image_encoder, prompt_encoder, mask_decoder: segment_anything's modules, fp32 on the CPU.
    """

    preset: str
    image_size: int
    grid: int
    weights_sha256: str
    preprocessing_id: str
    image_encoder: nn.Module
    prompt_encoder: nn.Module
    mask_decoder: nn.Module


def load_sam(preset: str, checkpoint: Path | None = None) -> FrozenSam:
    """Load a frozen SAM.

    Args:
        preset: "mini" (weights shipped with the package) or "vit_b", "vit_l", "vit_h".
        checkpoint: state dict of MedSAM or SAM, .pth or .safetensors; none for "mini".

    Raises:
        WeightsError: unknown preset, file missing, unreadable, carrying code, or of another architecture.
    """
    path = find_weights(preset, checkpoint)
    weights_sha256 = compute_weights_sha256(preset, checkpoint)
    with torch.device("meta"):  # no time for random numbers that the checkpoint replaces
        model = build_sam(preset)
    state = _read_state_dict(path)
    _check_architecture(model, state, path, preset)
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)
    image_size = get_image_size(preset)
    return FrozenSam(
        preset=preset,
        image_size=image_size,
        grid=image_size // PATCH_PX,
        weights_sha256=weights_sha256,
        preprocessing_id=get_preprocessing_id(preset),
        image_encoder=model["image_encoder"],
        prompt_encoder=model["prompt_encoder"],
        mask_decoder=model["mask_decoder"],
    )


def build_sam(preset: str) -> nn.ModuleDict:
    """Build a preset's modules with random weights, keyed as in SAM's state dicts.

    Raises:
        WeightsError: unknown preset.
    """
    _check_preset(preset)
    if preset == "mini":
        return _build_mini()
    declare_missing_operators()
    from segment_anything import sam_model_registry

    sam: Any = sam_model_registry[preset]()
    parts = ("image_encoder", "prompt_encoder", "mask_decoder")
    return nn.ModuleDict({part: getattr(sam, part) for part in parts})


def _build_mini() -> nn.ModuleDict:
    """A small SAM of the same classes, for 256 px: 16x16 tokens, one mask token, D as in the large ones."""
    declare_missing_operators()
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

    grid = MINI_IMAGE_SIZE // PATCH_PX
    image_encoder = ImageEncoderViT(
        img_size=MINI_IMAGE_SIZE,
        patch_size=PATCH_PX,
        embed_dim=MINI_ENCODER_WIDTH,
        depth=MINI_ENCODER_DEPTH,
        num_heads=MINI_ENCODER_HEADS,
        mlp_ratio=MINI_ENCODER_MLP_RATIO,
        out_chans=EMBEDDING_WIDTH,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=0,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=EMBEDDING_WIDTH,
        image_embedding_size=(grid, grid),
        input_image_size=(MINI_IMAGE_SIZE, MINI_IMAGE_SIZE),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=EMBEDDING_WIDTH,
        transformer=TwoWayTransformer(
            depth=MINI_DECODER_DEPTH,
            embedding_dim=EMBEDDING_WIDTH,
            num_heads=MINI_DECODER_HEADS,
            mlp_dim=MINI_DECODER_MLP_WIDTH,
        ),
        num_multimask_outputs=0,  # a box asks for one mask; each further token would cost 140 thousand weights
        iou_head_depth=2,
        iou_head_hidden_dim=32,
    )
    return nn.ModuleDict(
        {"image_encoder": image_encoder, "prompt_encoder": prompt_encoder, "mask_decoder": mask_decoder}
    )


def get_image_size(preset: str) -> int:
    """Side of the preset's square input in pixels."""
    return MINI_IMAGE_SIZE if preset == "mini" else FULL_IMAGE_SIZE


def get_preprocessing_id(preset: str, input_range: str = UNIT) -> str:
    """Name of what `preprocess_image` does for this preset; a change of that function changes this name."""
    return f"bicubic-{'minmax' if input_range == UNIT else '0to255'}-{get_image_size(preset)}-v1"


def preprocess_image(image: NDArray[np.uint8], image_size: int, input_range: str = UNIT) -> Tensor:
    """Bring an image into the encoder's frame as MedSAM does: bicubic to a square, then min-max per image.

    Args:
        image: (H, W), or (H, W, 3) where the channels differ (slices of a CT).
        image_size: S; the aspect is not kept.
        input_range: "byte" leaves the values from 0 to 255, which is wrong and was published so (Talk2MedSAM).

    Returns:
        (3, S, S) float32 in [0, 1]; a constant image gives zeros.

    Source: MedSAM's pre_CT_MR.py, which rounds the resized image to uint8 as happens here.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"image has dtype {image.dtype}; uint8 is needed")
    resized = Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, dtype=np.float32)
    if input_range == UNIT:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / max(float(high - low), 1e-8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def encode_images(sam: FrozenSam, images: Tensor, input_range: str = UNIT) -> Tensor:
    """Encode preprocessed images.

    Args:
        sam: the frozen model.
        images: (B, 3, S, S) in [0, 1].
        input_range: "byte" lets values from 0 to 255 through.

    Returns:
        image_embedding (B, D, g, g), without gradient.

    Raises:
        ValueError: another shape, or values outside [0, 1] (images of 0 to 255 give embeddings without meaning).
    """
    expected = (3, sam.image_size, sam.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(f"images have shape {tuple(images.shape)}; (B, {', '.join(map(str, expected))}) is needed")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= (1.0 if input_range == UNIT else 255.0)):  # so written that NaN is refused too
        raise ValueError(f"images run from {low:g} to {high:g}; the encoder expects values in [0, 1]")
    with torch.no_grad():
        embedding: Tensor = sam.image_encoder(images)
    return embedding


def find_weights(preset: str, checkpoint: Path | None) -> Path:
    """Path of the weights file of a preset.

    Raises:
        WeightsError: unknown preset, or no such file, naming what to fetch.
    """
    _check_preset(preset)
    if preset == "mini":
        if checkpoint is not None:
            raise WeightsError(
                f"image_encoder.checkpoint is {checkpoint}, but preset mini uses the weights shipped with the package; "
                "leave the checkpoint out or choose vit_b, vit_l or vit_h"
            )
        if not MINI_WEIGHTS.is_file():
            raise WeightsError(f"{MINI_WEIGHTS} is missing from the installed package; install t2m-bench again")
        return MINI_WEIGHTS
    command = " (`t2m-bench fetch medsam DIR`)" if preset == "vit_b" else ""
    fetch = f"fetch {PUBLISHED_CHECKPOINTS[preset]}{command} and name the file in the recipe's image_encoder.checkpoint"
    if checkpoint is None:
        raise WeightsError(f"preset {preset} needs a checkpoint and image_encoder.checkpoint is empty: {fetch}")
    if not checkpoint.is_file():
        raise WeightsError(f"image_encoder.checkpoint: there is no file {checkpoint}: {fetch}")
    return checkpoint


def compute_weights_sha256(preset: str, checkpoint: Path | None) -> str:
    """sha256 of the weights file, hexadecimal.

    Raises:
        WeightsError: as `find_weights`.
    """
    with find_weights(preset, checkpoint).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_seen_image_hashes(preset: str) -> frozenset[str]:
    """Full sha256 (hexadecimal, as Case.image_sha256) of every image the shipped weights were trained on.

    Empty for other presets, whose training images are not ours to know.
    """
    _check_preset(preset)
    if preset != "mini":
        return frozenset()
    digests = load_file(MINI_SEEN_IMAGES)["sha256"].numpy()  # (images, 32) uint8
    return frozenset(row.tobytes().hex() for row in digests)


def load_mini_record() -> dict[str, Any]:
    """The shipped record of how the mini weights were trained and what they reach."""
    record: dict[str, Any] = json.loads(MINI_RECORD.read_text())
    return record


def _check_preset(preset: str) -> None:
    if preset not in PRESETS:
        raise WeightsError(f"image_encoder.preset is {preset!r}; known are {', '.join(PRESETS)}")


def check_checkpoint(preset: str, checkpoint: Path | None) -> None:
    """See, without reading its values, that a preset's file is whole and of its architecture.

    Raises:
        WeightsError: as `load_sam`.
    """
    path = find_weights(preset, checkpoint)
    with torch.device("meta"):
        model = build_sam(preset)
    _check_architecture(model, _read_state_dict(path, "meta"), path, preset)


def _read_state_dict(path: Path, location: str = "cpu") -> dict[str, Tensor]:
    """Read tensors by name, as fp32; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location=location, weights_only=True)
    except pickle.UnpicklingError:  # torch's message advises to load it all the same
        raise WeightsError(
            f"{path} is refused: it holds more than tensors or is no checkpoint, and loading it could run code; save "
            "the state dict alone"
        ) from None
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path} cannot be read as a checkpoint ({reason}); fetch it again") from None
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]  # as MedSAM's own training script saves it
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict (names to tensors); give a SAM or MedSAM checkpoint")
    return {str(key): value.float() for key, value in state.items()}


def _check_architecture(model: nn.Module, state: Mapping[str, Tensor], path: Path, preset: str) -> None:
    """Refuse a checkpoint whose names or shapes differ, naming the first one that does."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    for key in [*expected, *found]:
        if expected.get(key) != found.get(key):
            raise WeightsError(
                f"{path} is of another architecture than preset {preset}: {key} is {found.get(key, 'absent')} in the "
                f"file and {expected.get(key, 'absent')} in {preset}; correct image_encoder.preset or .checkpoint"
            )
