"""Reads a trained adapter from its run's folder, inside the experiment that it belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from t2m_bench.data.datasets.nsclc.data_set import make_slice_rule
from t2m_bench.data.free_text import TEXT, name_class_field, normalise
from t2m_bench.data.prompts import UNKNOWN, PromptBook, load_prompts
from t2m_bench.embedding.prompt_bank import BankSignature, PromptBank, load_bank
from t2m_bench.embedding.text_table import FreeTexts, TextTable, list_sentence_rows
from t2m_bench.errors import RecipeError, RunFolderError
from t2m_bench.files import EXPERIMENT_NAME, PROMPTS_NAME, load_json
from t2m_bench.models.text import compute_text_sha256, load_text_encoder
from t2m_bench.prediction.trained import FreeReading, PixelSettings, TrainedAdapter, Vocabulary
from t2m_bench.recipe.arms import REFERENCE_ARM
from t2m_bench.recipe.schema import Recipe, parse_noted_recipe
from t2m_bench.runs.run_folder import RUN_NAME

NOTED = ("arm", "seed", "run_hash", "best_epoch", "recipe")
HASHES = ("image_encoder", "text_encoder", "prompts")


def load_run(folder: Path, text_encoder: str | None = None) -> TrainedAdapter:
    """Read a finished run.

    Args:
        text_encoder: where the text encoder lies now, if not where the training had it.

    Raises:
        RunFolderError: the folder holds no finished run, or lies outside its experiment.
        RecipeError: its recipe is of another version, or the prompt file is not the one of then.
        WeightsError: the sentences are not embedded here, and the text encoder is absent.
    """
    path = folder / RUN_NAME
    noted = load_json(path, "Give a finished run's folder, or one that `t2m-bench export` wrote.")
    missing = [name for name in NOTED if name not in noted]
    if missing:
        raise RunFolderError(f"{path}: {missing[0]} is missing. Train the run again with `t2m-bench train`.")
    suite, recipe = _parse(noted.get("suite", noted["recipe"]), path), _parse(noted["recipe"], path)
    experiment = folder.resolve().parent
    hashes, classes = _load_note(experiment / EXPERIMENT_NAME)
    dataset = suite.dataset
    return TrainedAdapter(
        name=folder.resolve().name,
        folder=folder,
        adapter_sha256=str(noted.get("adapter_sha256", "")),
        run_hash=str(noted["run_hash"]),
        epoch=int(noted["best_epoch"]),
        adapter=recipe.adapter,
        precision=recipe.optim.mixed_precision,
        image_encoder=suite.image_encoder,
        image_weights_sha256=hashes["image_encoder"],
        text_encoder=suite.text_encoder.model_copy(update={"name": text_encoder or suite.text_encoder.name}),
        text_weights_sha256=hashes["text_encoder"],
        pixels=PixelSettings(dataset.kind, dataset.intensity, make_slice_rule(suite).window_hu),
        vocabulary=_load_vocabulary(suite, hashes, experiment, classes, text_encoder),
        source=str(path),
    )


def find_run_without_text(folder: Path) -> Path:
    """Return the finished run of text_free that has the experiment, fold and seed of a run.

    Raises:
        RunFolderError: there is none.
    """
    experiment = folder.resolve().parent
    noted = load_json(folder / RUN_NAME, "Give a run inside its experiment's folder: an export holds one arm alone.")
    for path in sorted(experiment.glob(f"{REFERENCE_ARM}-*/{RUN_NAME}")):
        other = load_json(path, "Train the run again.")
        if all(other.get(name) == noted.get(name) for name in ("fold", "seed")) and other.get("arm") == REFERENCE_ARM:
            return path.parent
    raise RunFolderError(
        f"{experiment}: no run of {REFERENCE_ARM} with fold {noted.get('fold')} and seed {noted.get('seed')} has "
        f"finished. Train it (bench.arms), or predict without --without-text."
    )


def _parse(raw: Any, path: Path) -> Recipe:
    try:
        return parse_noted_recipe(raw, str(path))
    except RecipeError as error:
        raise RecipeError(
            f"{error}. The run was made by another version of t2m-bench: use that one, or train it again with this one."
        ) from None


def _load_note(path: Path) -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
    """Return the hashes of an experiment, and text field -> classes."""
    experiment = load_json(path, "A run is read inside its experiment's folder: leave it there, or export it.")
    hashes: Any = experiment.get("hashes")
    missing = [name for name in HASHES if not isinstance(hashes, dict) or name not in hashes]
    if missing:
        raise RunFolderError(f"{path}: hashes.{missing[0]} is missing. Train the run again with `t2m-bench train`.")
    dataset: Any = experiment.get("dataset")
    classes = dataset.get("classes", {}) if isinstance(dataset, dict) else {}
    return {name: str(hashes[name]) for name in HASHES}, classes


def _load_vocabulary(
    suite: Recipe,
    hashes: Mapping[str, str],
    experiment: Path,
    classes: Mapping[str, Sequence[str]],
    text_encoder: str | None,
) -> Vocabulary:
    """Read the embedded sentences of a run; where they are not there they are encoded again."""
    if suite.prompts.column is not None:
        return _make_free_vocabulary(suite, hashes, classes, text_encoder)
    book, encoder = _load_book(suite, hashes["prompts"], experiment / PROMPTS_NAME), suite.text_encoder
    signature = BankSignature(encoder.name, hashes["text_encoder"], encoder.pooling, book.sha256)
    path = experiment.parent / "prompt_banks" / f"{book.name}-{signature.compute_hash()}.h5"
    if path.is_file():
        bank = load_bank(path, signature)
    else:
        name, sentences = text_encoder or encoder.name, book.all_sentences()
        check_text_weights(name, hashes["text_encoder"])
        bank = PromptBank(sentences, load_text_encoder(name, encoder.pooling).encode(sentences).numpy())
    rows, held_out = list_sentence_rows(book, bank, "training"), list_sentence_rows(book, bank, "held_out")
    table = TextTable(torch.from_numpy(bank.text_embedding), rows, {}, held_out)
    return Vocabulary(bank.sentences, table, book.name, book.sha256)


def _load_book(suite: Recipe, sha256: str, copy: Path) -> PromptBook:
    """Read the prompt file of a run: the experiment's copy of it, or the file itself where it is still the same."""
    file, family = str(suite.prompts.file), suite.prompts.family
    if copy.is_file():
        book = replace(load_prompts(str(copy), family), name=Path(file).stem)
        if book.sha256 == sha256:
            return book
    book = load_prompts(file, family)
    if book.sha256 != sha256:
        raise RecipeError(
            f"prompts.file = {file}: its sentences are not those that the run was trained with (sha256 {book.sha256}, "
            f"then {sha256}), and {copy} does not hold them either. Restore the file used in training."
        )
    return book


def _make_free_vocabulary(
    suite: Recipe, hashes: Mapping[str, str], classes: Mapping[str, Sequence[str]], text_encoder: str | None
) -> Vocabulary:
    """Return the classes of free texts and the sentence that says unknown, encoded."""
    prompts, name = suite.prompts, text_encoder or suite.text_encoder.name
    check_text_weights(name, hashes["text_encoder"])
    unknown = normalise(prompts.unknown)
    embeddings = load_text_encoder(name, suite.text_encoder.pooling).encode([unknown])
    field = name_class_field(prompts.class_column) if prompts.class_column else ""
    free = FreeTexts(TEXT, field, tuple(classes.get(field, ())))
    table = TextTable(embeddings, {TEXT: {UNKNOWN: (0,)}}, {}, free=free)
    reading = FreeReading(prompts.strip_numbers, prompts.long_text)
    return Vocabulary((unknown,), table, "", hashes["prompts"], reading)


def check_text_weights(name: str, wanted: str) -> None:
    """See that a text encoder is the one of the training.

    Raises:
        RunFolderError: it is another; names both.
        WeightsError: it cannot be found.
    """
    found = compute_text_sha256(name)
    if found != wanted:
        raise RunFolderError(
            f"text encoder {name}: its files have sha256 {found}, the adapter was trained with {wanted}. Name the "
            "folder of the encoder used in training (--text-encoder), or give a class in place of a text (--field)."
        )
