"""Reading embeddings of 64x64x256 in random order from the page cache: ours, its peers, and copying the same bytes."""

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import EmbeddedCase, finish_shards, plan_shards, write_shard
from t2m_bench.errors import UserError
from t2m_bench.models.torchvision_ops import declare_missing_operators
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, measure
from t2m_bench.perf.problem import FULL_GRID
from t2m_bench.recipe.schema import IMAGE_WIDTH

NUM_CASES, BATCH_SIZE, SHARD_MIB, REPEATS = 128, 16, 64, 7

PEERS = {
    "webdataset": "webdataset (pip install '.[perf]' in the checkout)",
    "streaming": "MosaicML Streaming (asks for older numpy and transformers: pip install --no-deps mosaicml-streaming)",
}
"""Module -> what is said where it is absent."""

Embeddings = NDArray[np.float16]
Read = Callable[[], Iterator[torch.Tensor]]
"""One pass over all cases: yields batches (B, D, h, w) float16."""


def measure_shards(
    device: str, num_cases: int = NUM_CASES, grid: int = FULL_GRID, repeats: int = REPEATS
) -> Measurement:
    """Measure a pass over all cases in batches; each way yields tensors, and reads the same values.

    Peers that are not installed are named as lacking.

    Raises:
        UserError: another device than the CPU is asked for.
        AssertionError: a way does not read what was written.
    """
    if device != "cpu":
        raise UserError(f"perf shards: --device {device}: files are read into memory first. Leave --device out.")
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((num_cases, IMAGE_WIDTH, grid, grid), dtype=np.float32).astype(np.float16)
    order = rng.permutation(num_cases)
    with tempfile.TemporaryDirectory(prefix="t2m-perf-") as name:
        folder = Path(name)
        ways = {
            (OURS, "contiguous HDF5 shards, read into the batch"): _prepare_ours(folder / "ours", embeddings, order),
            (PLAIN, "one .pt a case, DataLoader"): _prepare_files(folder / "files", embeddings, order),
        }
        lacking = tuple(peer for peer in PEERS if not importlib.util.find_spec(peer))
        if "webdataset" not in lacking:
            ways[PLAIN, "webdataset (in the order written)"] = _prepare_webdataset(folder / "tar", embeddings)
        if "streaming" not in lacking:
            ways[PLAIN, "MosaicML Streaming, DataLoader"] = _prepare_streaming(folder / "mds", embeddings, order)
        for (_, what), read in ways.items():
            _check(what, read, embeddings[np.arange(num_cases) if what.startswith("webdataset") else order])
        timed: dict[tuple[str, str], Callable[[], object]] = {key: _run(read) for key, read in ways.items()}
        timed[LIMIT, "memory copy of the same bytes"] = _prepare_copy(embeddings, order)
        mib = embeddings.nbytes / 2**20
        setting = f"{num_cases} cases, {mib:.0f} MiB, batches of {BATCH_SIZE}"
        measured = measure("shards", setting, timed, repeats)
    return replace(measured, lacking=tuple(PEERS[peer] for peer in lacking))


def _check(what: str, read: Read, wanted: Embeddings) -> None:
    start = 0
    for batch in read():
        stop = start + len(batch)
        assert np.array_equal(batch.numpy(), wanted[start:stop]), f"{what} reads other values than were written"
        start = stop
    assert start == len(wanted), f"{what} reads {start} cases of {len(wanted)}"


def _run(read: Read) -> Callable[[], object]:
    def drain() -> None:
        for _ in read():
            pass

    return drain


def _prepare_copy(embeddings: Embeddings, order: NDArray[np.int64]) -> Callable[[], object]:
    batch = np.empty_like(embeddings[:BATCH_SIZE])

    def copy() -> None:
        for position, row in enumerate(order):
            np.copyto(batch[position % BATCH_SIZE], embeddings[row])

    return copy


def _prepare_ours(folder: Path, embeddings: Embeddings, order: NDArray[np.int64]) -> Read:
    names = [f"case-{number}" for number in range(len(embeddings))]
    signature = Signature("perf", "", "", "")
    plans = plan_shards(names, embeddings[0].nbytes, SHARD_MIB)
    by_name = dict(zip(names, embeddings, strict=True))
    no_mask, no_box = np.zeros((1, 1), np.uint8), np.zeros(4, np.float32)
    for plan in plans:
        cases = (EmbeddedCase(name, by_name[name], no_mask, no_box) for name in plan.case_ids)
        write_shard(folder, plan, signature, cases)
    finish_shards(folder, plans, signature)
    reader = ShardReader(folder, signature)
    shuffled = [names[row] for row in order]
    buffers = reader.read(shuffled[:BATCH_SIZE])

    def read() -> Iterator[torch.Tensor]:
        for start in range(0, len(shuffled), BATCH_SIZE):
            yield torch.from_numpy(reader.read(shuffled[start : start + BATCH_SIZE], buffers).image_embedding)

    return read


class _Files(Dataset[torch.Tensor]):
    """One file a case, as torch saves it."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> torch.Tensor:
        loaded: torch.Tensor = torch.load(self._paths[position], weights_only=True)
        return loaded


def _prepare_files(folder: Path, embeddings: Embeddings, order: NDArray[np.int64]) -> Read:
    folder.mkdir()
    paths = [folder / f"{number}.pt" for number in range(len(embeddings))]
    for path, embedding in zip(paths, embeddings, strict=True):
        torch.save(torch.from_numpy(embedding.copy()), path)
    loader = DataLoader(_Files([paths[row] for row in order]), batch_size=BATCH_SIZE)
    return lambda: iter(loader)


def _prepare_webdataset(folder: Path, embeddings: Embeddings) -> Read:
    import webdataset

    folder.mkdir()
    per_file = max(1, SHARD_MIB * 2**20 // embeddings[0].nbytes)
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=per_file, verbose=0) as writer:
        for number, embedding in enumerate(embeddings):
            writer.write({"__key__": str(number), "npy": embedding})
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def read() -> Iterator[torch.Tensor]:
        dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode().to_tuple("npy")
        for (batch,) in dataset.batched(BATCH_SIZE):
            yield torch.as_tensor(np.stack(list(batch)) if isinstance(batch, list) else batch)

    return read


def _prepare_streaming(folder: Path, embeddings: Embeddings, order: NDArray[np.int64]) -> Read:
    declare_missing_operators()  # streaming imports torchvision
    with contextlib.redirect_stdout(None):
        from streaming import LocalDataset, MDSWriter

    with MDSWriter(out=str(folder), columns={"embedding": f"ndarray:float16:{_shape(embeddings)}"}) as writer:
        for embedding in embeddings:
            writer.write({"embedding": embedding})
    loader = DataLoader(LocalDataset(str(folder)), batch_size=BATCH_SIZE, sampler=order.tolist())

    def read() -> Iterator[torch.Tensor]:
        for batch in loader:
            yield batch["embedding"]

    return read


def _shape(embeddings: Embeddings) -> str:
    return ",".join(str(side) for side in embeddings.shape[1:])
