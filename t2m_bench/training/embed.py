"""From a case to what is stored of it: the frozen encoder's embedding, the reference at low resolution, the box."""

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
from t2m_bench.data.images import load_image, load_mask
from t2m_bench.errors import WeightsError
from t2m_bench.models.sam import EMBEDDING_WIDTH, UNIT, FrozenSam, encode_images, load_sam, preprocess_image
from t2m_bench.shards.schema import ShardEntry, Signature
from t2m_bench.shards.writer import EmbeddedCase, ShardPlan, write_shard
from t2m_bench.training.ahead import make_ahead

PIXELS_AT_ONCE = 2**20
"""Encoder input pixels of one batch: one image at 1024 px, sixteen at 256 px."""

LOW_RES_FACTOR = 4
"""Low-resolution logits have four pixels a side for each token (segment_anything/modeling/mask_decoder.py)."""


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
    input_range: str = UNIT

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


def check_weights(sam: FrozenSam, signature: Signature) -> None:
    """See that a process has the weights which the embeddings are signed with; hosts may have other files.

    Raises:
        WeightsError: it has others; names both.
    """
    if sam.weights_sha256 != signature.weights_sha256:
        raise WeightsError(
            f"image encoder {sam.preset}: its weights on {socket.gethostname()} have sha256 {sam.weights_sha256}, the "
            f"embeddings are made with {signature.weights_sha256}. Give all hosts the same file and version."
        )


def count_bytes_per_case(grid: int) -> int:
    """Return what one case takes in a shard, for a token grid of this side."""
    return EMBEDDING_WIDTH * grid**2 * 2 + (LOW_RES_FACTOR * grid) ** 2 + 16


def embed_cases(
    sam: FrozenSam, root: Path, cases: Sequence[Case], device: torch.device, input_range: str = UNIT
) -> Iterator[EmbeddedCase]:
    """Yield the cases in their order, encoded in batches; the encoder is already on the device.

    The next batch is read and resized while one is encoded.
    """
    size = max(1, PIXELS_AT_ONCE // sam.image_size**2)
    batches = [cases[start : start + size] for start in range(0, len(cases), size)]
    read = partial(_read_batch, sam, root, input_range)
    for batch, (images, masks) in zip(batches, make_ahead(read, batches), strict=True):
        embeddings = encode_images(sam, images.to(device), input_range).to(torch.float16).cpu().numpy()
        for case, embedding, mask in zip(batch, embeddings, masks, strict=True):
            yield EmbeddedCase(case.case_id, embedding, mask, scale_box(case, sam.image_size))


def _read_batch(
    sam: FrozenSam, root: Path, input_range: str, cases: Sequence[Case]
) -> tuple[Tensor, list[NDArray[np.uint8]]]:
    """Return images (B, 3, S, S) and their references at low resolution."""
    images = torch.stack([preprocess_image(load_image(root, case), sam.image_size, input_range) for case in cases])
    return images, [compute_mask_low_res(load_mask(root, case), LOW_RES_FACTOR * sam.grid) for case in cases]


def compute_mask_low_res(mask: NDArray[np.bool_], side: int) -> NDArray[np.uint8]:
    """Return (side, side): the share of each low-resolution pixel that the mask (H, W) covers, times 255."""
    height, width = mask.shape
    tensor = torch.from_numpy(mask).float()[None, None]
    rows, columns = -(-height // side) * side, -(-width // side) * side  # whole multiples, then exact area averages
    enlarged = functional.interpolate(tensor, size=(rows, columns), mode="bilinear", align_corners=False)
    shares = functional.avg_pool2d(enlarged, (rows // side, columns // side))[0, 0]
    low_res: NDArray[np.uint8] = (shares * 255).round().to(torch.uint8).numpy()
    return low_res


def scale_box(case: Case, image_size: int) -> NDArray[np.float32]:
    """Return the case's box (4,) in pixels of the encoder's square input."""
    scale = np.array([image_size / case.width, image_size / case.height] * 2)
    box_xyxy: NDArray[np.float32] = (np.array(case.box_xyxy) * scale).astype(np.float32)
    return box_xyxy
