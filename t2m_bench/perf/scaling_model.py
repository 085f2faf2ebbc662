"""Simulates what limits an epoch on many GPUs; `python -m t2m_bench.perf.scaling_model` prints the table.

Constants that were measured say where; the others are assumptions, named as such. docs/scaling.md reads the table.
"""

from dataclasses import dataclass

import numpy as np

NUM_CASES = 1_500_000
CASE_BYTES = 2 * 2**20
"""64x64x256 in float16 (embedding/encode.py, without mask and box)."""

TRAINED_BYTES = 4 * 412_802
"""Gradients of the default hierarchical adapter in float32."""

POOL_BYTES = 4 * 513
"""Bytes a case sends for the contrastive loss: a lesion's and a text's vector and the class in float32
(training/step.py).
"""

PAIR_FLOPS = 3 * 2 * 256
"""Operations of a pair of cases in the contrastive loss: one product forwards, two backwards, 256 wide."""

CASES_A_GPU = 16


@dataclass(frozen=True)
class Machine:
    """A cluster of GPU nodes.

    Attributes:
        case_s: a GPU's time for a case, forwards and backwards. Assumed: no GPU was at hand.
        flops_s: of a GPU in float32. Assumed 50 TFLOP/s.
        step_s: what a step takes besides, drawing the batch and starting kernels. Assumed.
        message_s: latency of one hop of an all-reduce. Measured 0.18 to 0.37 ms between two processes (gloo, loopback,
            busy machine); assumed 0.03 ms for NCCL.
        link_bytes_s: of a node's network card, for the ring. Assumed 25 GB/s.
        node_read_bytes_s: what a node reads from storage. Assumed 5 GB/s.
        storage_bytes_s: what all nodes read together. Assumed 100 GB/s.
        jitter: standard deviation of the logarithm of a rank's time in a step. Assumed 5 %.
        gpus_a_node: GPUs that share a card and a node's reading.
    """

    case_s: float = 0.2e-3
    flops_s: float = 50e12
    step_s: float = 3e-3
    message_s: float = 30e-6
    link_bytes_s: float = 25e9
    node_read_bytes_s: float = 5e9
    storage_bytes_s: float = 100e9
    jitter: float = 0.05
    gpus_a_node: int = 8


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step: own work, waiting for the slowest rank, the all-reduces, reading; and of an epoch."""

    num_gpus: int
    work_s: float
    wait_s: float
    reduce_s: float
    read_s: float
    epoch_s: float

    @property
    def limit(self) -> str:
        """Name of the slowest part; reading runs in parallel with the rest."""
        beside = self.work_s + self.wait_s + self.reduce_s
        if self.read_s > beside:
            return "shards read"
        parts = {"computing": self.work_s, "stragglers": self.wait_s, "all-reduce": self.reduce_s}
        return max(parts, key=lambda name: parts[name])


def predict(num_gpus: int, machine: Machine, rng: np.random.Generator, num_draws: int = 500) -> Prediction:
    """Simulate steps of num_gpus x CASES_A_GPU cases; a step ends with its slowest rank, reading overlaps the rest."""
    cases = num_gpus * CASES_A_GPU
    work = machine.step_s + CASES_A_GPU * machine.case_s + cases**2 * PAIR_FLOPS / machine.flops_s
    drawn = work * rng.lognormal(-(machine.jitter**2) / 2, machine.jitter, (num_draws, num_gpus))
    wait = float(drawn.max(axis=1).mean()) - work
    others = num_gpus - 1
    hops = 2 * int(np.ceil(np.log2(num_gpus)))
    num_bytes = TRAINED_BYTES + cases * POOL_BYTES
    reduce = 2 * hops * machine.message_s + 2 * num_bytes * others / num_gpus / machine.link_bytes_s
    num_nodes = -(-num_gpus // machine.gpus_a_node)
    rate = min(num_nodes * machine.node_read_bytes_s, machine.storage_bytes_s)
    read = cases * CASE_BYTES / rate
    steps = NUM_CASES / cases
    return Prediction(num_gpus, work, wait, reduce, read, steps * max(work + wait + reduce, read))


def format_predictions(predictions: list[Prediction]) -> str:
    """Return a Markdown table."""
    lines = ["| GPUs | work | stragglers | all-reduce | shards read | epoch | limited by |"]
    lines.append("|---:|---:|---:|---:|---:|---:|---|")
    for one in predictions:
        parts = (one.work_s, max(one.wait_s, 0.0), one.reduce_s, one.read_s)
        cells = " | ".join(f"{part * 1e3:.2f} ms" for part in parts)
        lines.append(f"| {one.num_gpus} | {cells} | {one.epoch_s:,.0f} s | {one.limit} |")
    return "\n".join(lines)


if __name__ == "__main__":
    drawn_from = np.random.default_rng(0)
    print(format_predictions([predict(num_gpus, Machine(), drawn_from) for num_gpus in (1, 8, 64, 512)]))
