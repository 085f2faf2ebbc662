from collections.abc import Callable

import numpy as np
import pytest
from messages import raises_naming
from numpy.typing import NDArray

from t2m_bench.embedding.shards.reader import EmbeddedBatch, ShardReader
from t2m_bench.errors import UserError
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN
from t2m_bench.perf.shards import measure_shards


def test_all_ways_read_the_same_values() -> None:
    found = measure_shards("cpu", num_cases=20, grid=4, repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = measure_shards("cpu", num_cases=2, grid=4, repeats=1)
    assert [peer.split()[0] for peer in found.to_json()["lacking"]] == ["webdataset", "MosaicML"]
    assert len(found.rows) == 3


@pytest.mark.parametrize("change", [lambda embeddings: embeddings + np.float16(1), lambda embeddings: embeddings[::-1]])
def test_a_reader_of_other_values_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[NDArray[np.float16]], NDArray[np.float16]]
) -> None:
    right = ShardReader.read

    def read(self: ShardReader, case_ids: list[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch:
        found = right(self, case_ids, into)
        return EmbeddedBatch(change(found.image_embedding).copy(), found.mask_low_res, found.box_xyxy)

    monkeypatch.setattr(ShardReader, "read", read)
    with pytest.raises(AssertionError, match="other values"):
        measure_shards("cpu", num_cases=20, grid=4, repeats=1)


def test_another_device_is_refused() -> None:
    with raises_naming(UserError, "perf shards", "--device", "cuda", "memory"):
        measure_shards("cuda")
