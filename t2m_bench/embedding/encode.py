"""Encodes a case into its stored form: the frozen embedding, the reference mask at low resolution, the box."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from t2m_bench.data.case import Case
from t2m_bench.data.frame import LOW_RES_FACTOR, Frame
from t2m_bench.data.images import load_image, load_mask
from t2m_bench.data.prefetch import prefetch
from t2m_bench.embedding.shards.schema import ShardEntry, Signature
from t2m_bench.embedding.shards.writer import EmbeddedCase, ShardPlan, write_shard
from t2m_bench.errors import WeightsError
from t2m_bench.models.encoder_input import preprocess_image
from t2m_bench.models.sam import EMBEDDING_WIDTH, FrozenDecoder, FrozenSam, encode_images, load_sam
from t2m_bench.recipe.encoders import InputRange

PIXELS_AT_ONCE = 2**20
"""Encoder input pixels of one batch on a GPU: one image at 1024 px, sixteen at 256 px."""

TOKENS_AT_ONCE = 64 * 64
"""Image tokens of one batch on a CPU: what lies between an encoder's layers then stays in its cache. LiteMedSAM took
1.93 s of processor time an image in batches of 1 and 2, and 2.29 s in batches of 4 (a loaded core)."""


@dataclass(frozen=True)
class EmbedTask:
    """One file of shards, for any process that sees the folders: what to encode, with what, and where it goes."""

    preset: str
    checkpoint: Path | None
    root: Path
    folder: Path
    plan: ShardPlan
    signature: Signature
    cases: tuple[Case, ...]
    input_range: InputRange = "unit"

    def run(self, device: torch.device, on_case: Callable[[], None] = lambda: None) -> ShardEntry:
        """Encode and write the file; `on_case` is called after each case.

        Raises:
            UserError: an image or the weights cannot be read, or the disk is full.
        """
        sam = _load_once(self.preset, self.checkpoint, str(device))
        check_weights(sam, self.signature)
        made = _tell(embed_cases(sam, self.root, self.cases, device, self.input_range), on_case)
        return write_shard(self.folder, self.plan, self.signature, made)


def _tell(made: Iterable[EmbeddedCase], on_case: Callable[[], None]) -> Iterator[EmbeddedCase]:
    for case in made:
        yield case
        on_case()


@lru_cache(maxsize=1)
def _load_once(preset: str, checkpoint: Path | None, device: str) -> FrozenSam:
    sam = load_sam(preset, checkpoint)
    sam.image_encoder.to(device)
    return sam


def check_weights(sam: FrozenDecoder, signature: Signature) -> None:
    """See that a process has the weights which the embeddings are signed with; hosts may have other files.

    Raises:
        WeightsError: it has others; names both.
    """
    if sam.weights_sha256 != signature.weights_sha256:
        raise WeightsError(
            f"image encoder {sam.entry.name}: its weights on {socket.gethostname()} have sha256 {sam.weights_sha256}, "
            f"the embeddings are made with {signature.weights_sha256}. Give all hosts the same file and version."
        )


def count_bytes_per_case(grid: int) -> int:
    """Return what one case takes in a shard, for a token grid of this side."""
    return EMBEDDING_WIDTH * grid**2 * 2 + (LOW_RES_FACTOR * grid) ** 2 + 16


def choose_batch_size(frame: Frame, device: torch.device) -> int:
    """Return how many images are encoded together: what a GPU is busy with, or what a CPU's cache holds."""
    if device.type == "cuda":
        return max(1, PIXELS_AT_ONCE // frame.input_size**2)
    return max(1, TOKENS_AT_ONCE // frame.grid**2)


def embed_cases(
    sam: FrozenSam, root: Path, cases: Sequence[Case], device: torch.device, input_range: InputRange = "unit"
) -> Iterator[EmbeddedCase]:
    """Yield the cases in their order, encoded in batches; the encoder is already on the device.

    The next batch is read and resized while one is encoded.
    """
    size = choose_batch_size(sam.frame, device)
    batches = [cases[start : start + size] for start in range(0, len(cases), size)]
    read = partial(_read_batch, sam, root, input_range)
    for batch, (images, masks) in zip(batches, prefetch(read, batches), strict=True):
        embeddings = encode_images(sam, images.to(device), input_range).to(torch.float16).cpu().numpy()
        for case, embedding, mask in zip(batch, embeddings, masks, strict=True):
            box = sam.frame.scale_box(case.box_xyxy, case.height, case.width)
            yield EmbeddedCase(case.case_id, embedding, mask, box)


def _read_batch(
    sam: FrozenSam, root: Path, input_range: InputRange, cases: Sequence[Case]
) -> tuple[Tensor, list[NDArray[np.uint8]]]:
    """Return images (B, 3, S, S) and their references at low resolution."""
    how = sam.entry.interpolation
    images = [preprocess_image(load_image(root, case), sam.frame, how, input_range) for case in cases]
    return torch.stack(images), [compute_mask_low_res(load_mask(root, case), sam.frame) for case in cases]


def compute_mask_low_res(mask: NDArray[np.bool_], frame: Frame) -> NDArray[np.uint8]:
    """Return (L, L): the share of each low-resolution pixel that the mask (H, W) covers, times 255, 0 in padding."""
    if frame.fit == "stretch":
        shares = _compute_shares(mask, (frame.low_res_size, frame.low_res_size))
    else:
        rows, columns = frame.fit_image(*mask.shape)
        right, below = frame.input_size - columns, frame.input_size - rows
        padded = functional.pad(_compute_shares(mask, (rows, columns)), (0, right, 0, below))
        shares = functional.avg_pool2d(padded[None, None], frame.input_size // frame.low_res_size)[0, 0]
    low_res: NDArray[np.uint8] = (shares * 255).round().to(torch.uint8).numpy()
    return low_res


def _compute_shares(mask: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Return the share of each pixel of a grid of this size that a mask over the same ground covers."""
    tensor = torch.from_numpy(mask).float()[None, None]
    whole = [-(-old // new) * new for old, new in zip(mask.shape, size, strict=True)]  # then area averages are exact
    enlarged = functional.interpolate(tensor, size=whole, mode="bilinear", align_corners=False)
    shares: Tensor = functional.avg_pool2d(enlarged, (whole[0] // size[0], whole[1] // size[1]))[0, 0]
    return shares
