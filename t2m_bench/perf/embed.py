"""Encoding a folder of images with mini: one after the other into files, ours into a shard, and the encoder alone."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.images import load_image
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.embedding.encode import count_bytes_per_case, embed_cases
from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import finish_shards, plan_shards, write_shard
from t2m_bench.models.encoder_input import preprocess_image
from t2m_bench.models.sam import encode_images, load_sam
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, measure
from t2m_bench.recipe.encoders import DEFAULT_ENCODER

NUM_CASES, SHARD_MIB, REPEATS, BATCH_SIZE = 64, 256, 5, 16


def measure_embed(device: str, num_cases: int = NUM_CASES, repeats: int = REPEATS) -> Measurement:
    """Measure from PNG files to embeddings on disk.

    Raises:
        AssertionError: the two ways store other embeddings than rounding explains.
    """
    sam = load_sam(DEFAULT_ENCODER)
    sam.image_encoder.to(device)
    with tempfile.TemporaryDirectory(prefix="t2m-perf-") as name:
        folder = Path(name)
        root = folder / "images"
        write_bus_bra_phantom(root, num_cases=num_cases, seed=0, text_effect=1.0)
        cases = read_bus_bra(root)
        signature = Signature("perf", "", "", "")
        (plan,) = plan_shards([case.case_id for case in cases], count_bytes_per_case(sam.frame.grid), SHARD_MIB)

        def encode(position: int) -> torch.Tensor:
            image = preprocess_image(load_image(root, cases[position]), sam.frame)
            return encode_images(sam, image[None].to(device))[0].half().cpu()

        def run_plain() -> None:
            for position, case in enumerate(cases):
                torch.save(encode(position), folder / f"{case.case_id}.pt")

        def run_ours() -> None:
            write_shard(folder / "shards", plan, signature, embed_cases(sam, root, cases, torch.device(device)))

        images = torch.stack([preprocess_image(load_image(root, case), sam.frame) for case in cases]).to(device)

        def run_limit() -> None:
            for start in range(0, len(cases), BATCH_SIZE):
                encode_images(sam, images[start : start + BATCH_SIZE]).cpu()

        run_ours()
        finish_shards(folder / "shards", [plan], signature)
        stored = ShardReader(folder / "shards").read([case.case_id for case in cases]).image_embedding
        encoded = np.stack([encode(position).numpy() for position in range(len(cases))])
        np.testing.assert_allclose(stored, encoded, rtol=2e-2, atol=2e-2)
        ways = {
            (PLAIN, "image after image, torch.save"): run_plain,
            (OURS, "batches, the next one read meanwhile, one HDF5 shard"): run_ours,
            (LIMIT, "encoder alone, images in memory"): run_limit,
        }
        setting = f"{num_cases} images of 256x256, mini, {device}, {torch.get_num_threads()} threads"
        return measure("embed", setting, ways, repeats)
