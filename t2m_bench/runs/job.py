"""One run, from its recipe to its results, in whatever processes it is given."""

import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from t2m_bench.commit import NO_COMMIT
from t2m_bench.data.boxes import Boxes
from t2m_bench.evaluation.conditions import Question, QuestionSet, ask_right, ask_without_text, build_questions
from t2m_bench.evaluation.crops import find_shown, write_crops
from t2m_bench.evaluation.evaluate import Answers
from t2m_bench.evaluation.predicted_masks import PREDICTED_NAME, write_predicted
from t2m_bench.files import write_json
from t2m_bench.metrics.results import RESULTS_NAME, write_results
from t2m_bench.models.arm import count_trainable_parameters
from t2m_bench.recipe.measures import DICE
from t2m_bench.recipe.schema import list_default_suite
from t2m_bench.runs.run_folder import RUN_NAME
from t2m_bench.runs.setup import Job, RunContext, set_up
from t2m_bench.runs.tracking import RunLog
from t2m_bench.training.batches import BatchMaker
from t2m_bench.training.checkpoint import ADAPTER_NAME, Progress, compute_tensors_sha256, load_best_adapter
from t2m_bench.training.compiling import compile_forward
from t2m_bench.training.loop import OnEpoch, ShouldStop, Trainer, Validate
from t2m_bench.training.process_group import ProcessGroup

MASKS_NAME = "masks.npz"


@dataclass(frozen=True)
class FinalExam:
    """The questions about the test cases, and the boxes other than the tight ones."""

    question_set: QuestionSet
    boxes: Boxes


def train(job: Job, ranks: ProcessGroup, should_stop: ShouldStop = lambda: False) -> Progress:
    """Train to the end, or from where it was stopped, then evaluate the best epoch on the test cases.

    Asked to stop, it saves and returns a progress that is not `finished`.
    """
    bench = set_up(job, ranks)
    if job.recipe.cluster.compile:
        bench = replace(bench, compiled=_compile(bench))
    validation, test = ask_to_validate(bench), ask_to_test(bench)  # what cannot be asked is refused before training
    log = RunLog(job.run_folder, job.recipe, job.arm) if ranks.is_main else None
    try:
        progress = make_trainer(
            bench,
            validate=lambda arm: bench.evaluator.compute_mean_dice(arm, validation),
            on_epoch=log.write if log else lambda history: None,
            should_stop=should_stop,
        ).fit()
        if progress.finished:
            evaluate(bench, progress, test)
            if log:
                log.write_test(int(progress.history[-1]["step"]))
    finally:
        if log:
            log.close()
    return progress


def _compile(bench: RunContext) -> str:
    image_shape = bench.source.read(bench.job.data.splits.train[:1]).image_embedding.shape[1:]
    text_width, num_cases = bench.texts.embeddings.shape[1], bench.job.recipe.optim.micro_batch_size
    return compile_forward(bench.arm, bench.evaluator.segmenter, text_width, image_shape, num_cases, bench.ranks)


def make_trainer(bench: RunContext, validate: Validate, on_epoch: OnEpoch, should_stop: ShouldStop) -> Trainer:
    """Return the training of a bench's arm on its training cases."""
    job, recipe, optim = bench.job, bench.job.recipe, bench.job.recipe.optim
    batches = BatchMaker(
        source=bench.source,
        texts=bench.texts,
        case_ids=job.data.splits.train,
        seed=recipe.seed,
        global_batch_size=optim.global_batch_size,
        micro_batch_size=optim.micro_batch_size,
        text_dropout=recipe.prompts.text_dropout,
        box_jitter=optim.box_jitter,
        frame=bench.frame,
        sizes={case.case_id: (case.height, case.width) for case in job.data.cases},
    )
    return Trainer(
        recipe,
        job.run_folder,
        bench.arm,
        bench.evaluator.segmenter,
        batches,
        bench.ranks,
        validate=validate,
        on_epoch=on_epoch,
        should_stop=should_stop,
    )


def ask_to_validate(bench: RunContext) -> QuestionSet:
    """Return the questions by which the best epoch is chosen: right text, or for `shuffled` the text it trains with."""
    cases = bench.job.data.select(bench.job.data.splits.val)
    if bench.arm.uses_text:
        return ask_right(cases, bench.texts)
    return ask_without_text(cases, text_width=bench.texts.embeddings.shape[1])


def ask_to_test(bench: RunContext) -> FinalExam:
    """Return the questions about the test cases, and the boxes that they name.

    Raises:
        RecipeError: a condition draws a text under a name that is not one of its own.
        RunFolderError: the reference folder lacks the boxes or the probe.
    """
    asking, boxes = bench.job.data.load_asking()
    cases = bench.job.data.select(bench.job.data.splits.test)
    if bench.arm.uses_text:
        return FinalExam(build_questions(cases, bench.texts, asking), boxes)
    return FinalExam(ask_without_text(cases, asking.boxes, bench.texts.embeddings.shape[1]), boxes)


def evaluate(bench: RunContext, progress: Progress, test: FinalExam) -> None:
    """Answer the test questions with the best epoch's adapter and write the run's results."""
    job, ranks = bench.job, bench.ranks
    load_best_adapter(job.run_folder, bench.arm, progress)
    question_set = test.question_set
    shown = find_shown(question_set.questions)
    evaluator, keep_masks = replace(bench.evaluator, boxes=test.boxes), job.suite.bench.keep_masks
    answers = evaluator.answer(bench.arm, question_set, list(shown.values()), keep_masks=keep_masks)
    num_nodes = ranks.num_nodes  # every rank takes part in the count
    if ranks.is_main:
        write_crops(job.run_folder / MASKS_NAME, dict(zip(shown, answers.crops, strict=True)))
        (job.run_folder / PREDICTED_NAME).unlink(missing_ok=True)  # of an earlier evaluation, which was asked less
        if keep_masks:
            write_predicted(job.run_folder / PREDICTED_NAME, question_set.questions, answers.masks)
        write_results(
            job.run_folder / RESULTS_NAME, answers.to_rows(question_set.questions, job.describe(), job.data.fields)
        )
        summary = summarise(bench, progress, question_set.questions, answers)
        # last: only its presence and what it lists say that the run is finished
        write_json(job.run_folder / RUN_NAME, summary | {"num_nodes": num_nodes})
    ranks.barrier()


def summarise(bench: RunContext, progress: Progress, questions: Sequence[Question], answers: Answers) -> dict[str, Any]:
    """Return the content of run.json."""
    job, recipe = bench.job, bench.job.recipe
    named = job.suite.bench.named.get(job.arm)
    return {
        "run": job.run_folder.name,
        **job.describe(),
        "status": "finished",
        "trainable_parameters": count_trainable_parameters(bench.arm),
        "val_dice": progress.best_val_dice,
        "test_dice": float(answers.select(DICE)[[question.is_main for question in questions]].mean()),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 2),
        "world_size": bench.ranks.world_size,
        "peak_memory_mib": measure_peak_memory(bench.ranks.device),
        "mixed_precision": recipe.optim.mixed_precision,
        "compiled": bench.compiled,
        "differently_tuned": named.differently_tuned if named else False,
        "trials": named.trials if named else 1,
        "conditions": list(job.data.asking.conditions),
        "boxes": list(job.data.asking.boxes),
        "default_suite": list_default_suite(),
        "evaluation": asdict(answers.cost),
        "run_hash": progress.run_hash,
        "adapter_sha256": compute_tensors_sha256(job.run_folder / ADAPTER_NAME),
        "commit": ", ".join(progress.commits) or NO_COMMIT,
        "recipe": recipe.model_dump(mode="json"),
        "suite": job.suite.model_dump(mode="json"),
    }


def measure_peak_memory(device: torch.device) -> int:
    """Return MiB: the most that this process had on the GPU, or without one in memory, earlier runs of it included."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) / 2**20)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # Linux gives KiB
