"""A training step on random embeddings: the same weights and cases for every way of computing it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2m_bench.models.fusion import FusionAdapter, build_adapter
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.models.torchvision_ops import declare_missing_operators
from t2m_bench.recipe.schema import IMAGE_WIDTH, AdapterSection
from t2m_bench.training.batches import MicroBatch

FULL_GRID, TOKEN_PX, TEXT_WIDTH, NUM_CLASSES = 64, 16, 768, 4
MINI_GRID, MINI_MLP_WIDTH, FULL_MLP_WIDTH = 16, 256, 2048


@dataclass(frozen=True)
class Alone:
    """One process by itself, in fp32 or under autocast: as `training.step.Group` asks, and `training.evaluate`'s."""

    device: torch.device
    bf16: bool = False
    rank: int = 0
    world_size: int = 1

    @property
    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=False)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_gradients(self, module: nn.Module) -> None:
        pass


@dataclass(frozen=True)
class Problem:
    """Inputs of a training step."""

    adapter: FusionAdapter
    segmenter: BoxSegmenter
    batch: MicroBatch


def make_problem(device: torch.device, batch_size: int, grid: int) -> Problem:
    """Make a hierarchical adapter, a frozen decoder and a batch; all of it follows from a fixed seed.

    Args:
        grid: side of the token grid; MINI_GRID takes the decoder of the mini model, all others that of SAM ViT-B.
    """
    generator = torch.Generator().manual_seed(0)
    # as wide inside as nn.MultiheadAttention always is, so that both ways compute the same numbers
    # an adapter that starts at the frozen model has gradients of nearly 0, of which none could be missed
    section = AdapterSection(inner_width=IMAGE_WIDTH, start="unscaled")
    adapter = build_adapter(section, TEXT_WIDTH, generator)
    box = torch.tensor([[0.2, 0.25, 0.7, 0.8]]).expand(batch_size, -1) * grid * TOKEN_PX
    batch = MicroBatch(
        positions=torch.arange(batch_size),
        image_embedding=_lay_out(torch.randn(batch_size, IMAGE_WIDTH, grid, grid, generator=generator)),
        text_embedding=torch.randn(batch_size, TEXT_WIDTH, generator=generator),
        text_class=torch.arange(batch_size) % NUM_CLASSES,
        mask_low_res=(torch.rand(batch_size, 4 * grid, 4 * grid, generator=generator) > 0.5).float(),
        box_xyxy=box,
    )
    return Problem(adapter.to(device), build_segmenter(grid).to(device), batch.to(device))


def _lay_out(image_embedding: Tensor) -> Tensor:
    """Lay an embedding out as `BatchMaker` does."""
    return image_embedding.contiguous(memory_format=torch.channels_last)


def build_segmenter(grid: int) -> BoxSegmenter:
    """Build SAM's own prompt encoder and mask decoder (segment_anything/build_sam.py) with random weights."""
    declare_missing_operators()
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    is_mini = grid == MINI_GRID
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        side = grid * TOKEN_PX
        prompt_encoder = PromptEncoder(IMAGE_WIDTH, (grid, grid), (side, side), 16)
        mlp_width = MINI_MLP_WIDTH if is_mini else FULL_MLP_WIDTH
        transformer = TwoWayTransformer(depth=2, embedding_dim=IMAGE_WIDTH, mlp_dim=mlp_width, num_heads=8)
        mask_decoder = MaskDecoder(
            transformer_dim=IMAGE_WIDTH, transformer=transformer, num_multimask_outputs=0 if is_mini else 3
        )
    return BoxSegmenter(prompt_encoder, mask_decoder)
