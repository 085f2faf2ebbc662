"""DeepSpeed's real engine on two processes trains what plain AdamW on two processes trains."""

import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from ranks_bench import find_port, join_ranks, make_adapter, make_batches, make_recipe, make_segmenter

from t2m_bench.training.loop import Trainer
from t2m_bench.training.ranks import Ranks

STEPS = 20
PRECISIONS = ("no", "bf16")

History = dict[str, list[dict[str, object]]]


def train(zero: str | None, folder: Path) -> History:
    """Train in each precision, an epoch a step; return precision -> a row a step."""
    mp.spawn(_train_on_rank, (find_port(), zero, folder), nprocs=2)
    return json.loads((folder / "history.json").read_text())


def _train_on_rank(rank: int, port: int, zero: str | None, folder: Path) -> None:
    torch.set_num_threads(1)
    join_ranks(rank, 2, port)
    history = {}
    for precision in PRECISIONS:
        recipe = make_recipe(global_batch_size=21, epochs=STEPS, patience=STEPS)
        ranks = Ranks(precision, use_gpu=False, zero=zero, clip_norm=recipe.optim.clip_norm)
        parts = (make_adapter(recipe), make_segmenter(), make_batches(recipe), ranks)
        trainer = Trainer(recipe, folder / precision, *parts, validate=lambda adapter: 0.5)
        history[precision] = trainer.fit().history
    if rank == 0:
        (folder / "history.json").write_text(json.dumps(history))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> History:
    return train(None, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("stage", [1, 2])
def test_the_real_engine_reaches_the_losses_of_plain_training(plain: History, tmp_path: Path, stage: int) -> None:
    with_zero = train(f"zero{stage}", tmp_path)
    # in bf16 too: the adapter and AdamW stay in fp32 in the engine, autocast rounds as without it
    for precision, tolerance in (("no", 1e-5), ("bf16", 1e-3)):
        want, got = plain[precision], with_zero[precision]
        assert {row["updater"] for row in want} == {"AdamW"}
        assert {row["updater"] for row in got} == {f"DeepSpeedEngine ZeRO {stage}"}
        losses = [[row["loss"] for row in rows] for rows in (want, got)]
        apart = max(abs(a - b) / a for a, b in zip(*losses, strict=True))
        print(f"ZeRO {stage}, precision {precision}: losses at most {apart:.1e} apart over {STEPS} steps")
        assert len(want) == STEPS
        assert apart < tolerance
    assert plain["bf16"][-1]["loss"] != plain["no"][-1]["loss"], "autocast must have had a say"
