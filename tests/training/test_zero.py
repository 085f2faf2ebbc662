"""DeepSpeed's real engine on two processes trains what plain AdamW on two processes trains."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from ranks_bench import find_port, join_ranks, make_adapter, make_batches, make_recipe, make_segmenter

from t2m_bench.training.loop import Trainer
from t2m_bench.training.process_group import ProcessGroup

STEPS = 20

History = dict[str, list[dict[str, object]]]


def train(zero: str | None, precisions: Sequence[str], folder: Path) -> History:
    """Train in each precision, an epoch a step; return precision -> a row a step. DeepSpeed takes one a process."""
    mp.spawn(_train_on_rank, (find_port(), zero, precisions, folder), nprocs=2)
    return json.loads((folder / "history.json").read_text())


def _train_on_rank(rank: int, port: int, zero: str | None, precisions: Sequence[str], folder: Path) -> None:
    torch.set_num_threads(1)
    join_ranks(rank, 2, port)
    history = {}
    for precision in precisions:
        recipe = make_recipe(global_batch_size=21, epochs=STEPS, patience=STEPS)
        ranks = ProcessGroup(precision, use_gpu=False, zero=zero, clip_norm=recipe.optim.clip_norm)
        parts = (make_adapter(recipe), make_segmenter(), make_batches(recipe), ranks)
        trainer = Trainer(recipe, folder / precision, *parts, validate=lambda adapter: 0.5)
        history[precision] = trainer.fit().history
    if rank == 0:
        (folder / "history.json").write_text(json.dumps(history))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> History:
    return train(None, ("no", "bf16"), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("stage", "precision", "tolerance"),
    [
        pytest.param(1, "no", 1e-5, marks=pytest.mark.cluster),
        (2, "no", 1e-5),
        pytest.param(2, "bf16", 1e-3, marks=pytest.mark.soak),  # adapter and AdamW are fp32 in the engine here too
    ],
)
def test_the_real_engine_reaches_the_losses_of_plain_training(
    plain: History, tmp_path: Path, stage: int, precision: str, tolerance: float
) -> None:
    want, got = plain[precision], train(f"zero{stage}", (precision,), tmp_path)[precision]
    assert {row["updater"] for row in want} == {"AdamW"}
    assert {row["updater"] for row in got} == {f"DeepSpeedEngine ZeRO {stage}"}
    assert len(want) == len(got) == STEPS
    apart = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(want, got, strict=True))
    print(f"ZeRO {stage}, precision {precision}: losses at most {apart:.1e} apart over {STEPS} steps")
    assert apart < tolerance


def test_autocast_has_a_say(plain: History) -> None:
    """bf16 has 8 bits of mantissa: its losses are near those of fp32, and no nearer than its rounding lets them be."""
    exact, rounded = (plain[precision][-1]["loss"] for precision in ("no", "bf16"))
    assert 1e-6 < abs(rounded - exact) / exact < 2e-2


PLANT = """
import sys
from pathlib import Path
import deepspeed
from t2m_bench.training.process_group import compile_once, find_build_folder

lock = find_build_folder("deepspeed_shm_comm") / "lock"
lock.touch()
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: print("compiles", lock.exists())
compile_once()
"""


def test_a_compilation_that_was_killed_does_not_block_later_ones(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PLANT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "compiles False" in done.stdout
