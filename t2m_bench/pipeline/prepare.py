"""Turns a dataset folder into cases, splits and their audit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from t2m_bench.data.audit import Audit, check_audit, describe_unknown_field, run_audit
from t2m_bench.data.case import Case
from t2m_bench.data.datasets.registry import (
    EXCLUSIONS_NAME,
    Dataset,
    audit_cases,
    load_exclusions,
    open_dataset,
    read_cases,
)
from t2m_bench.data.exclusions import Exclusion, check_exclusions, list_exclusions
from t2m_bench.data.free_text import FreeTextBook, make_free_book
from t2m_bench.data.image_audit import (
    IMAGE_AUDIT_NAME,
    ImageFinding,
    check_images,
    load_image_audit,
    summarise_images,
    write_image_audit,
)
from t2m_bench.data.manifest import compute_manifest_hash, load_manifest, write_manifest
from t2m_bench.data.prompts import UNKNOWN, PromptBook, load_prompts
from t2m_bench.data.pseudonyms import KEY_NAME, load_or_create_pseudonyms, pseudonymise
from t2m_bench.data.splits import Splits, split_cases
from t2m_bench.errors import RecipeError
from t2m_bench.files import write_json
from t2m_bench.locks import hold_lock
from t2m_bench.models.sam import load_seen_image_hashes
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal

MANIFEST_NAME = "manifest.jsonl"
LOCK_NAME = ".prepare.lock"


@dataclass(frozen=True)
class Prepared:
    """A dataset ready for embedding and training.

    Attributes:
        root: the folder that images and masks lie in.
        cases, splits: under pseudonyms; manifest, splits and exclusions in the folder alone name the source's
            identifiers.
        manifest_sha256: of the cases as the source names them, so that it is the same wherever it was prepared.
        free: the cases' own texts; None where a prompt file has the sentences.
    """

    root: Path
    folder: Path
    cases: list[Case]
    splits: Splits
    audit: Audit
    manifest_sha256: str
    reused: bool
    free: FreeTextBook | None = None


def prepare(recipe: Recipe, runs: Path, terminal: Terminal) -> Prepared:
    """Read the dataset folder (phantoms are written first where the recipe has them), split and audit it.

    A manifest of the same files is reused: the folder's names, sizes and times decide.

    Raises:
        DatasetError: the folder cannot be read as cases, or something is left out or flagged and the recipe is strict.
        RecipeError: the prompt file is of another data set.
        LeakageError: the splits leak and the recipe does not allow it.
    """
    return prepare_folds(recipe, (), runs, terminal)[recipe.dataset.test_fold]


def prepare_folds(recipe: Recipe, folds: Iterable[int], runs: Path, terminal: Terminal) -> dict[int, Prepared]:
    """Prepare a data set split by its own test fold and by others: test fold -> data set; it is read once.

    Raises:
        UserError: as `prepare`, of any of the folds.
    """
    read = _read(recipe, runs, terminal)
    book = _open_book(recipe, read.cases)
    free = book if isinstance(book, FreeTextBook) else None
    for name in book.fields:
        if all(case.text_fields[name] == UNKNOWN for case in read.cases):
            terminal.say(describe_unknown_field(name))
    wanted = dict.fromkeys((recipe.dataset.test_fold, *folds))
    audited = {fold: _split_and_audit(recipe.with_fold(fold), read, book) for fold in wanted}
    hidden = pseudonymise(read.cases, load_or_create_pseudonyms(runs / KEY_NAME))
    name_of = {case.case_id: private.case_id for case, private in zip(read.cases, hidden, strict=True)}
    images = read.source.root if read.source.has_own_images else read.folder
    manifest_sha256 = compute_manifest_hash(read.cases)
    prepared = {}
    for fold, (splits, audit) in audited.items():
        hidden_splits = Splits(*(tuple(name_of[case_id] for case_id in part) for part in vars(splits).values()))
        prepared[fold] = Prepared(images, read.folder, hidden, hidden_splits, audit, manifest_sha256, read.reused, free)
    return prepared


@dataclass(frozen=True)
class _Read:
    """The cases of a data set as the source names them, what was left out, and the image audit, None of old folders."""

    source: Dataset
    folder: Path
    cases: list[Case]
    exclusions: list[Exclusion]
    findings: list[ImageFinding] | None
    reused: bool


def _read(recipe: Recipe, runs: Path, terminal: Terminal) -> _Read:
    """Read the cases, or their manifest where there is one, and say how many were left out and why."""
    source = open_dataset(recipe, terminal)
    folder = runs / "prepared" / f"{recipe.name}-{source.stamp[:8]}"
    manifest = folder / MANIFEST_NAME
    reused = manifest.is_file()
    if not reused:
        waiting = f"waiting for {folder}: another process reads the data set"
        with hold_lock(folder / LOCK_NAME, on_wait=lambda: terminal.say(waiting)):
            reused = manifest.is_file()
            if not reused:
                cases = read_cases(source, folder, terminal)
                write_manifest(manifest, cases)
                terminal.say(f"wrote {manifest}: {len(cases)} cases of {source.root}")
    if reused:
        cases = load_manifest(manifest)
        terminal.say(f"reused {manifest}: {len(cases)} cases of {source.root}")
    exclusions = load_exclusions(folder)
    findings = load_image_audit(folder)
    if recipe.dataset.strict:
        check_exclusions(exclusions, folder / EXCLUSIONS_NAME)
        if findings is None:  # prepared before images were audited
            findings = audit_cases(source, folder, cases, terminal)
            write_image_audit(folder, findings)
        check_images(findings, folder / IMAGE_AUDIT_NAME)
    for line in list_exclusions(exclusions):
        terminal.say(f"left out: {line}")
    return _Read(source, folder, cases, exclusions, findings, reused)


def _open_book(recipe: Recipe, cases: list[Case]) -> PromptBook | FreeTextBook:
    """Return the sentences of the prompt file, which must fit the cases, or the cases' own.

    Raises:
        RecipeError: the prompt file cannot be used, or is of another data set.
        DatasetError: no case has a text of its own.
    """
    if recipe.prompts.column is not None:
        return make_free_book(recipe.prompts, cases)
    book = load_prompts(recipe.prompts.file, recipe.prompts.family)
    _check_fields(book, cases)
    return book


def _split_and_audit(recipe: Recipe, read: _Read, book: PromptBook | FreeTextBook) -> tuple[Splits, Audit]:
    """Split the cases by the recipe's test fold, audit the splits and note both beside the manifest."""
    dataset = recipe.dataset
    field = book.fields[0] if book.fields else None  # of several, the first stratifies
    splits = split_cases(read.cases, dataset, field)
    seen = load_seen_image_hashes(recipe.image_encoder.preset)
    selection = read.source.describe_selection()
    class_order = book.classes(field) if field is not None else ()
    audit = run_audit(read.cases, splits, field, seen, read.exclusions, selection, class_order)
    if read.findings is not None:
        audit = replace(audit, images=summarise_images(read.findings, splits))
    check_audit(audit, recipe.allow_leakage, dataset.test_fold)
    is_clean = (dataset.split_by, dataset.validation) == ("patient", "apart")
    as_published = "" if is_clean else f"-by-{dataset.split_by}-{dataset.validation}"
    name = f"splits-fold{dataset.test_fold}-seed{dataset.split_seed}{as_published}.json"
    write_json(read.folder / name, {"splits": asdict(splits), "audit": asdict(audit)}, private=True)
    return splits, audit


def _check_fields(book: PromptBook, cases: list[Case]) -> None:
    """See that the cases have the prompt file's text fields, and the file sentences for each of their values.

    Raises:
        RecipeError: otherwise; names the field and the value.
    """
    for field in book.fields:
        known = {*book.classes(field), UNKNOWN}
        for case in cases:
            if field not in case.text_fields:
                there = ", ".join(case.text_fields)
                raise RecipeError(f"prompts.file = {book.name}: its field {field} is not one of {there}.")
            if case.text_fields[field] not in known:
                raise RecipeError(
                    f"prompts.file = {book.name}: no sentences for {field} = {case.text_fields[field]!r}, "
                    f"which a case has; known: {', '.join(sorted(known))}."
                )
