from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks_bench import CASE_IDS, RandomSource, make_batches, make_recipe

from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import EmbeddedCase, finish_shards, plan_shards, write_shard
from t2m_bench.training import batches as module
from t2m_bench.training.batches import BatchMaker, jitter_box

UNKNOWN_CLASS = 4  # of ranks_bench's values 2, 3, 4, 5, unknown


def count_dropped(maker: BatchMaker, epochs: int) -> int:
    made = [
        batch for epoch in range(epochs) for step in range(maker.num_steps) for batch in maker.make(epoch, step, 0, 1)
    ]
    for batch in made:
        rows = maker.texts.rows["birads"]["unknown"]
        is_unknown = [any(text.equal(maker.texts.embeddings[row]) for row in rows) for text in batch.text_embedding]
        assert is_unknown == (batch.text_class == UNKNOWN_CLASS).tolist()
    return sum(int((batch.text_class == UNKNOWN_CLASS).sum()) for batch in made)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_text_is_dropped_with_the_share_that_is_asked(share: float) -> None:
    epochs = 40
    total = epochs * len(CASE_IDS)
    dropped = count_dropped(replace(make_batches(make_recipe()), text_dropout=share), epochs)
    assert abs(dropped - share * total) <= 4 * np.sqrt(share * (1 - share) * total)


def test_each_side_moves_up_to_the_share_of_its_own_direction() -> None:
    rng = np.random.default_rng(0)
    box = np.array([100.0, 60.0, 180.0, 80.0], np.float32)  # 80 wide, 20 high
    moves = np.stack([jitter_box(box, 0.1, 256, rng) for _ in range(2000)]) - box
    limits = np.array([8.0, 2.0, 8.0, 2.0])
    assert (np.abs(moves) <= limits + 1e-4).all()
    for sign in (-1, 1):  # in and out, nearly to the end
        assert ((sign * moves).max(axis=0) > 0.98 * limits).all()
    np.testing.assert_allclose(moves.mean(axis=0), 0.0, atol=0.05 * limits.max())
    np.testing.assert_array_equal(jitter_box(box, 0.0, 256, rng), box)


def test_a_moved_box_stays_inside_the_image() -> None:
    rng = np.random.default_rng(1)
    moved = np.stack([jitter_box(np.array([0, 0, 256, 256], np.float32), 0.5, 256, rng) for _ in range(50)])
    assert moved.min() == 0.0
    assert moved.max() == 256.0


def test_the_order_of_cases_is_drawn_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], module.order_cases

    def counting(case_ids: tuple[str, ...], seed: int, epoch: int) -> list[str]:
        drawn.append(epoch)
        return draw(case_ids, seed, epoch)

    monkeypatch.setattr(module, "order_cases", counting)
    maker = make_batches(make_recipe(global_batch_size=4))
    for epoch in (0, 1, 0):  # a resume may go back
        positions = [batch.positions for step in range(maker.num_steps) for batch in maker.make(epoch, step, 0, 1)]
        assert sum(map(len, positions)) == len(CASE_IDS)
    assert drawn == [0, 1, 0]


def test_what_is_read_later_does_not_reach_an_earlier_batch(tmp_path: Path) -> None:
    plans = plan_shards(CASE_IDS, 1, 1)
    stored = RandomSource().read(CASE_IDS)
    cases = zip(CASE_IDS, stored.image_embedding, stored.mask_low_res, stored.box_xyxy, strict=True)
    signature = Signature("mini", "", "", "")
    write_shard(tmp_path, plans[0], signature, (EmbeddedCase(*case) for case in cases))
    finish_shards(tmp_path, plans, signature)
    without = make_batches(make_recipe(global_batch_size=4))
    maker = replace(without, source=ShardReader(tmp_path))  # reads into the memory of the batch before; the other not
    made, wanted = ([batch for step in range(6) for batch in one.make(0, step, 0, 1)] for one in (maker, without))
    for got, want in zip(made, wanted, strict=True):
        for name, value in vars(want).items():
            torch.testing.assert_close(getattr(got, name), value, rtol=0, atol=0)
