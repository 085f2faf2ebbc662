from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks_bench import CASE_IDS, RandomSource, make_batches, make_recipe

from t2m_bench.data.boxes import jitter_box
from t2m_bench.data.frame import Frame
from t2m_bench.embedding.shards.reader import EmbeddedBatch, ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import EmbeddedCase, finish_shards, plan_shards, write_shard
from t2m_bench.training import batches as module
from t2m_bench.training.batches import BatchMaker

SQUARE = np.array([256.0, 256.0], np.float32)

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
    moves = np.stack([jitter_box(box, 0.1, SQUARE, rng) for _ in range(2000)]) - box
    limits = np.array([8.0, 2.0, 8.0, 2.0])
    assert (np.abs(moves) <= limits + 1e-4).all()
    for sign in (-1, 1):  # in and out, nearly to the end
        assert ((sign * moves).max(axis=0) > 0.98 * limits).all()
    np.testing.assert_allclose(moves.mean(axis=0), 0.0, atol=0.05 * limits.max())
    np.testing.assert_array_equal(jitter_box(box, 0.0, SQUARE, rng), box)


def test_a_moved_box_stays_inside_the_image() -> None:
    rng = np.random.default_rng(1)
    moved = np.stack([jitter_box(np.array([0, 0, 256, 256], np.float32), 0.5, SQUARE, rng) for _ in range(50)])
    assert moved.min() == 0.0
    assert moved.max() == 256.0


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (99, 200), (77, 77)])
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_training_box_ends_where_its_image_ends(fit: str, height: int, width: int) -> None:
    """In a padded frame too, where the image is only a part of the square; boxes of the evaluation end there."""
    frame = Frame(256, 64, fit)
    whole = frame.scale_box((0, 0, width, height), height, width)

    class WholeImages(RandomSource):
        def read(self, case_ids: list[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch:
            return replace(super().read(case_ids), box_xyxy=np.stack([whole] * len(case_ids)))

    plain = replace(make_batches(make_recipe()), source=WholeImages(), frame=frame)
    maker = replace(plain, sizes=dict.fromkeys(CASE_IDS, (height, width)), box_jitter=0.5)
    made = [batch.box_xyxy.numpy() for step in range(maker.num_steps) for batch in maker.make(0, step, 0, 1)]
    boxes = np.concatenate(made)
    assert (boxes.min(axis=0) >= 0.0).all()
    np.testing.assert_array_equal(boxes.max(axis=0)[2:], whole[2:])
    if fit == "stretch":
        np.testing.assert_array_equal(whole[2:], SQUARE)
    still = replace(maker, box_jitter=0.0)
    for batch in still.make(0, 0, 0, 1):
        np.testing.assert_array_equal(batch.box_xyxy.numpy(), np.stack([whole] * len(batch.positions)))


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_a_stretched_image_ends_at_the_square_to_the_bit(size: int) -> None:
    ends = {tuple(Frame(size, size // 4).scale_box((0, 0, side, 7), 7, side)[2:]) for side in range(1, 3000)}
    assert ends == {(size, size)}


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
