import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from full_disk import limit_file_size

from t2m_bench.errors import ShardError
from t2m_bench.shards.reader import ShardReader, verify_files
from t2m_bench.shards.schema import INDEX_NAME, Signature
from t2m_bench.shards.writer import EmbeddedCase, ShardPlan, find_finished, finish_shards, plan_shards, write_shard

SIGNATURE = Signature("mini", "a" * 64, "bicubic-256", "b" * 64)
CASE_IDS = [f"case-{number}" for number in range(7)]


def make_case(case_id: str, side: int = 4) -> EmbeddedCase:
    rng = np.random.default_rng(int(case_id.split("-")[1]))
    return EmbeddedCase(
        case_id,
        rng.standard_normal((256, side, side)).astype(np.float16),
        rng.integers(0, 256, (4 * side, 4 * side), dtype=np.uint8),
        rng.uniform(0, 256, 4).astype(np.float32),
    )


def plans_of_three() -> list[ShardPlan]:
    return plan_shards(CASE_IDS, bytes_per_case=2**20 // 3, shard_mib=1)


def write_all(folder: Path) -> None:
    plans = plans_of_three()
    for plan in plans:
        write_shard(folder, plan, SIGNATURE, map(make_case, plan.case_ids))
    finish_shards(folder, plans, SIGNATURE)


def test_a_clusters_job_is_told_of_each_finished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2M_SAVED", str(tmp_path / "saved"))
    plan = plans_of_three()[0]
    write_shard(tmp_path, plan, SIGNATURE, map(make_case, plan.case_ids))
    assert (tmp_path / "saved").is_file()


def test_what_is_written_is_read_back_in_any_order(tmp_path: Path) -> None:
    write_all(tmp_path)
    reader = ShardReader(tmp_path, SIGNATURE)
    assert reader.case_ids == tuple(CASE_IDS)
    assert [len(entry.case_ids) for entry in reader.index.entries] == [3, 3, 1]
    order = ["case-5", "case-0", "case-6", "case-5"]
    batch = reader.read(order)
    for row, case_id in enumerate(order):
        want = make_case(case_id)
        np.testing.assert_array_equal(batch.image_embedding[row], want.image_embedding)
        np.testing.assert_array_equal(batch.mask_low_res[row], want.mask_low_res)
        np.testing.assert_array_equal(batch.box_xyxy[row], want.box_xyxy)


def test_a_batch_is_read_into_given_memory(tmp_path: Path) -> None:
    write_all(tmp_path)
    reader = ShardReader(tmp_path, SIGNATURE)
    into = reader.read(CASE_IDS[:4])
    found = reader.read(["case-6", "case-1"], into)
    assert np.shares_memory(found.image_embedding, into.image_embedding)
    for name in ("image_embedding", "mask_low_res", "box_xyxy"):
        want = np.stack([getattr(make_case(case_id), name) for case_id in ("case-6", "case-1")])
        np.testing.assert_array_equal(getattr(found, name), want)


def test_more_files_than_may_be_open_are_opened_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path)
    monkeypatch.setattr("t2m_bench.shards.reader.MAX_OPEN_FILES", 2)
    reader = ShardReader(tmp_path, SIGNATURE)
    order = CASE_IDS * 2 + ["case-0", "case-3", "case-6"] * 3
    boxes = reader.read(order).box_xyxy
    np.testing.assert_array_equal(boxes, np.stack([make_case(case_id).box_xyxy for case_id in order]))
    opened = [link for link in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in link]
    assert len(opened) == 2


def test_an_interrupted_embedding_keeps_what_it_finished(tmp_path: Path) -> None:
    plans = plans_of_three()
    write_shard(tmp_path, plans[0], SIGNATURE, map(make_case, plans[0].case_ids))

    def break_off(plan: ShardPlan) -> Iterator[EmbeddedCase]:
        yield make_case(plan.case_ids[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, plans[1], SIGNATURE, break_off(plans[1]))
    assert list(find_finished(tmp_path, plans, SIGNATURE)) == [plans[0].file]
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial"))
    with pytest.raises(ShardError, match="2 files are not finished"):
        finish_shards(tmp_path, plans, SIGNATURE)
    with pytest.raises(ShardError, match="incomplete"):
        ShardReader(tmp_path)
    for plan in plans[1:]:
        write_shard(tmp_path, plan, SIGNATURE, map(make_case, plan.case_ids))
    assert finish_shards(tmp_path, plans, SIGNATURE).num_cases == len(CASE_IDS)


def test_finished_files_of_another_encoder_are_not_reused(tmp_path: Path) -> None:
    plans = plans_of_three()
    write_shard(tmp_path, plans[0], SIGNATURE, map(make_case, plans[0].case_ids))
    assert not find_finished(tmp_path, plans, replace(SIGNATURE, weights_sha256="c" * 64))


def test_shards_of_another_encoder_are_refused_with_both_values(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(ShardError, match="image_encoder = mini, but the recipe asks for vit_b"):
        ShardReader(tmp_path, replace(SIGNATURE, image_encoder="vit_b"))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / "shard-00001.h5"
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(ShardError, match=r"shard-00001\.h5: \d+ bytes, the index says \d+"):
        ShardReader(tmp_path)


def test_an_altered_file_is_refused_even_after_it_was_verified(tmp_path: Path) -> None:
    write_all(tmp_path)
    ShardReader(tmp_path)
    path = tmp_path / "shard-00000.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ShardError, match=r"shard-00000\.h5: altered"):
        ShardReader(tmp_path)


def test_verification_is_remembered_and_can_be_forced(tmp_path: Path) -> None:
    write_all(tmp_path)
    ShardReader(tmp_path)
    path = tmp_path / "shard-00002.h5"
    stamp = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    verify_files(tmp_path)  # same size and time: not hashed again
    with pytest.raises(ShardError, match="altered"):
        verify_files(tmp_path, always=True)


@pytest.mark.parametrize("text", ["", "[]", '{"entries": []}', '{"entries": [3], "signature": {}}'])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX_NAME).write_text(text)
    with pytest.raises(ShardError, match="not an index"):
        ShardReader(tmp_path)


def test_a_full_disk_is_one_message_and_finished_files_stay(tmp_path: Path) -> None:
    plans = [ShardPlan("shard-00000.h5", ("case-0",)), ShardPlan("shard-00001.h5", ("case-1",))]
    with limit_file_size(2**20):
        write_shard(tmp_path, plans[0], SIGNATURE, [make_case("case-0", side=32)])
        with pytest.raises(ShardError, match="disk is full while writing shard-00001"):
            write_shard(tmp_path, plans[1], SIGNATURE, [make_case("case-1", side=64)])
    assert list(find_finished(tmp_path, plans, SIGNATURE)) == ["shard-00000.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-00000.h5", "shard-00000.h5.json"]
