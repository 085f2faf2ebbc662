"""A real ViT-B (random weights in MedSAM's file format) from a dataset folder through shards to a step and a mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ranks_bench import make_recipe
from torch.nn import functional

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.frame import Frame
from t2m_bench.data.images import load_mask
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.embedding.encode import compute_mask_low_res, count_bytes_per_case, embed_cases
from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import finish_shards, plan_shards, write_shard
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.metrics.overlap import compute_dice
from t2m_bench.models.fusion import build_adapter
from t2m_bench.models.sam import build_sam, load_sam
from t2m_bench.models.segmenter import BoxSegmenter, restore_mask
from t2m_bench.training.batches import BatchMaker
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.step import compute_gradients
from t2m_bench.training.updater import build_updater


def test_low_res_masks_keep_the_covered_share() -> None:
    mask = np.zeros((300, 420), bool)
    mask[37:211, 100:333] = True
    low_res = compute_mask_low_res(mask, Frame(256, 16))
    assert low_res.shape == (64, 64)
    assert low_res.mean() / 255 == pytest.approx(mask.mean(), rel=0.01)
    exact = np.zeros((128, 128), bool)
    exact[0, 0] = True
    assert compute_mask_low_res(exact, Frame(256, 16))[0, 0] == 64  # a quarter of 255, rounded


@pytest.mark.cluster  # half a minute: the full size; models/test_sam.py loads and refuses it
def test_vit_b_from_folder_to_step_to_mask(tmp_path: Path) -> None:
    write_bus_bra_phantom(tmp_path / "data", num_cases=5, seed=0, text_effect=1.0)
    cases = read_bus_bra(tmp_path / "data")[:2]
    torch.manual_seed(0)
    torch.save(build_sam("vit_b").state_dict(), tmp_path / "medsam_vit_b.pth")
    sam = load_sam("vit_b", tmp_path / "medsam_vit_b.pth")
    case_ids = [case.case_id for case in cases]
    signature = Signature(sam.entry.name, sam.weights_sha256, sam.entry.get_preprocessing_id(), "m" * 64)
    plans = plan_shards(case_ids, count_bytes_per_case(sam.frame.grid), shard_mib=256)
    embedded = embed_cases(sam, tmp_path / "data", cases, torch.device("cpu"))
    entry = write_shard(tmp_path / "shards", plans[0], signature, embedded)
    assert entry.bytes == pytest.approx(2 * count_bytes_per_case(sam.frame.grid), rel=0.01)
    finish_shards(tmp_path / "shards", plans, signature)

    recipe = make_recipe()
    rows = {value: (row,) for row, value in enumerate(("2", "3", "4", "5", "unknown"))}
    fields = {case.case_id: case.text_fields for case in cases}
    texts = TextTable(torch.randn(5, 768), {"birads": rows}, fields)
    reader = ShardReader(tmp_path / "shards", signature)
    sizes = {case.case_id: (case.height, case.width) for case in cases}
    batches = BatchMaker(reader, texts, tuple(case_ids), 0, 2, 2, 0.0, 0.0, sam.frame, sizes)
    adapter = build_adapter(recipe.adapter, 768, torch.Generator().manual_seed(0))
    segmenter = BoxSegmenter(sam.prompt_encoder, sam.mask_decoder)
    batch = list(batches.make(0, 0, 0, 1))
    ranks = ProcessGroup("no", use_gpu=False)
    before = {name: parameter.detach().clone() for name, parameter in adapter.named_parameters()}
    losses = compute_gradients(adapter, segmenter, batch, 2, recipe.loss, ranks)
    assert np.isfinite(losses.total(recipe.loss))
    assert all(torch.isfinite(parameter.grad).all() for parameter in adapter.parameters())
    updater = build_updater(adapter, recipe.optim, ranks)
    updater.update(1e-3)
    unmoved = {name for name, parameter in adapter.named_parameters() if parameter.equal(before[name])}
    # one text token has no softmax, so its query and key have no say; a bias of keys shifts all logits alike
    assert all(".coarse.attention." in name or name.endswith("key.bias") for name in unmoved)
    assert len(unmoved) < len(before) / 2

    with torch.no_grad():
        fused = adapter(batch[0].image_embedding, batch[0].text_embedding).image_embedding
        low_res_logits = segmenter(fused, batch[0].box_xyxy)
    assert low_res_logits.shape == (2, 256, 256)
    case = cases[0]
    restored = restore_mask(low_res_logits[0], sam.frame, case.height, case.width)
    mask = load_mask(tmp_path / "data", case)
    plain = functional.interpolate(low_res_logits[None, :1], size=mask.shape, mode="bilinear")[0, 0].numpy() > 0
    overlap = 2 * (plain & mask).sum() / (plain.sum() + mask.sum())
    assert compute_dice(restored.numpy(), mask) == pytest.approx(overlap, abs=0.02)
    share = torch.from_numpy(reader.read(case_ids[:1]).mask_low_res[0]).float() / 255
    stored = restore_mask(torch.logit(share.clamp(1e-4, 1 - 1e-4)), sam.frame, case.height, case.width)
    assert compute_dice(stored.numpy(), mask) > 0.97, "the stored reference is the case's mask"
