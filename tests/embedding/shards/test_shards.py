import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from full_disk import limit_file_size
from hypothesis import given
from hypothesis import strategies as st
from messages import raises_naming

from t2m_bench.embedding.shards.reader import ShardReader, verify_files
from t2m_bench.embedding.shards.schema import (
    CASES_NAME,
    INDEX_NAME,
    ShardEntry,
    ShardIndex,
    Signature,
    compute_file_sha256,
    load_index,
    open_case_index,
    write_cases,
    write_index,
)
from t2m_bench.embedding.shards.writer import (
    EmbeddedCase,
    ShardPlan,
    find_finished,
    finish_shards,
    plan_shards,
    write_shard,
)
from t2m_bench.errors import ShardError

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


def alter(path: Path) -> None:
    """Change the last byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_a_clusters_job_is_told_of_each_finished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2M_SAVED", str(tmp_path / "saved"))
    plan = plans_of_three()[0]
    write_shard(tmp_path, plan, SIGNATURE, map(make_case, plan.case_ids))
    assert (tmp_path / "saved").is_file()


def test_what_is_written_is_read_back_in_any_order(tmp_path: Path) -> None:
    write_all(tmp_path)
    reader = ShardReader(tmp_path, SIGNATURE)
    assert [entry.num_cases for entry in reader.index.entries] == [3, 3, 1]
    order = ["case-5", "case-0", "case-6", "case-5"]
    batch = reader.read(order)
    for row, case_id in enumerate(order):
        want = make_case(case_id)
        np.testing.assert_array_equal(batch.image_embedding[row], want.image_embedding)
        np.testing.assert_array_equal(batch.mask_low_res[row], want.mask_low_res)
        np.testing.assert_array_equal(batch.box_xyxy[row], want.box_xyxy)


def test_a_case_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    for absent in ("case-60", "case", "", "d", "Case-1"):
        with raises_naming(ShardError, tmp_path, f"case {absent}"):
            ShardReader(tmp_path).read(["case-1", absent, "case-99"])


@given(st.sets(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_a_case_is_found_by_any_name(names: set[str]) -> None:
    case_ids = list(names)
    with tempfile.TemporaryDirectory() as folder:
        entry = write_cases(Path(folder), case_ids)
        index = ShardIndex(SIGNATURE, entry, (ShardEntry("a", len(names), 0, ""),))
        places = open_case_index(Path(folder), index)
        assert places.find(case_ids).tolist() == list(range(len(names)))
        others = [name for case_id in case_ids for name in (case_id + "x", case_id[:-1]) if name and name not in names]
        assert set(places.find(others)) <= {-1}


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    with raises_naming(ValueError, "cases", "name"):
        write_cases(tmp_path, ["b", "a", "b"])


def test_an_altered_list_of_cases_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    alter(tmp_path / CASES_NAME)
    with raises_naming(ShardError, tmp_path / CASES_NAME, "altered"):
        ShardReader(tmp_path)


def test_a_list_of_cases_is_never_unpickled_nor_of_another_length(tmp_path: Path) -> None:
    write_all(tmp_path)
    index = load_index(tmp_path)
    with raises_naming(ShardError, tmp_path / CASES_NAME, 7, 3):
        open_case_index(tmp_path, replace(index, entries=index.entries[:1]))
    np.save(tmp_path / CASES_NAME, np.array([{"case_id": 1}], dtype=object), allow_pickle=True)
    with raises_naming(ShardError, tmp_path / CASES_NAME, "list"):
        open_case_index(tmp_path, index)


def test_shards_of_an_older_format_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / INDEX_NAME
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with raises_naming(ShardError, path, "format", 1, 2):
        ShardReader(tmp_path)


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
    monkeypatch.setattr("t2m_bench.embedding.shards.reader.MAX_OPEN_FILES", 2)
    reader = ShardReader(tmp_path, SIGNATURE)
    order = CASE_IDS * 2 + ["case-0", "case-3", "case-6"] * 3
    boxes = reader.read(order).box_xyxy
    np.testing.assert_array_equal(boxes, np.stack([make_case(case_id).box_xyxy for case_id in order]))
    links = map(os.path.realpath, Path("/proc/self/fd").iterdir())
    opened = [link for link in links if str(tmp_path) in link and link.endswith(".h5")]
    assert len(opened) == 2
    monkeypatch.setattr(h5py, "File", None)  # HDF5 is asked about a file once, however often it is opened
    np.testing.assert_array_equal(reader.read(order).box_xyxy, boxes)


def test_reading_goes_on_after_a_fork(tmp_path: Path) -> None:
    write_all(tmp_path)
    reader = ShardReader(tmp_path, SIGNATURE)
    reader.read(["case-0"])
    child = os.fork()
    if child == 0:
        same = [np.array_equal(reader.read([name]).box_xyxy[0], make_case(name).box_xyxy) for name in CASE_IDS * 20]
        os._exit(0 if all(same) else 1)
    boxes = reader.read(CASE_IDS[::-1] * 20).box_xyxy
    _, status = os.waitpid(child, 0)
    assert status == 0
    np.testing.assert_array_equal(boxes, np.stack([make_case(name).box_xyxy for name in CASE_IDS[::-1] * 20]))


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    write_all(tmp_path)
    reader = ShardReader(tmp_path, SIGNATURE)
    reader.read(["case-0"])
    os.truncate(tmp_path / "shard-00000.h5", 20_000)  # while it is open
    with raises_naming(ShardError, tmp_path / "shard-00000.h5", "row 2", "image_embedding"):
        reader.read(["case-2"])


def test_datasets_in_pieces_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "shard-00000.h5", "w") as file:
        for name in ("image_embedding", "mask_low_res", "box_xyxy"):
            file.create_dataset(name, data=np.zeros((2, 4), np.float32), chunks=(1, 4))
    write_index(tmp_path, describe(tmp_path, ["a", "b"]))
    with raises_naming(ShardError, tmp_path / "shard-00000.h5", "image_embedding", "piece"):
        ShardReader(tmp_path).read(["b"])


def describe(folder: Path, case_ids: list[str]) -> ShardIndex:
    """Return the index of one file."""
    path = folder / "shard-00000.h5"
    entry = ShardEntry(path.name, len(case_ids), path.stat().st_size, compute_file_sha256(path))
    return ShardIndex(SIGNATURE, write_cases(folder, case_ids), (entry,))


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
    with raises_naming(ShardError, tmp_path, 2, plans[1].file):
        finish_shards(tmp_path, plans, SIGNATURE)
    with raises_naming(ShardError, tmp_path / INDEX_NAME, "absent"):
        ShardReader(tmp_path)
    for plan in plans[1:]:
        write_shard(tmp_path, plan, SIGNATURE, map(make_case, plan.case_ids))
    assert finish_shards(tmp_path, plans, SIGNATURE).num_cases == len(CASE_IDS)


def test_finished_files_of_another_encoder_are_not_reused(tmp_path: Path) -> None:
    plans = plans_of_three()
    write_shard(tmp_path, plans[0], SIGNATURE, map(make_case, plans[0].case_ids))
    assert not find_finished(tmp_path, plans, replace(SIGNATURE, weights_sha256="c" * 64))


@pytest.mark.parametrize("field", ["image_encoder", "weights_sha256", "preprocessing_id", "manifest_sha256", "dtype"])
def test_shards_of_another_signature_are_refused_with_both_values(tmp_path: Path, field: str) -> None:
    write_all(tmp_path)
    with raises_naming(ShardError, field, getattr(SIGNATURE, field), "other"):
        ShardReader(tmp_path, replace(SIGNATURE, **{field: "other"}))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / "shard-00001.h5"
    size = path.stat().st_size
    os.truncate(path, size - 10)
    with raises_naming(ShardError, path, size - 10, size):
        ShardReader(tmp_path)


def test_an_altered_file_is_refused_even_after_it_was_verified(tmp_path: Path) -> None:
    write_all(tmp_path)
    ShardReader(tmp_path)
    alter(tmp_path / "shard-00000.h5")
    with raises_naming(ShardError, tmp_path / "shard-00000.h5", "altered"):
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
    with raises_naming(ShardError, path, "altered"):
        verify_files(tmp_path, always=True)


@pytest.mark.parametrize("text", ["", "[]", '{"entries": []}', '{"entries": [3], "signature": {}}'])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX_NAME).write_text(text)
    with raises_naming(ShardError, tmp_path / INDEX_NAME, "index"):
        ShardReader(tmp_path)


def test_a_full_disk_is_one_message_and_finished_files_stay(tmp_path: Path) -> None:
    plans = [ShardPlan("shard-00000.h5", ("case-0",)), ShardPlan("shard-00001.h5", ("case-1",))]
    with limit_file_size(2**20):
        write_shard(tmp_path, plans[0], SIGNATURE, [make_case("case-0", side=32)])
        with raises_naming(ShardError, tmp_path, "disk", "shard-00001.h5"):
            write_shard(tmp_path, plans[1], SIGNATURE, [make_case("case-1", side=64)])
    assert list(find_finished(tmp_path, plans, SIGNATURE)) == ["shard-00000.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-00000.h5", "shard-00000.h5.json"]
