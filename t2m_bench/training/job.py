"""One run, from its recipe to its results, in whatever processes it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from t2m_bench.config import Recipe
from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.metrics.results import RESULTS_NAME, write_results
from t2m_bench.models.fusion import FusionAdapter, build_adapter, count_trainable_parameters
from t2m_bench.models.sam import FrozenSam, load_sam
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.shards.reader import ShardReader
from t2m_bench.shards.schema import Signature
from t2m_bench.training.batches import BatchMaker, TextTable
from t2m_bench.training.checkpoint import Progress, load_adapter
from t2m_bench.training.evaluate import Answers, Evaluator, Question, ask
from t2m_bench.training.loop import OnEpoch, ShouldStop, Trainer, Validate
from t2m_bench.training.overlays import choose_shown, write_crops
from t2m_bench.training.ranks import Ranks
from t2m_bench.training.run_folder import RUN_NAME, write_history, write_json

MASKS_NAME = "masks.npz"


@dataclass(frozen=True)
class Job:
    """A run as every process of it needs it; all paths are absolute.

    Attributes:
        checkpoint: of the image encoder, None for the shipped one.
        cases: under pseudonyms. wrong: field -> class -> the wrong class given in its place.
        field: the text field by whose classes results are told apart.
    """

    recipe: Recipe
    root: Path
    checkpoint: Path | None
    cases: tuple[Case, ...]
    splits: Splits
    shards: Path
    signature: Signature
    texts: TextTable
    wrong: Mapping[str, Mapping[str, str]]
    field: str
    run_folder: Path

    def select(self, case_ids: Sequence[str]) -> list[Case]:
        """Return the cases of a split."""
        by_id = {case.case_id: case for case in self.cases}
        return [by_id[case_id] for case_id in case_ids]

    def describe(self) -> dict[str, Any]:
        """Return the constant columns of this run's results."""
        dataset, recipe = self.recipe.dataset, self.recipe
        return {"arm": recipe.adapter.kind, "dataset": dataset.kind, "fold": dataset.test_fold, "seed": recipe.seed}


@dataclass(frozen=True)
class Bench:
    """What a process builds of a job."""

    job: Job
    sam: FrozenSam
    reader: ShardReader
    adapter: FusionAdapter
    evaluator: Evaluator
    ranks: Ranks


def set_up(job: Job, ranks: Ranks) -> Bench:
    """Build the frozen parts and a fresh adapter on this rank's device."""
    encoder = job.recipe.image_encoder
    sam = load_sam(encoder.preset, job.checkpoint)
    segmenter = BoxSegmenter(sam.prompt_encoder, sam.mask_decoder).to(ranks.device)
    reader = ShardReader(job.shards, job.signature)
    generator = torch.Generator().manual_seed(job.recipe.seed)
    adapter = build_adapter(job.recipe.adapter, job.texts.embeddings.shape[1], generator).to(ranks.device)
    evaluator = Evaluator(job.root, reader, job.texts, segmenter, ranks)
    return Bench(job, sam, reader, adapter, evaluator, ranks)


def train(job: Job, ranks: Ranks, should_stop: ShouldStop = lambda: False) -> Progress:
    """Train to the end, or from where it was stopped, then evaluate the best epoch on the test cases.

    Asked to stop, it saves and returns a progress that is not `finished`.
    """
    bench = set_up(job, ranks)
    val_cases = job.select(job.splits.val)
    log = _EpochLog(job.run_folder) if ranks.is_first else None
    progress = make_trainer(
        bench,
        validate=lambda adapter: bench.evaluator.compute_mean_dice(adapter, val_cases),
        on_epoch=log.write if log else lambda history: None,
        should_stop=should_stop,
    ).fit()
    if log:
        log.close()
    if progress.finished:
        evaluate(bench, progress)
    return progress


def make_trainer(bench: Bench, validate: Validate, on_epoch: OnEpoch, should_stop: ShouldStop) -> Trainer:
    """Return the training of a bench's adapter on its training cases."""
    job, recipe, optim = bench.job, bench.job.recipe, bench.job.recipe.optim
    batches = BatchMaker(
        source=bench.reader,
        texts=job.texts,
        case_ids=job.splits.train,
        seed=recipe.seed,
        global_batch_size=optim.global_batch_size,
        micro_batch_size=optim.micro_batch_size,
        text_dropout=0.0 if recipe.adapter.preset == "published" else recipe.prompts.text_dropout,
        box_jitter=optim.box_jitter,
        input_size=bench.sam.image_size,
    )
    return Trainer(
        recipe,
        job.run_folder,
        bench.adapter,
        bench.evaluator.segmenter,
        batches,
        bench.ranks,
        validate=validate,
        on_epoch=on_epoch,
        should_stop=should_stop,
    )


def evaluate(bench: Bench, progress: Progress) -> None:
    """Answer the test questions with the best epoch's adapter and write the run's results."""
    job, ranks = bench.job, bench.ranks
    load_adapter(job.run_folder, bench.adapter)
    cases = job.select(job.splits.test)
    questions = ask(cases, bench.adapter.uses_text, job.wrong)
    shown = find_shown(questions)
    answers = bench.evaluator.answer(bench.adapter, questions, list(shown.values()))
    num_nodes = ranks.num_nodes  # every rank takes part in the count
    if ranks.is_first:
        write_results(job.run_folder / RESULTS_NAME, answers.to_rows(questions, job.describe(), job.field))
        write_crops(job.run_folder / MASKS_NAME, dict(zip(shown, answers.crops, strict=True)))
        summary = summarise(bench, progress, questions, answers)
        write_json(job.run_folder / RUN_NAME, summary | {"num_nodes": num_nodes})
    ranks.wait()


def find_shown(questions: Sequence[Question]) -> dict[str, int]:
    """Return case -> position of its question without a wrong text, for the cases that pictures show."""
    asked = {q.case.case_id: position for position, q in enumerate(questions) if q.condition != "wrong"}
    return {list(asked)[place]: list(asked.values())[place] for place in choose_shown(len(asked))}


def summarise(bench: Bench, progress: Progress, questions: Sequence[Question], answers: Answers) -> dict[str, Any]:
    """Return the content of run.json."""
    recipe, right = bench.job.recipe, [q.condition != "wrong" for q in questions]
    return {
        "run": bench.job.run_folder.name,
        **bench.job.describe(),
        "status": "finished",
        "trainable_parameters": count_trainable_parameters(bench.adapter),
        "val_dice": progress.best_val_dice,
        "test_dice": float(answers.select("dice")[right].mean()),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 2),
        "world_size": bench.ranks.world_size,
        "mixed_precision": recipe.optim.mixed_precision,
        "run_hash": progress.run_hash,
        "recipe": recipe.model_dump(mode="json"),
    }


class _EpochLog:
    """history.jsonl and TensorBoard events of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, history: Sequence[Mapping[str, Any]]) -> None:
        write_history(self._folder, history)
        row = history[-1]
        for name, value in {**row, **{f"gate/{level}": gate for level, gate in row["gates"].items()}}.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()

    def close(self) -> None:
        self._board.close()
