"""Estimates a suite before anything is queued: its runs, hours by measured steps, disk and memory."""

import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from t2m_bench.data.boxes import draw_boxes
from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.embedding.encode import count_bytes_per_case, embed_cases
from t2m_bench.embedding.shards.schema import INDEX_NAME
from t2m_bench.embedding.shards.writer import finish_shards, plan_shards, write_shard
from t2m_bench.evaluation.conditions import ask_without_text, build_questions
from t2m_bench.models.arm import count_trainable_parameters
from t2m_bench.models.sam import load_sam
from t2m_bench.pipeline.embed import Embedded, embed_texts, locate_shards
from t2m_bench.pipeline.preflight import check_before_reading
from t2m_bench.pipeline.prepare import Prepared, prepare_folds
from t2m_bench.pipeline.train import Experiment, locate_experiment
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.schema import TIGHT, Recipe
from t2m_bench.runs.finished import is_finished
from t2m_bench.runs.job import ask_to_validate, make_trainer
from t2m_bench.runs.setup import Job, set_up
from t2m_bench.terminal import Terminal, show_seconds
from t2m_bench.training.optim import compute_learning_rate
from t2m_bench.training.process_group import ProcessGroup, find_device
from t2m_bench.training.step import accumulate_gradients
from t2m_bench.training.updater import build_updater

MOST_SECONDS = 15.0
"""Spent on embedding cases to measure with."""

MOST_CASES, FEWEST_CASES = 16, 2
TIMED_STEPS = 2

STATE_FACTOR = 4
"""A run keeps its best adapter, and its last one with AdamW's two moments, in fp32."""


@dataclass(frozen=True)
class ArmCost:
    """Measured cost of one training run of an arm.

    Attributes:
        step_s: seconds of a training step of the global batch. epoch_s: of an epoch with its validation.
        run_h: hours of all epochs and the test questions; a run that stops early takes less.
    """

    arm: str
    runs: int
    finished: int
    step_s: float
    epoch_s: float
    run_h: float
    run_mib: float


@dataclass(frozen=True)
class Plan:
    """Estimated cost of a suite.

    Attributes:
        embed_h: hours of embedding on one process; 0 where it is done. hours: of the runs that are left, one by one.
        shards_gib, runs_gib: what will be written; free_gib: what is free. memory_gib: peak of measuring.
        measured_cases: how many cases were embedded to measure with.
    """

    arms: tuple[ArmCost, ...]
    num_cells: int
    num_finished: int
    num_cases: int
    measured_cases: int
    embed_h: float
    hours: float
    side_by_side: int
    shards_gib: float
    runs_gib: float
    free_gib: float
    memory_gib: float
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def make_plan(recipe: Recipe, runs: Path, terminal: Terminal) -> Plan:
    """Prepare the data set, embed a few cases and measure steps and questions of each arm; train nothing.

    Raises:
        UserError: what would refuse the suite itself.
    """
    texts = check_before_reading(recipe, runs, recipe.bench.arms, terminal)
    prepared = prepare_folds(recipe, recipe.folds, runs, terminal)[recipe.dataset.test_fold]
    texts = texts or embed_texts(recipe, runs, terminal, prepared.free)
    device = find_device(recipe.cluster.use_gpu)
    signature, shards = locate_shards(recipe, prepared, runs)
    is_embedded = (shards / INDEX_NAME).is_file()
    cells = _list_cells(
        recipe, locate_experiment(recipe, runs, prepared, Embedded(shards, signature, 0, 0, 0.0), texts)[0]
    )
    with tempfile.TemporaryDirectory(prefix="t2m-plan-") as name:
        folder = Path(name)
        with _measure_images(recipe, prepared, folder, device, terminal) as (sample, image_s):
            few = Embedded(folder / "shards", signature, len(sample), 0, 0.0)
            experiment, _ = locate_experiment(recipe, runs, prepared, few, texts)
            costs = [
                _measure_arm(experiment.make_job(arm, recipe.bench.seeds[0]), arm, cells, sample, folder, terminal)
                for arm in recipe.bench.arms
            ]
    left = sum(cost.run_h * (cost.runs - cost.finished) for cost in costs)
    grid = IMAGE_ENCODERS.find(recipe.image_encoder.preset).grid
    return Plan(
        arms=tuple(costs),
        num_cells=len(cells),
        num_finished=sum(cells.values()),
        num_cases=len(prepared.cases),
        measured_cases=len(sample),
        embed_h=0.0 if is_embedded else image_s * len(prepared.cases) / 3600,
        hours=left,
        side_by_side=max(1, recipe.cluster.num_bench_workers),
        shards_gib=0.0 if is_embedded else len(prepared.cases) * count_bytes_per_case(grid) / 2**30,
        runs_gib=sum(cost.run_mib * (cost.runs - cost.finished) for cost in costs) / 1024,
        free_gib=shutil.disk_usage(runs).free / 2**30,
        memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        device=str(device),
    )


def _list_cells(recipe: Recipe, experiment: Experiment) -> dict[tuple[str, int, int], bool]:
    """Return (arm, fold, seed) -> whether the run is finished."""
    cells: dict[tuple[str, int, int], bool] = {}
    for fold in recipe.folds:
        of_fold = replace(experiment, recipe=recipe.with_fold(fold))
        for seed in recipe.bench.seeds:
            cells |= {(arm, fold, seed): is_finished(of_fold.make_job(arm, seed)) for arm in recipe.bench.arms}
    return cells


@contextmanager
def _measure_images(
    recipe: Recipe, prepared: Prepared, folder: Path, device: torch.device, terminal: Terminal
) -> Iterator[tuple[list[Case], float]]:
    """Yield some cases, embedded into `folder`, and the seconds that each took."""
    encoder = recipe.image_encoder
    sam = load_sam(encoder.preset, encoder.checkpoint)
    sam.image_encoder.to(device)
    cases = [case for case in prepared.cases if case.case_id in set(prepared.splits.train)]
    cases = cases[: min(MOST_CASES, recipe.optim.global_batch_size)]
    made, start = [], time.monotonic()
    with terminal.watch("images embedded to measure with", len(cases)) as advance:
        for embedded in embed_cases(sam, prepared.root, cases, device, encoder.input_range):
            made.append(embedded)
            advance(len(made), len(cases))
            if len(made) >= FEWEST_CASES and time.monotonic() - start > MOST_SECONDS:
                break
    seconds = (time.monotonic() - start) / len(made)
    sample = list(islice(cases, len(made)))
    signature, _ = locate_shards(recipe, prepared, folder)
    (plan,) = plan_shards([case.case_id for case in sample], count_bytes_per_case(sam.frame.grid), 2**20)
    write_shard(folder / "shards", plan, signature, made)
    finish_shards(folder / "shards", [plan], signature)
    yield sample, seconds


def _measure_arm(
    job: Job,
    arm: str,
    cells: dict[tuple[str, int, int], bool],
    sample: Sequence[Case],
    folder: Path,
    terminal: Terminal,
) -> ArmCost:
    """Measure steps, validation and test questions of one arm on the sample; multiply by the real numbers."""
    optim, splits = job.recipe.optim, job.data.splits
    ids = tuple(case.case_id for case in sample)
    repeated = (ids * optim.global_batch_size)[: optim.global_batch_size * (TIMED_STEPS + 1)]
    few = replace(
        job, data=replace(job.data, splits=Splits(repeated, ids, ids), reference=folder), run_folder=folder / "run"
    )
    ranks = ProcessGroup(job.recipe.optim.mixed_precision, job.recipe.cluster.use_gpu)
    bench = set_up(few, ranks)
    with terminal.watch(f"steps of {arm}", TIMED_STEPS + 1) as advance:
        step_s = _time_steps(few, bench, advance)
    validation = ask_to_validate(bench)
    start = time.monotonic()
    bench.evaluator.compute_mean_dice(bench.arm, validation)
    validate_s = (time.monotonic() - start) / len(sample)
    asking = replace(few.data.asking, predicted={case.case_id: dict(case.text_fields) for case in sample})
    width = bench.texts.embeddings.shape[1]
    question_set = (
        build_questions(sample, bench.texts, asking)
        if bench.arm.uses_text
        else ask_without_text(sample, asking.boxes, width)
    )
    boxes = draw_boxes(job.data.cases, [box for box in asking.boxes if box != TIGHT])
    start = time.monotonic()
    replace(bench.evaluator, boxes=boxes).answer(bench.arm, question_set)
    test_s = (time.monotonic() - start) / len(sample)
    steps = -(-len(splits.train) // optim.global_batch_size)
    epoch_s = steps * step_s + len(splits.val) * validate_s
    finished = [done for (name, _, _), done in cells.items() if name == arm]
    mib = STATE_FACTOR * count_trainable_parameters(bench.arm) * 4 / 2**20
    hours = (optim.epochs * epoch_s + len(splits.test) * test_s) / 3600
    return ArmCost(arm, len(finished), sum(finished), step_s, epoch_s, hours, mib)


def _time_steps(job: Job, bench: Any, advance: Any) -> float:
    """Return the seconds of a training step, after one that warms up."""
    trainer = make_trainer(bench, validate=lambda arm: 0.0, on_epoch=lambda history: None, should_stop=lambda: False)
    updater = build_updater(bench.arm, job.recipe.optim, bench.ranks)
    start = time.monotonic()
    for step in range(TIMED_STEPS + 1):
        if step == 1:
            start = time.monotonic()
        made = [batch.to(bench.ranks.device) for batch in trainer.batches.make(0, step, 0, 1)]
        count = trainer.batches.count_cases(step)
        accumulate_gradients(bench.arm, trainer.segmenter, made, count, job.recipe.loss, bench.ranks)
        updater.update(compute_learning_rate(step, TIMED_STEPS + 1, job.recipe.optim))
        if bench.ranks.device.type == "cuda":
            torch.cuda.synchronize()
        advance(step + 1, TIMED_STEPS + 1)
    return (time.monotonic() - start) / TIMED_STEPS


def describe_plan(plan: Plan) -> list[str]:
    """Return the plan in lines of at most 80 columns."""
    rows = [
        f"{cost.arm:<18}{cost.runs:>6}{cost.finished:>10}{cost.step_s:>9.2f} s{cost.epoch_s:>10.1f} s"
        f"{_show_hours(cost.run_h):>9}"
        for cost in plan.arms
    ]
    left = plan.num_cells - plan.num_finished
    beside = f" ({plan.side_by_side} at a time share this machine)" if plan.side_by_side > 1 else ""
    return [
        f"{'Arm':<18}{'runs':>6}{'finished':>10}{'a step':>11}{'an epoch':>12}{'a run':>9}",
        *rows,
        f"Embedding {plan.num_cases} images: {_show_hours(plan.embed_h)} on one process.",
        f"{left} of {plan.num_cells} training runs are left: {_show_hours(plan.hours)} one by one{beside}.",
        f"In all at most {_show_hours(plan.embed_h + plan.hours)}, and each fold's floors, probe and frozen model;",
        "training that stops early takes less.",
        f"Each of N parts (--part I/N) takes {left} / N runs, rounded up.",
        f"Disk: {plan.shards_gib:.1f} GiB of embeddings and {plan.runs_gib:.2f} of runs; {plan.free_gib:.0f} are free.",
        f"Memory: {plan.memory_gib:.1f} GiB at the peak of measuring, in this process.",
        f"Measured on {plan.device}: {plan.measured_cases} images, {TIMED_STEPS} steps an arm, its test questions. "
        "All else is multiplied.",
    ]


def _show_hours(hours: float) -> str:
    return show_seconds(3600 * hours)
