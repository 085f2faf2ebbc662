"""One-worker trials of a sweep side by side: a TorchTrainer a trial, ours, and the training alone."""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
import torch

from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, Row
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.sweep import search
from t2m_bench.pipeline.train import gather
from t2m_bench.runs.trial import FrozenParts, TrialData, hide_test_cases
from t2m_bench.search.sweep import LoadedSweep, apply_params, load_sweep
from t2m_bench.terminal import Terminal
from t2m_bench.training.process_group import ProcessGroup

PLAIN_TRIALS, OUR_TRIALS = 3, 8
TOLERANCE = 2e-3
"""Tolerance of the validation Dice between the two ways, whose sums may be taken in another order."""


def measure_sweep(
    path: Path, device: str, plain_trials: int = PLAIN_TRIALS, our_trials: int = OUR_TRIALS
) -> Measurement:
    """Time trials of a sweep's space, the same ones in each way, all their epochs, one at a time.

    Raises:
        AssertionError: the ways do not find the same objective; then no time means anything.
    """
    with tempfile.TemporaryDirectory(prefix="t2m-perf-") as folder:
        runs = Path(folder) / "runs"
        common = [f"dataset.root={Path(folder) / 'data'}", "sweep.scheduler.kind=none", "sweep.sampler.kind=random"]
        common += [
            "sweep.concurrency=1",
            *(["cluster.use_gpu=true", "sweep.resources.gpus=1"] if device != "cpu" else []),
        ]
        wide = [*common, "sweep.name=plain", "cluster.num_train_workers=1"]
        plain = search(load_sweep(path, wide, plain_trials), runs, Terminal(), StopRequest()).study
        loaded = load_sweep(path, [*common, "sweep.name=ours"], our_trials)
        ours = search(loaded, runs, Terminal(), StopRequest()).study
        limit, values = _time_alone(loaded, runs, ours, device)
        _check_same(plain, ours, values)  # reads the studies, so the folder is still there
        rows = (
            _make_row(PLAIN, "a TorchTrainer a trial", _list_intervals(plain)),
            _make_row(OURS, "reused Tune processes, frozen parts and shards loaded once", _list_intervals(ours)),
            _make_row(LIMIT, "the training alone, everything loaded", limit),
        )
    optim = loaded.recipe.optim
    where = f"one worker, {device}, {os.cpu_count()} CPUs"
    setting = f"{optim.epochs} epochs a trial, {where}; seconds from trial to trial, one way after the other"
    return Measurement("sweep", setting, rows)


def _list_intervals(study: optuna.Study) -> list[float]:
    """Return the seconds from each trial's end to the next; the first, in which processes start, from its own start."""
    ends = [trial.datetime_complete.timestamp() for trial in study.trials if trial.datetime_complete]
    first = study.trials[0].datetime_start
    assert first is not None
    return [end - begin for begin, end in zip([first.timestamp(), *ends], ends, strict=False)]


def _time_alone(loaded: LoadedSweep, runs: Path, study: optuna.Study, device: str) -> tuple[list[float], list[float]]:
    job = hide_test_cases(gather(loaded.recipe, runs, Terminal())[0].make_job(loaded.recipe.adapter.kind, 0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ranks = ProcessGroup(loaded.recipe.optim.mixed_precision, device != "cpu")
        parts = FrozenParts(TrialData((job,), loaded.sweep.seeds, ("val_dice",)), ranks)
        seconds, values = [], []
        for trial in study.trials:
            start = time.perf_counter()
            recipe = apply_params(loaded.raw, trial.params, "limit")
            reports = list(parts.run_trial(recipe, runs / "limit" / str(trial.number), ranks))
            seconds.append(time.perf_counter() - start)
            values.append(reports[-1].values["val_dice"])
    finally:
        torch.set_num_threads(threads)
    return seconds, values


def _check_same(plain: optuna.Study, ours: optuna.Study, values: Sequence[float]) -> None:
    for study in (plain, ours):
        for trial, value in zip(study.trials, values, strict=False):
            assert trial.values is not None, f"trial {trial.number} of {study.study_name} failed: {trial.user_attrs}"
            assert trial.params == ours.trials[trial.number].params
            assert math.isclose(trial.values[0], value, abs_tol=TOLERANCE), f"{trial.values[0]} is not {value}"


def _make_row(way: str, what: str, seconds: list[float]) -> Row:
    return Row(way, what, statistics.median(seconds), min(seconds), max(seconds))
