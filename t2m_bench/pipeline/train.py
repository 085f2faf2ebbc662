"""Trains and evaluates a run inside its experiment's folder, from shards."""

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from t2m_bench.data.datasets.registry import find_phantom
from t2m_bench.data.free_text import FreeTextBook
from t2m_bench.data.held_out_wording import check_held_out
from t2m_bench.data.prompts import PromptBook
from t2m_bench.embedding.free_texts import make_free_table
from t2m_bench.embedding.text_table import TextTable, list_sentence_rows
from t2m_bench.errors import RunFolderError
from t2m_bench.evaluation.conditions import EvaluationSpec
from t2m_bench.evaluation.predicted_masks import PREDICTED_NAME
from t2m_bench.files import EXPERIMENT_NAME, PROMPTS_NAME, STRATA_NAME, load_json, write_json, write_text
from t2m_bench.locks import hold_lock
from t2m_bench.models.sam import FileStamp
from t2m_bench.pipeline.doctor import check_before_work
from t2m_bench.pipeline.embed import Embedded, Texts, embed, embed_texts
from t2m_bench.pipeline.periodic import run_periodically
from t2m_bench.pipeline.preflight import check_before_reading
from t2m_bench.pipeline.prepare import Prepared, prepare, prepare_folds
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.recipe.schema import TIGHT, Recipe, parse_noted_recipe
from t2m_bench.runs import job as run_job
from t2m_bench.runs.cell import train_in_process
from t2m_bench.runs.finished import is_finished
from t2m_bench.runs.reference import find_scored_boxes, write_reference
from t2m_bench.runs.run_folder import (
    HISTORY_NAME,
    LOCK_NAME,
    RUN_NAME,
    lock_run,
    name_experiment,
    name_reference,
    name_run,
)
from t2m_bench.runs.setup import BOXES_NAME, FoldData, Job, set_up
from t2m_bench.terminal import Advance, Terminal
from t2m_bench.training.checkpoint import load_progress
from t2m_bench.training.process_group import ProcessGroup

FOLLOW_SECONDS = 0.5

TRAINING_FACTS = ("world_size", "num_nodes", "compiled", "peak_memory_mib")
"""Keys that run.json keeps when the run is evaluated again."""

VERSIONED = ("t2m-bench", "torch", "transformers", "segment-anything", "ray", "accelerate", "h5py", "numpy")


@dataclass(frozen=True)
class Experiment:
    """Data, shards and texts that all runs of one experiment share, and the folder they lie in.

    Attributes:
        others: test fold -> the data split by it, of the folds that were prepared beforehand.
    """

    recipe: Recipe
    folder: Path
    prepared: Prepared
    embedded: Embedded
    texts: Texts
    others: Mapping[int, Prepared] = field(default_factory=dict)

    @property
    def fold(self) -> int:
        """The test fold that `prepared` is split by."""
        return self.recipe.dataset.test_fold

    def with_fold(self, fold: int, runs: Path, terminal: Terminal) -> "Experiment":
        """Return the same experiment split by another test fold, whose audit is noted in its folder.

        Raises:
            DatasetError: there is no such fold.
            LeakageError: its splits leak and the recipe does not allow it.
        """
        if fold == self.fold:
            return self
        recipe = self.recipe.with_fold(fold)
        prepared = self.others.get(fold) or prepare(recipe, runs, terminal)
        other = replace(self, recipe=recipe, prepared=prepared)
        _note_fold(other)
        return other

    def make_job(self, arm: str, seed: int) -> Job:
        """Return the job of one arm and training seed."""
        recipe = self.recipe.with_arm(arm, seed)
        folder = (self.folder / name_run(recipe, arm)).resolve()
        return Job(arm, recipe, self.recipe, self._make_fold_data(), folder)

    def _make_fold_data(self) -> FoldData:
        book, checkpoint = self.texts.book, self.recipe.image_encoder.checkpoint
        cases, asked = self.prepared.cases, self.recipe.bench
        return FoldData(
            root=self.prepared.root.resolve(),
            checkpoint=checkpoint.resolve() if checkpoint else None,
            cases=tuple(cases),
            splits=self.prepared.splits,
            shards=self.embedded.folder.resolve(),
            signature=self.embedded.signature,
            texts=self._make_texts(),
            fields=book.fields,
            asking=EvaluationSpec(
                asked.conditions,
                asked.boxes,
                {field: book.wrong(field) for field in book.fields if book.wrong(field)},
                {field: book.classes(field) for field in book.fields},
                predicted={},
                places={case.case_id: place for place, case in enumerate(cases)},
                plausible={}
                if isinstance(book, FreeTextBook)
                else {field: book.plausible(field) for field in book.fields},
            ),
            reference=(self.folder / name_reference(self.fold)).resolve(),
            checkpoint_stamp=FileStamp.of(checkpoint) if checkpoint else None,
        )

    def _make_texts(self) -> TextTable:
        book, bank, prepared = self.texts.book, self.texts.bank, self.prepared
        fields_of = {case.case_id: case.text_fields for case in prepared.cases}
        if isinstance(book, FreeTextBook):
            return make_free_table(book, bank, fields_of, prepared.splits.outside_test)
        training, held_out = list_sentence_rows(book, bank, "training"), list_sentence_rows(book, bank, "held_out")
        return TextTable(torch.from_numpy(bank.text_embedding), training, fields_of, held_out)


def open_experiment(
    recipe: Recipe,
    runs: Path,
    terminal: Terminal,
    to_train: bool = True,
    arms: Iterable[str] | None = None,
    folds: Iterable[int] = (),
) -> Experiment:
    """Prepare and embed what is missing, and write the experiment's provenance into its folder.

    Args:
        to_train: look at the cluster first, if the recipe works on one.
        arms: those that will be trained, where it is not the recipe's adapter. folds: test folds beside the recipe's
            own; what is wrong with one of them is said before anything is embedded.
    """
    experiment, hashes = gather(recipe, runs, terminal, to_train, arms, folds)
    note_experiment(experiment, hashes)
    return experiment


def gather(
    recipe: Recipe,
    runs: Path,
    terminal: Terminal,
    to_train: bool = True,
    arms: Iterable[str] | None = None,
    folds: Iterable[int] = (),
) -> tuple[Experiment, dict[str, str]]:
    """Prepare and embed what is missing; return the experiment with the hashes of its data, before it is written.

    Args:
        arms, folds: as of `open_experiment`.
    """
    texts = check_before_reading(recipe, runs, [recipe.adapter.kind] if arms is None else arms, terminal)
    by_fold = prepare_folds(recipe, folds, runs, terminal)
    prepared = by_fold[recipe.dataset.test_fold]
    if to_train:
        check_before_work(recipe, runs, terminal)
    texts = texts or embed_texts(recipe, runs, terminal, prepared.free)
    embedded = embed(recipe, prepared, runs, terminal)
    experiment, hashes = locate_experiment(recipe, runs, prepared, embedded, texts)
    return replace(experiment, others=by_fold), hashes


def locate_experiment(
    recipe: Recipe, runs: Path, prepared: Prepared, embedded: Embedded, texts: Texts
) -> tuple[Experiment, dict[str, str]]:
    """Return the experiment of data, shards and texts, with the hashes of its data; nothing is written."""
    hashes = {
        "manifest": prepared.manifest_sha256,
        "image_encoder": embedded.signature.weights_sha256,
        "text_encoder": texts.signature.weights_sha256,
        "prompts": texts.signature.prompts_sha256,
    }
    data_hash = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
    folder = runs / name_experiment(recipe, data_hash)
    return Experiment(recipe, folder, prepared, embedded, texts), hashes


def note_experiment(experiment: Experiment, hashes: dict[str, str]) -> None:
    """Write the provenance and the prompt file into the experiment's folder, once, and its fold's audit."""
    path, prompts = experiment.folder / EXPERIMENT_NAME, experiment.folder / PROMPTS_NAME
    book = experiment.texts.book
    if isinstance(book, PromptBook) and not prompts.is_file():
        write_text(prompts, book.text)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _describe(experiment, hashes))
    _note_fold(experiment)
    _note_strata(experiment)


def _note_strata(experiment: Experiment) -> None:
    """Write each case's groups; no run depends on them, so a column of groups may be added to finished runs."""
    path = experiment.folder / STRATA_NAME
    named = {name for case in experiment.prepared.cases for name in case.strata}
    strata = {
        name: {case.case_id: case.strata[name] for case in experiment.prepared.cases if name in case.strata}
        for name in sorted(named)
    }
    if strata and (not path.is_file() or load_json(path, f"Remove {path} and run the same command.") != strata):
        write_json(path, strata)


def _note_fold(experiment: Experiment) -> None:
    """Add the fold's audit to the experiment's note."""
    with change_note(experiment.folder) as noted:
        folds = noted.setdefault("folds", {})
        if str(experiment.fold) not in folds:
            folds[str(experiment.fold)] = {"audit": _describe_audit(experiment)}


@contextmanager
def change_note(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield an experiment's note and write it again if it was changed; several commands may come to do so at once."""
    path = folder / EXPERIMENT_NAME
    with hold_lock(path.with_name(".experiment.lock")):
        noted = load_json(path, "Remove the file and run the same command.")
        before = deepcopy(noted)
        yield noted
        if noted != before:
            write_json(path, noted)


def _describe_audit(experiment: Experiment) -> dict[str, Any]:
    return {name: value for name, value in asdict(experiment.prepared.audit).items() if name != "examples"}


def _describe_prompts(book: PromptBook | FreeTextBook) -> dict[str, int]:
    """Return what the verdict on wording has to say of the held-out sentences; nothing of free texts."""
    if isinstance(book, FreeTextBook):
        return {}
    found = check_held_out(book)
    return {
        "num_wordings": found.num_wordings,
        "num_held_out": found.num_sentences,
        "num_naming": len(found.naming),
    }


def _describe(experiment: Experiment, hashes: dict[str, str]) -> dict[str, Any]:
    recipe = experiment.recipe
    versions = {name: metadata.version(name) for name in VERSIONED}
    cases = experiment.prepared.cases
    return {
        "name": recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": {
            "kind": recipe.dataset.kind,
            "num_cases": len(cases),
            "num_patients": len({case.patient_id for case in cases}),
            "text_field": " + ".join(experiment.texts.book.fields),
            "classes": {field: experiment.texts.book.classes(field) for field in experiment.texts.book.fields},
            "phantom": find_phantom(recipe),
        },
        "prompts": _describe_prompts(experiment.texts.book),
        "test_fold": recipe.dataset.test_fold,
        "models": {"image_encoder": recipe.image_encoder.preset, "text_encoder": recipe.text_encoder.name},
        "audit": _describe_audit(experiment),
        "allow_leakage": recipe.allow_leakage,
        "hashes": hashes,
        "versions": {"python": platform.python_version(), **versions},
        "recipe": recipe.model_dump(mode="json"),
    }


def train(experiment: Experiment, arm: str, seed: int, terminal: Terminal, stop: StopRequest) -> dict[str, Any]:
    """Train and evaluate one arm, or continue a stopped run, or reuse a finished one; return its run.json.

    Raises:
        RunFolderError: another process writes this run, or its files are of another recipe.
        StoppedError: the process was asked to stop; the run is saved.
    """
    job = experiment.make_job(arm, seed)
    write_reference_once(job, terminal)
    with lock_run(job.run_folder):
        if is_finished(job):
            terminal.say(f"reused {job.run_folder}: finished")
        else:
            epochs = job.recipe.optim.epochs
            progress = terminal.watch(f"epochs of {arm}", epochs, count_epochs(job.run_folder))
            with progress as advance, follow_epochs(job, advance):
                run_here(job, stop)
        return load_json(job.run_folder / RUN_NAME, "Train again with the same command.")


@contextmanager
def follow_epochs(job: Job, advance: Advance) -> Iterator[None]:
    """Report the number of finished epochs, read from the history that the first rank writes on any node."""
    told = 0

    def tell() -> None:
        nonlocal told
        done = count_epochs(job.run_folder)
        if done > told:
            advance(done, job.recipe.optim.epochs)
            told = done

    with run_periodically(tell, FOLLOW_SECONDS):
        yield


def count_epochs(run_folder: Path) -> int:
    """Return how many epochs a run has done so far."""
    try:
        return len((run_folder / HISTORY_NAME).read_text(encoding="utf-8").splitlines())
    except OSError:
        return 0


def run_here(job: Job, stop: StopRequest) -> None:
    """Train in this process, or on Ray's workers where the recipe has some."""
    if job.recipe.cluster.min_train_workers > 0:
        from t2m_bench.cluster.train_job import train_with_ray

        train_with_ray(job, stop.tell)
    else:
        with stop.tell(lambda: None):  # the loop asks after each step
            train_in_process(job, stop.is_set)
    if stop.is_set() and not (job.run_folder / RUN_NAME).is_file():
        raise stop.make_error()


def write_reference_once(job: Job, terminal: Terminal) -> None:
    """Write what all arms of the fold share, where it is absent or not all boxes that are asked now are scored in it.

    The table says which are scored: boxes.json is replaced minutes before it, and what writes both may be killed.
    """
    waiting = f"waiting for {job.data.reference}: another process writes it"
    with hold_lock(job.data.reference / LOCK_NAME, on_wait=lambda: terminal.say(waiting)):
        drawn = job.data.reference / BOXES_NAME
        there = {TIGHT, *load_json(drawn, f"Remove {drawn} and run the same command.")} if drawn.is_file() else set()
        wanted = [*job.data.asking.boxes, *sorted(there - set(job.data.asking.boxes))]
        lacks_masks = job.suite.bench.keep_masks and not (job.data.reference / PREDICTED_NAME).is_file()
        if lacks_masks or not set(wanted) <= there & find_scored_boxes(job.data.reference):
            with terminal.watch(f"fold {job.recipe.dataset.test_fold}: boxes, probe, floors and baseline"):
                write_reference(job, wanted)
            terminal.say(f"wrote {job.data.reference}: boxes, probe, floors and baseline")


def evaluate(run: Path, runs: Path, terminal: Terminal) -> dict[str, Any]:
    """Evaluate a trained run again from its checkpoint; return its run.json.

    Raises:
        RunFolderError: the folder holds no run, or its checkpoint is of another recipe.
    """
    noted = load_json(run / RUN_NAME, "Give a run's folder, as `t2m-bench train RECIPE` names it.")
    if "recipe" not in noted:
        raise RunFolderError(f"{run / RUN_NAME}: names no recipe. Train again with `t2m-bench train`.")
    recipe = parse_noted_recipe(noted.get("suite", noted["recipe"]), str(run / RUN_NAME))
    experiment, hashes = gather(recipe, runs, terminal, to_train=False)
    job = experiment.make_job(str(noted["arm"]), int(noted["seed"]))
    if job.run_folder != run.resolve():
        raise RunFolderError(
            f"{run}: its recipe, data, prompt file and frozen models make {job.run_folder} today. Name its --runs, put "
            "back what changed, or train again."
        )
    note_experiment(experiment, hashes)
    write_reference_once(job, terminal)
    with lock_run(run):
        bench = set_up(job, ProcessGroup(recipe.optim.mixed_precision, recipe.cluster.use_gpu))
        run_job.evaluate(bench, load_progress(run), run_job.ask_to_test(bench))
        again = load_json(run / RUN_NAME, "Train again with the same command.")
        kept = {name: noted[name] for name in TRAINING_FACTS if name in noted}
        write_json(run / RUN_NAME, again | kept)
    return again | kept
