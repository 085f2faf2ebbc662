"""An epoch of training with the encoder in the loop, from shards, and of the frozen decoder alone."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from t2m_bench.data.frame import Frame
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import EmbeddedCase, finish_shards, plan_shards, write_shard
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.models.fusion import build_adapter
from t2m_bench.models.sam import build_sam
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, measure
from t2m_bench.perf.plain import PlainSegmentation, compute_plain_loss
from t2m_bench.perf.problem import TEXT_WIDTH, Alone
from t2m_bench.recipe.encoders import IMAGE_ENCODERS, MEDSAM_ENCODER
from t2m_bench.recipe.schema import IMAGE_WIDTH, AdapterSection, LossSection
from t2m_bench.training.batches import BatchMaker, MicroBatch
from t2m_bench.training.step import accumulate_gradients

REPEATS = 2
CASE_ID = "case-0"
SIGNATURE = Signature("perf", "", "", "")


def measure_epoch(device: str, preset: str = MEDSAM_ENCODER, repeats: int = REPEATS) -> Measurement:
    """Measure one case of an epoch (they are all alike), fp32, random weights.

    Raises:
        AssertionError: the two ways give other losses than rounding an embedding to 16 bits explains.
    """
    group = Alone(torch.device(device))
    torch.manual_seed(0)
    sam = build_sam(preset).eval().requires_grad_(False).to(device)
    side = IMAGE_ENCODERS.find(preset).input_size
    image = torch.rand(1, 3, side, side, device=device)
    segmenter = BoxSegmenter(sam["prompt_encoder"], sam["mask_decoder"]).to(device)
    generator = torch.Generator().manual_seed(0)
    adapter = build_adapter(AdapterSection(inner_width=IMAGE_WIDTH), TEXT_WIDTH, generator).to(device)
    plain = PlainSegmentation(adapter, segmenter)
    with torch.no_grad():
        embedding = sam["image_encoder"](image)
    with tempfile.TemporaryDirectory(prefix="t2m-perf-") as folder:
        maker = _make_batches(Path(folder), embedding, side)
        batch = next(maker.make(0, 0, 0, 1)).to(group.device)
        leaf = batch.image_embedding.clone().requires_grad_()

        def run_plain() -> float:
            with torch.no_grad():
                encoded = sam["image_encoder"](image)
            outputs = plain(encoded, batch.text_embedding, batch.box_xyxy)
            loss = compute_plain_loss(outputs, batch.mask_low_res, batch.text_class)
            loss.backward()
            return float(loss.detach())

        def run_ours() -> float:
            made: list[MicroBatch] = [part.to(group.device) for part in maker.make(0, 0, 0, 1)]
            losses = accumulate_gradients(adapter, segmenter, made, 1, LossSection(), group)
            return losses.total(LossSection())

        def run_limit() -> float:
            total = segmenter(leaf, batch.box_xyxy).sum()
            total.backward()
            leaf.grad = None
            return float(total.detach())

        ours, reference = run_ours(), run_plain()
        assert abs(ours - reference) <= 0.02 * reference, f"losses {ours} from shards and {reference} with the encoder"
        ways = {
            (PLAIN, f"{preset} encoder in the loop, plain step"): run_plain,
            (OURS, "read from a shard, our step"): run_ours,
            (LIMIT, "our decode alone, forward and backward"): run_limit,
        }
        setting = f"one case, read anew from page cache, {preset}, fp32, {device}, {torch.get_num_threads()} threads"
        return measure("epoch", setting, ways, repeats)


def _make_batches(folder: Path, embedding: torch.Tensor, side: int) -> BatchMaker:
    """Store an embedding (1, D, g, g) as a shard and return what makes batches of it."""
    low_res = 4 * embedding.shape[-1]
    mask = np.zeros((low_res, low_res), np.uint8)
    mask[low_res // 4 : low_res // 2, low_res // 5 : low_res // 2] = 255
    box = np.array([0.2, 0.25, 0.5, 0.5], np.float32) * side
    case = EmbeddedCase(CASE_ID, embedding[0].to(torch.float16).cpu().numpy(), mask, box)
    plans = plan_shards([CASE_ID], case.image_embedding.nbytes, 1)
    write_shard(folder, plans[0], SIGNATURE, [case])
    finish_shards(folder, plans, SIGNATURE)
    texts = torch.randn(2, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    frame = Frame(side, embedding.shape[-1])
    table = TextTable(texts, {"birads": {"4": (0,), UNKNOWN: (1,)}}, {CASE_ID: {"birads": "4"}})
    return BatchMaker(
        ShardReader(folder, SIGNATURE), table, (CASE_ID,), 0, 1, 1, 0.0, 0.0, frame, {CASE_ID: (side, side)}
    )
