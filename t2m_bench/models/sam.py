"""The frozen SAM parts: image encoder, prompt encoder, mask decoder, their weights, and an image's way into them.

The table `t2m_bench/recipe/encoders.py` lists the encoders and their geometry.

Legend of shapes: B cases, S side of the encoder's square input in pixels, g side of the token grid, D = 256 channels.
"""

import hashlib
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from t2m_bench.data.frame import Frame
from t2m_bench.errors import WeightsError, find_first_line
from t2m_bench.models.torchvision_ops import declare_missing_operators
from t2m_bench.recipe.encoders import IMAGE_ENCODERS, ImageEncoder, InputRange
from t2m_bench.recipe.registry import load_object

EMBEDDING_WIDTH = 256
"""D of every preset, so that an adapter has the same number of parameters with any encoder."""

DECODER_PARTS = ("prompt_encoder", "mask_decoder")

PATCH_PX = 16
MINI_IMAGE_SIZE = 256
MINI_ENCODER_WIDTH = 192
MINI_ENCODER_DEPTH = 4
MINI_ENCODER_HEADS = 6
MINI_ENCODER_MLP_RATIO = 2.5
MINI_DECODER_DEPTH = 2
MINI_DECODER_HEADS = 8
MINI_DECODER_MLP_WIDTH = 256

FOLDER = Path(__file__).parent
MINI_RECORD = FOLDER / "weights" / "mini.json"

UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
    *(struct.error, SafetensorError),
)
"""Exceptions that torch and safetensors raise for damaged files; torch's reader of its older format raises all of them.
"""


@dataclass(frozen=True)
class FrozenDecoder:
    """The half of a SAM behind its embeddings, in evaluation mode; no parameter takes a gradient.

    Attributes:
        entry: its row in the table of image encoders.
        frame: how images, boxes and masks get into its input and back; embeddings are (D, g, g), logits (4g, 4g).
        weights_sha256: of the weights file.
        prompt_encoder, mask_decoder: modules with segment_anything's interfaces, fp32 on the CPU.
    """

    entry: ImageEncoder
    frame: Frame
    weights_sha256: str
    prompt_encoder: nn.Module
    mask_decoder: nn.Module


@dataclass(frozen=True)
class FrozenSam(FrozenDecoder):
    """A whole SAM: also its image_encoder."""

    image_encoder: nn.Module


def load_sam(preset: str, checkpoint: Path | None = None) -> FrozenSam:
    """Load a frozen SAM.

    Args:
        preset: an entry of the table of image encoders.
        checkpoint: state dict, .pth or .safetensors, of a file that the entry names; none where weights are shipped.

    Raises:
        RecipeError: unknown preset.
        WeightsError: file missing, unreadable, carrying code, or of another architecture.
    """
    entry = IMAGE_ENCODERS.find(preset)
    path = find_weights(preset, checkpoint)
    weights_sha256 = compute_weights_sha256(preset, checkpoint)
    model = _build_empty(preset)
    state = _read_renamed(entry, path)
    _check_architecture(model, state, path, preset)
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)
    if entry.finish:
        load_object(entry.finish)(model["image_encoder"])
    return FrozenSam(
        entry=entry,
        frame=Frame.of(entry),
        weights_sha256=weights_sha256,
        image_encoder=model["image_encoder"],
        prompt_encoder=model["prompt_encoder"],
        mask_decoder=model["mask_decoder"],
    )


@dataclass(frozen=True)
class FileStamp:
    """What a file looked like when its sha256 was computed: size in bytes, time of its last change."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileStamp":
        """Return the stamp of a file."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


def load_decoder(
    preset: str, checkpoint: Path | None = None, known: tuple[FileStamp, str] | None = None
) -> FrozenDecoder:
    """Load the parts of a SAM that training and evaluation need; the weights of its image encoder stay on disk.

    Args:
        preset, checkpoint: as of `load_sam`.
        known: stamp and sha256 of the weights file, as another process found them; the file is hashed where its stamp
            is another here.

    Raises:
        RecipeError, WeightsError: as `load_sam`.
    """
    entry = IMAGE_ENCODERS.find(preset)
    path = find_weights(preset, checkpoint)
    is_known = known is not None and known[0] == FileStamp.of(path)
    weights_sha256 = known[1] if known is not None and is_known else compute_weights_sha256(preset, checkpoint)
    with torch.device("meta"):
        model = build_sam(preset)
    state = _read_renamed(entry, path, mapped=True)
    _check_architecture(model, state, path, preset)
    parts = {name: model[name] for name in DECODER_PARTS}
    if any(_has_computed_buffers(part) for part in parts.values()):
        whole = build_sam(preset)
        parts = {name: whole[name] for name in DECODER_PARTS}
    for name, part in parts.items():
        # copied: a tensor of a mapped file would keep the whole file mapped
        own = {
            key.removeprefix(f"{name}."): value.clone() for key, value in state.items() if key.startswith(f"{name}.")
        }
        part.load_state_dict(own, assign=True)
        part.eval().requires_grad_(False)
    return FrozenDecoder(entry, Frame.of(entry), weights_sha256, parts["prompt_encoder"], parts["mask_decoder"])


def _has_computed_buffers(module: nn.Module) -> bool:
    """Return whether a constructor makes values that no checkpoint holds."""
    stored = module.state_dict().keys()
    return any(name not in stored for name, _ in module.named_buffers())


def _build_empty(preset: str) -> nn.ModuleDict:
    """Build a preset's modules without memory for the checkpoint's tensors, since drawing random ones takes time."""
    with torch.device("meta"):
        model = build_sam(preset)
    return build_sam(preset) if _has_computed_buffers(model) else model


def build_sam(preset: str) -> nn.ModuleDict:
    """Build a preset's modules with random weights, under the names of their state dict.

    Raises:
        RecipeError: unknown preset.
    """
    built: nn.ModuleDict = load_object(IMAGE_ENCODERS.find(preset).build)()
    return built


def build_vit_b() -> nn.ModuleDict:
    """Build SAM's base model, which MedSAM is too."""
    return _build_published("vit_b")


def build_vit_l() -> nn.ModuleDict:
    """Build SAM's large model."""
    return _build_published("vit_l")


def build_vit_h() -> nn.ModuleDict:
    """Build SAM's huge model."""
    return _build_published("vit_h")


def _build_published(size: str) -> nn.ModuleDict:
    declare_missing_operators()
    from segment_anything import sam_model_registry

    sam: Any = sam_model_registry[size]()
    parts = ("image_encoder", "prompt_encoder", "mask_decoder")
    return nn.ModuleDict({part: getattr(sam, part) for part in parts})


def build_mini() -> nn.ModuleDict:
    """Build a small SAM of the same classes, for 256 px: 16x16 tokens, one mask token, D as in the large ones."""
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


def encode_images(sam: FrozenSam, images: Tensor, input_range: InputRange = "unit") -> Tensor:
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
    expected = (3, sam.frame.input_size, sam.frame.input_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(f"images have shape {tuple(images.shape)}; (B, {', '.join(map(str, expected))}) is needed")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= (1.0 if input_range == "unit" else 255.0)):  # so written that NaN is refused too
        raise ValueError(f"images run from {low:g} to {high:g}; the encoder expects values in [0, 1]")
    with torch.no_grad():
        embedding: Tensor = sam.image_encoder(images)
    return embedding


def find_weights(preset: str, checkpoint: Path | None) -> Path:
    """Path of the weights file of a preset.

    Raises:
        RecipeError: unknown preset.
        WeightsError: no such file, naming what to fetch and how.
    """
    entry = IMAGE_ENCODERS.find(preset)
    if entry.shipped:
        shipped = FOLDER / entry.shipped
        if checkpoint is not None:
            raise WeightsError(
                f"image_encoder.checkpoint is {checkpoint}, but preset {preset} uses {entry.published}; leave the "
                "checkpoint out or choose another preset"
            )
        if not shipped.is_file():
            raise WeightsError(f"{shipped} is missing from the installed package; install t2m-bench again")
        return shipped
    command = f" (`t2m-bench fetch {entry.fetch} DIR`)" if entry.fetch else ""
    fetch = f"fetch {entry.published}{command} and name the file in the recipe's image_encoder.checkpoint"
    if checkpoint is None:
        raise WeightsError(f"preset {preset} needs a checkpoint and image_encoder.checkpoint is empty: {fetch}")
    if not checkpoint.is_file():
        raise WeightsError(f"image_encoder.checkpoint: there is no file {checkpoint}: {fetch}")
    return checkpoint


def compute_weights_sha256(preset: str, checkpoint: Path | None) -> str:
    """sha256 of the weights file, hexadecimal.

    Raises:
        WeightsError: as `find_weights`; or the preset takes one file only, and this is another.
    """
    entry = IMAGE_ENCODERS.find(preset)
    path = find_weights(preset, checkpoint)
    status = path.stat()
    found = _hash_file(path, status.st_size, status.st_mtime_ns)
    if entry.sha256 and found != entry.sha256:
        raise WeightsError(
            f"{path}: sha256 {found}, not {entry.sha256}: it is another file than {entry.published}, or damaged; "
            "fetch it again"
        )
    return found


@lru_cache(maxsize=8)
def _hash_file(path: Path, size: int, mtime_ns: int) -> str:
    """Return the sha256 of a file, read once a process while size and time stay: every stage needs it.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}). Make it readable, or fetch it again.") from None


def load_seen_image_hashes(preset: str) -> frozenset[str]:
    """Full sha256 (hexadecimal, as Case.image_sha256) of every image the weights are known to be trained on.

    Empty for presets whose training images are not ours to know.
    """
    seen = IMAGE_ENCODERS.find(preset).seen_images
    if not seen:
        return frozenset()
    digests = load_file(FOLDER / seen)["sha256"].numpy()  # (images, 32) uint8
    return frozenset(row.tobytes().hex() for row in digests)


def load_mini_record() -> dict[str, Any]:
    """The shipped record of how the mini weights were trained and what they reach."""
    record: dict[str, Any] = json.loads(MINI_RECORD.read_text())
    return record


def check_checkpoint(preset: str, checkpoint: Path | None) -> None:
    """Check, without building the model, that a preset's file is complete and has the right hash and architecture.

    Raises:
        WeightsError: as `load_sam`.
    """
    path = find_weights(preset, checkpoint)
    compute_weights_sha256(preset, checkpoint)
    with torch.device("meta"):
        model = build_sam(preset)
    _check_architecture(model, _read_renamed(IMAGE_ENCODERS.find(preset), path, "meta"), path, preset)


def _read_renamed(entry: ImageEncoder, path: Path, location: str = "cpu", mapped: bool = False) -> dict[str, Tensor]:
    """Read a checkpoint under the names of the entry's modules; a memory-mapped one is read when it is used."""
    state = _read_state_dict(path, location, mapped)
    return load_object(entry.rename)(state) if entry.rename else state


def _read_state_dict(path: Path, location: str = "cpu", mapped: bool = False) -> dict[str, Tensor]:
    """Read tensors by name, as fp32; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            can_map = mapped and zipfile.is_zipfile(path)  # torch's older format is read whole
            state = torch.load(path, map_location=location, weights_only=True, mmap=can_map or None)
    except pickle.UnpicklingError:  # torch's message advises to load it all the same
        raise WeightsError(
            f"{path} is refused: it holds more than tensors or is no checkpoint, and loading it could run code; save "
            "the state dict alone"
        ) from None
    except UNREADABLE as error:
        reason = find_first_line(error)
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
                f"{path} has another architecture than preset {preset}: {key} is {found.get(key, 'absent')} in the "
                f"file and {expected.get(key, 'absent')} in {preset}; correct image_encoder.preset or .checkpoint"
            )
