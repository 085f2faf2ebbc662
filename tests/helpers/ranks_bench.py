"""A small training problem on random embeddings, and processes that train it together."""

import faulthandler
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp

from t2m_bench.data.frame import Frame
from t2m_bench.embedding.shards.reader import EmbeddedBatch
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.models.arm import Arm, BuildContext, Built
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.models.torchvision_ops import declare_missing_operators
from t2m_bench.recipe.arms import ARMS, DEFAULT_ARM
from t2m_bench.recipe.registry import load_object
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.training.batches import BatchMaker
from t2m_bench.training.process_group import ProcessGroup, join_group
from t2m_bench.training.step import compute_gradients

CASE_IDS = tuple(f"case-{number}" for number in range(21))


class RandomSource:
    """Embeddings that follow from the case's number."""

    def read(self, case_ids: Sequence[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch:
        made = [self._make(int(case_id.split("-")[1])) for case_id in case_ids]
        return EmbeddedBatch(*(np.stack(column) for column in zip(*made, strict=True)))

    def _make(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(number)
        mask = np.zeros((16, 16), np.uint8)
        mask[2 : 5 + number % 8, 3:12] = 255
        box = np.array([12, 8, 48, 4 * (5 + number % 8)], np.float32)
        return rng.standard_normal((256, 4, 4)).astype(np.float16), mask, box


def make_recipe(**optim: object) -> Recipe:
    raw = {
        "name": "trial",
        "dataset": {"root": "nowhere"},
        "adapter": {"start": "unscaled"},  # near the frozen model all gradients but the norm's would be next to nothing
        "optim": {"epochs": 3, "global_batch_size": 16, "micro_batch_size": 16, "warmup_steps": 2, **optim},
    }
    return parse_recipe(raw, "test")


def make_segmenter(grid: int = 4) -> BoxSegmenter:
    declare_missing_operators()
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=64, num_heads=8)
    encoder = PromptEncoder(256, (grid, grid), (16 * grid, 16 * grid), 16)
    return BoxSegmenter(encoder, MaskDecoder(transformer_dim=256, transformer=transformer))


def make_adapter(recipe: Recipe) -> Arm:
    generator = torch.Generator().manual_seed(recipe.seed)
    context = BuildContext(recipe.adapter, 768, 0, generator, make_segmenter())
    built: Built = load_object(ARMS.find(recipe.adapter.kind).build)(context)
    return built.arm


def make_batches(recipe: Recipe) -> BatchMaker:
    generator = torch.Generator().manual_seed(1)
    fields = {case_id: {"birads": str(2 + number % 4)} for number, case_id in enumerate(CASE_IDS)}
    rows = {value: (2 * row, 2 * row + 1) for row, value in enumerate(("2", "3", "4", "5", "unknown"))}
    texts = TextTable(torch.randn(10, 768, generator=generator), {"birads": rows}, fields)
    optim = recipe.optim
    sizes = dict.fromkeys(CASE_IDS, (40, 50))
    batch = (optim.global_batch_size, optim.micro_batch_size)
    return BatchMaker(RandomSource(), texts, CASE_IDS, recipe.seed, *batch, 0.1, 0.1, Frame(64, 4), sizes)


def compute_one_gradient(step: int, micro_batch_size: int, kind: str = DEFAULT_ARM) -> dict[str, torch.Tensor]:
    """Return losses and the flat gradient of one global batch on this process's ranks."""
    torch.set_num_threads(1)
    recipe = make_recipe(micro_batch_size=micro_batch_size).with_arm(kind, seed=0)
    adapter, ranks, batches = make_adapter(recipe), ProcessGroup("no", use_gpu=False), make_batches(recipe)
    micro_batches = list(batches.make(0, step, ranks.rank, ranks.world_size))
    losses = compute_gradients(adapter, make_segmenter(), micro_batches, batches.count_cases(step), recipe.loss, ranks)
    gradient = torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()])
    return {"losses": torch.tensor(list(vars(losses).values())), "gradient": gradient}


def run_ranks(
    out: Path, world_size: int, step: int, micro_batch_size: int, kind: str = DEFAULT_ARM
) -> dict[str, torch.Tensor]:
    """Compute the gradient of one global batch on real processes that talk by gloo."""
    mp.spawn(_run_rank, (world_size, find_port(), out, step, micro_batch_size, kind), nprocs=world_size)
    return torch.load(out, weights_only=True)


def find_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def join_ranks(rank: int, world_size: int, port: int) -> None:
    """Make this process one rank of several."""
    faulthandler.enable()
    os.environ["OMP_NUM_THREADS"] = "1"  # unset, Accelerate shares out the machine's, which spin where others work too
    join_group(rank, world_size, port)


def _run_rank(rank: int, world_size: int, port: int, out: Path, step: int, micro_batch_size: int, kind: str) -> None:
    join_ranks(rank, world_size, port)
    result = compute_one_gradient(step, micro_batch_size, kind)
    if rank == 0:
        torch.save(result, out)
    torch.distributed.destroy_process_group()
