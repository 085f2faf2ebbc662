"""Makes shards of embeddings from cases, and a prompt bank from prompt files."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from t2m_bench.data.free_text import FreeTextBook
from t2m_bench.data.manifest import compute_manifest_hash
from t2m_bench.data.prompts import PromptBook, load_prompts
from t2m_bench.embedding.encode import EmbedTask, count_bytes_per_case
from t2m_bench.embedding.free_texts import encode_free_texts
from t2m_bench.embedding.prompt_bank import BankSignature, PromptBank, load_bank, write_bank
from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.embedding.shards.schema import INDEX_NAME, Signature
from t2m_bench.embedding.shards.writer import ShardPlan, find_finished, finish_shards, plan_shards
from t2m_bench.errors import RunFolderError
from t2m_bench.files import clear_partial
from t2m_bench.locks import hold_lock
from t2m_bench.models.sam import compute_weights_sha256
from t2m_bench.models.text import compute_text_sha256, load_text_encoder
from t2m_bench.pipeline.prepare import Prepared
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Advance, Terminal
from t2m_bench.training.process_group import find_device

LOCK_NAME = ".lock"


@dataclass(frozen=True)
class Embedded:
    """Shards of a dataset, and what was done to have them."""

    folder: Path
    signature: Signature
    num_cases: int
    num_encoded: int
    seconds: float


@dataclass(frozen=True)
class Texts:
    """The sentences of a recipe with their embeddings; a bank of free texts names them by their hashes."""

    book: PromptBook | FreeTextBook
    bank: PromptBank
    signature: BankSignature


def embed(recipe: Recipe, prepared: Prepared, runs: Path, terminal: Terminal) -> Embedded:
    """Encode every case once; an interrupted embedding continues, a finished one is reused.

    Raises:
        WeightsError: the encoder's weights are absent or cannot be used.
        ShardError: shards of this name are truncated, altered or of other data, or the disk is full.
    """
    start = time.monotonic()
    signature, folder = locate_shards(recipe, prepared, runs)
    if not (folder / INDEX_NAME).is_file():
        waiting = f"waiting for {folder}: another process embeds"
        with hold_lock(folder / LOCK_NAME, on_wait=lambda: terminal.say(waiting)):
            if not (folder / INDEX_NAME).is_file():  # who was waited for may have done all
                return _encode(recipe, prepared, folder, signature, terminal)
    num_cases = ShardReader(folder, signature).index.num_cases
    terminal.say(f"reused {folder}: {num_cases} embedded cases")
    return Embedded(folder, signature, num_cases, 0, time.monotonic() - start)


def locate_shards(recipe: Recipe, prepared: Prepared, runs: Path) -> tuple[Signature, Path]:
    """Return the signature of a data set's embeddings and the folder that they have or will have.

    Raises:
        WeightsError: the encoder's weights are absent or cannot be used.
    """
    encoder = recipe.image_encoder
    signature = Signature(
        encoder.preset,
        compute_weights_sha256(encoder.preset, encoder.checkpoint),
        IMAGE_ENCODERS.find(encoder.preset).get_preprocessing_id(encoder.input_range),
        compute_manifest_hash(prepared.cases),
    )
    return signature, runs / "shards" / f"{recipe.name}-{signature.compute_hash()}"


def _encode(recipe: Recipe, prepared: Prepared, folder: Path, signature: Signature, terminal: Terminal) -> Embedded:
    """Encode what a folder, held by this process, lacks."""
    start = time.monotonic()
    encoder = recipe.image_encoder
    clear_partial(folder)
    grid = IMAGE_ENCODERS.find(encoder.preset).grid
    plans = plan_shards([case.case_id for case in prepared.cases], count_bytes_per_case(grid), recipe.cluster.shard_mib)
    finished = find_finished(folder, plans, signature)
    if finished:
        terminal.say(f"continuing {folder}: {len(finished)} of {len(plans)} files are there")
    tasks = _make_tasks(recipe, prepared, folder, signature, [plan for plan in plans if plan.file not in finished])
    total = sum(len(task.cases) for task in tasks)
    _check_space(folder, total * count_bytes_per_case(grid))
    with terminal.watch("images embedded", total) as advance:
        num_encoded = _run_tasks(recipe, tasks, advance)
    finish_shards(folder, plans, signature)
    seconds = time.monotonic() - start
    terminal.say(
        f"wrote {folder}: {num_encoded} cases embedded in {seconds:.1f} s, {num_encoded / seconds:.1f} images/s"
    )
    return Embedded(folder, signature, len(prepared.cases), num_encoded, seconds)


def _check_space(folder: Path, needed_bytes: int) -> None:
    """See that what is embedded fits on the disk.

    Raises:
        RunFolderError: it does not; names both sizes.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise RunFolderError(
            f"{folder}: {free / 2**30:.1f} GiB are free and the embeddings take {needed_bytes / 2**30:.1f} GiB. Free "
            "some space, or give another --runs."
        )


def _make_tasks(
    recipe: Recipe, prepared: Prepared, folder: Path, signature: Signature, plans: list[ShardPlan]
) -> list[EmbedTask]:
    by_id = {case.case_id: case for case in prepared.cases}
    encoder = recipe.image_encoder
    checkpoint = encoder.checkpoint.resolve() if encoder.checkpoint else None
    return [
        EmbedTask(
            encoder.preset,
            checkpoint,
            prepared.root.resolve(),
            folder.resolve(),
            plan,
            signature,
            tuple(by_id[case_id] for case_id in plan.case_ids),
            encoder.input_range,
        )
        for plan in plans
    ]


def _run_tasks(recipe: Recipe, tasks: list[EmbedTask], advance: Advance) -> int:
    """Run the tasks, here or through Ray; return the cases encoded."""
    count = _Count(sum(len(task.cases) for task in tasks), advance)
    if recipe.cluster.num_embed_workers > 0 and tasks:
        from t2m_bench.cluster.embed_job import embed_with_ray

        embed_with_ray(tasks, recipe.cluster, count.add)
    else:
        device = find_device(recipe.cluster.use_gpu)
        for task in tasks:
            task.run(device, count.add)
    return count.total


class _Count:
    """Counts finished cases and reports them to the progress display."""

    def __init__(self, total: int, advance: Advance) -> None:
        self.total = total
        self._done = 0
        self._advance = advance

    def add(self, cases: int = 1) -> None:
        self._done += cases
        self._advance(self._done, self.total)


def embed_texts(recipe: Recipe, runs: Path, terminal: Terminal, free: FreeTextBook | None = None) -> Texts:
    """Encode every distinct sentence of the recipe's prompt file once, or the free texts of the cases.

    Args:
        free: the cases' own texts, as `prepare` returns them.

    Raises:
        RecipeError: the prompt file cannot be used.
        WeightsError: the encoder is absent or cannot be read, or free texts are longer than it takes.
    """
    encoder = recipe.text_encoder
    book = free or load_prompts(recipe.prompts.file, recipe.prompts.family)
    signature = BankSignature(encoder.name, compute_text_sha256(encoder.name), encoder.pooling, book.sha256)
    path = runs / "prompt_banks" / f"{book.name}-{signature.compute_hash()}.h5"
    if not path.is_file():
        waiting = f"waiting for {path.parent}: another process embeds sentences"
        with hold_lock(path.parent / LOCK_NAME, on_wait=lambda: terminal.say(waiting)):
            if not path.is_file():  # who was waited for may have written it
                return Texts(book, _encode_texts(recipe, book, path, signature, terminal), signature)
    terminal.say(f"reused {path}")
    return Texts(book, load_bank(path, signature), signature)


def _encode_texts(
    recipe: Recipe, book: PromptBook | FreeTextBook, path: Path, signature: BankSignature, terminal: Terminal
) -> PromptBank:
    """Encode and write the sentences of a book in a folder of banks that this process holds."""
    clear_partial(path.parent)
    encoder = recipe.text_encoder
    loaded = load_text_encoder(encoder.name, encoder.pooling)
    if isinstance(book, FreeTextBook):
        bank = encode_free_texts(book, loaded, recipe.prompts.long_text)
    else:
        bank = PromptBank(book.all_sentences(), loaded.encode(book.all_sentences()).numpy())
    write_bank(path, bank, signature)
    terminal.say(f"wrote {path}: {len(bank.sentences)} sentences by {encoder.name}")
    return bank
