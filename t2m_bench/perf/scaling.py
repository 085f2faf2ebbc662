"""Two workers beside one, a thread each: the time of training steps with the same global batch.

Two CPUs that share caches and memory do not do twice the work of one; workers that never talk show what the machine
gives.
"""

import json
import math
import socket
import tempfile
import time
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import spawn

from t2m_bench.errors import UserError
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, Row, Seconds, measure
from t2m_bench.perf.problem import MINI_GRID, make_problem
from t2m_bench.recipe.schema import LossSection, OptimSection
from t2m_bench.training.batches import MicroBatch
from t2m_bench.training.process_group import ProcessGroup, join_group
from t2m_bench.training.shares import share_positions
from t2m_bench.training.step import accumulate_gradients
from t2m_bench.training.updater import build_updater

GLOBAL_BATCH_SIZE, NUM_STEPS, REPEATS = 32, 6, 3
TOLERANCE = 1e-4


def measure_scaling(
    device: str,
    grid: int = MINI_GRID,
    batch_size: int = GLOBAL_BATCH_SIZE,
    num_steps: int = NUM_STEPS,
    repeats: int = REPEATS,
) -> Measurement:
    """Measure whole steps, the update included; `of_limit` is the share of ideal scaling.

    Raises:
        UserError: another device than the CPU is asked for.
        AssertionError: one and two workers do not reach the same loss; then no time means anything.
    """
    if device != "cpu":
        raise UserError(f"perf scaling: --device {device}: two workers of a GPU need two GPUs. Leave --device out.")
    losses: dict[int, float] = {}

    def run(workers: int) -> Seconds:
        seconds, losses[workers] = _train_side_by_side(workers, workers, grid, batch_size, num_steps)
        return seconds

    ways = {
        (PLAIN, "one worker"): lambda: run(1),
        (OURS, "two workers, gradients and features summed over both"): lambda: run(2),
        (LIMIT, "two workers, half the cases each, that never talk"): lambda: _train_side_by_side(
            2, 1, grid, batch_size, num_steps
        )[0],
    }
    setting = f"{num_steps} steps of {batch_size} x {grid}x{grid}x256, one thread a worker"
    measured = measure("scaling", setting, ways, repeats)
    assert math.isclose(losses[1], losses[2], rel_tol=TOLERANCE), f"one and two workers reach the losses {losses}"
    one = measured.rows[0]
    halves = (seconds / 2 for seconds in (one.median_s, one.fastest_s, one.slowest_s))
    return replace(measured, rows=(*measured.rows, Row(LIMIT, "half the time of one worker", *halves)))


def _train_side_by_side(
    processes: int, world_size: int, grid: int, batch_size: int, num_steps: int
) -> tuple[Seconds, float]:
    """Return what the steps of all processes, in groups of `world_size`, took, and the loss of the last step."""
    with tempfile.TemporaryDirectory(prefix="t2m-perf-") as folder:
        out = Path(folder) / "seconds.json"
        everyone = get_context("spawn").Barrier(processes)
        spawn(
            _train,
            (world_size, _find_port(), grid, batch_size // processes, num_steps, everyone, out),
            nprocs=processes,
        )
        seconds, loss = json.loads(out.read_text(encoding="utf-8"))
        return Seconds(seconds), loss


def _train(
    process: int, world_size: int, port: int, grid: int, num_own: int, num_steps: int, everyone: Barrier, out: Path
) -> None:
    """Train on `num_own` cases a step; the first process writes seconds (without the first step) and loss."""
    if world_size > 1:
        join_group(process, world_size, port)
    torch.set_num_threads(1)
    ranks = ProcessGroup("no", use_gpu=False)
    num_global = num_own * world_size
    problem = make_problem(ranks.device, num_global, grid)
    updater = build_updater(problem.adapter, OptimSection(), ranks)
    share = share_positions(num_global, ranks.rank, ranks.world_size)
    batch = MicroBatch(*(value[share.start : share.stop] for value in vars(problem.batch).values()))
    start = 0.0
    for step in range(num_steps + 1):
        if step == 1:
            everyone.wait()
            start = time.perf_counter()
        losses = accumulate_gradients(problem.adapter, problem.segmenter, [batch], num_global, LossSection(), ranks)
        updater.update(learning_rate=1e-4)
    everyone.wait()
    if process == 0:
        found = (time.perf_counter() - start, losses.total(LossSection()))
        out.write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
