import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import numpy as np
from messages import check_names, raises_naming
from PIL import Image

from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.errors import ShardError, WeightsError
from t2m_bench.locks import hold_lock
from t2m_bench.pipeline.embed import embed, embed_texts
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal


def change(recipe: Recipe, section: str, **values: object) -> Recipe:
    raw = recipe.model_dump(mode="json")
    raw[section] |= values
    return parse_recipe(raw, "test")


def test_everything_is_encoded_once_and_no_identifier_goes_along(small_recipe: Recipe, tmp_path: Path) -> None:
    prepared = prepare(small_recipe, tmp_path, Terminal())
    first = embed(small_recipe, prepared, tmp_path, Terminal())
    assert first.num_encoded == first.num_cases == 63
    again = embed(small_recipe, prepare(small_recipe, tmp_path, Terminal()), tmp_path, Terminal())
    assert (again.num_encoded, again.folder) == (0, first.folder)
    for path in first.folder.rglob("*"):
        assert not re.search(rb"bus_\d", path.read_bytes()), path
    texts = embed_texts(small_recipe, tmp_path, Terminal())
    kept = embed_texts(small_recipe, tmp_path, Terminal())
    assert texts.bank.sentences == texts.book.all_sentences() == kept.bank.sentences
    assert np.array_equal(texts.bank.text_embedding, kept.bank.text_embedding)


def test_several_processes_write_what_one_writes(small_recipe: Recipe, tmp_path: Path) -> None:
    read = []
    for name, workers in (("one", 0), ("two", 2)):
        recipe = change(small_recipe, "cluster", num_embed_workers=workers, shard_mib=3)
        prepared = prepare(recipe, tmp_path / name, Terminal())
        folder = embed(recipe, prepared, tmp_path / name, Terminal()).folder
        reader = ShardReader(folder)
        assert len(reader.index.entries) == 3
        read.append(reader.read([case.case_id for case in prepared.cases]))
    # a batch of another size or another number of threads may round otherwise, once, in float16
    np.testing.assert_allclose(read[0].image_embedding, read[1].image_embedding, atol=2e-3)
    assert np.array_equal(read[0].mask_low_res, read[1].mask_low_res)
    assert np.array_equal(read[0].box_xyxy, read[1].box_xyxy)


def test_a_killed_embedding_continues(small_recipe: Recipe, tmp_path: Path) -> None:
    recipe = change(small_recipe, "cluster", shard_mib=1)
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json())
    prepare(recipe, tmp_path, Terminal())
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "embed"]
    process = subprocess.Popen([*command, tmp_path / "recipe.yaml", "--runs", tmp_path], stderr=subprocess.PIPE)
    folder = None
    while process.poll() is None and folder is None:
        folder = next(iter(tmp_path.glob("shards/*/shard-00001.h5")), None)
    process.kill()
    process.wait()
    assert folder is not None, process.stderr.read()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.parent.glob("shard-*.h5")}
    (folder.parent / ".shard-00008.h5.0123abcd.partial").touch()  # the kill may have come between two files
    embedded = embed(recipe, prepare(recipe, tmp_path, Terminal()), tmp_path, Terminal())
    assert not list(folder.parent.glob(".*.partial")), "what the killed process left"
    rewritten = [name for name, stamp in kept.items() if (embedded.folder / name).stat().st_mtime_ns != stamp]
    assert len(rewritten) <= 1, "only a file that the kill kept from being noted in the index may be encoded again"
    assert embedded.num_encoded <= 63 - 7 * (len(kept) - len(rewritten))
    assert ShardReader(embedded.folder).index.num_cases == 63


def _hold_and_embed(held: Event, release: Event, folder: Path, made: Path) -> None:
    with hold_lock(folder / ".lock"):
        held.set()
        release.wait(300)
        shutil.copytree(made, folder, dirs_exist_ok=True)


def test_a_second_embedding_waits_and_takes_what_the_first_made(small_recipe: Recipe, tmp_path: Path) -> None:
    made = embed(small_recipe, prepare(small_recipe, tmp_path / "a", Terminal()), tmp_path / "a", Terminal()).folder
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "pseudonyms.key", tmp_path / "b")
    prepared = prepare(small_recipe, tmp_path / "b", Terminal())
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    folder = tmp_path / "b" / "shards" / made.name
    process = context.Process(target=_hold_and_embed, args=(held, release, folder, made))
    process.start()
    said = []

    class Telling(Terminal):
        def say(self, sentence: str) -> None:
            said.append(sentence)
            release.set()

    try:
        assert held.wait(300)
        assert embed(small_recipe, prepared, tmp_path / "b", Telling()).num_encoded == 0
    finally:
        release.set()
        process.join()
    waiting, reused = said
    check_names(waiting, "waiting", folder)
    check_names(reused, "reused", folder, 63)


def _embed_texts_together(recipe: Recipe, folder: Path, together: Barrier, said: "Queue[list[str]]") -> None:
    sentences: list[str] = []

    class Listening(Terminal):
        def say(self, sentence: str) -> None:
            sentences.append(sentence)

    together.wait(300)
    texts = embed_texts(recipe, folder, Listening())
    assert texts.bank.sentences == texts.book.all_sentences()
    said.put(sentences)


def test_of_two_processes_one_writes_the_prompt_bank(small_recipe: Recipe, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, said = context.Barrier(2), context.Queue()
    arguments = (small_recipe, tmp_path, together, said)
    processes = [context.Process(target=_embed_texts_together, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    ended = sorted(said.get(timeout=300)[-1].split()[0] for _ in processes)
    for process in processes:
        process.join()
    assert ended == ["reused", "wrote"]
    assert len(list(tmp_path.glob("prompt_banks/*.h5"))) == 1
    assert not list(tmp_path.glob("prompt_banks/.*.partial"))


def test_a_truncated_file_is_refused(small_recipe: Recipe, tmp_path: Path) -> None:
    prepared = prepare(small_recipe, tmp_path, Terminal())
    path = embed(small_recipe, prepared, tmp_path, Terminal()).folder / "shard-00000.h5"
    os.truncate(path, path.stat().st_size - 1)
    size = path.stat().st_size
    with raises_naming(ShardError, path, size, size + 1):
        embed(small_recipe, prepared, tmp_path, Terminal())


def test_another_mask_in_the_same_box_is_embedded_again(small_recipe: Recipe, tmp_path: Path) -> None:
    prepared = prepare(small_recipe, tmp_path, Terminal())
    shutil.copytree(prepared.root, tmp_path / "data")
    raw = small_recipe.model_dump(mode="json")
    raw["dataset"] |= {"root": str(tmp_path / "data"), "phantom": None}
    recipe = parse_recipe(raw, "test")
    before = embed(recipe, prepare(recipe, tmp_path, Terminal()), tmp_path, Terminal())
    path = sorted((tmp_path / "data").glob("Masks/*.png"))[0]
    mask = np.array(Image.open(path))
    inside = np.argwhere(mask)[mask.sum() // 2]
    mask[tuple(inside)] = False
    Image.fromarray(mask).save(path)
    after = embed(recipe, prepare(recipe, tmp_path, Terminal()), tmp_path, Terminal())
    assert after.num_encoded == 63
    assert after.folder != before.folder


def test_a_large_encoder_without_its_file_says_what_to_fetch(small_recipe: Recipe, tmp_path: Path) -> None:
    recipe = change(small_recipe, "image_encoder", preset="vit_b")
    with raises_naming(WeightsError, "vit_b", "image_encoder.checkpoint", "medsam_vit_b.pth"):
        embed(recipe, prepare(recipe, tmp_path, Terminal()), tmp_path, Terminal())
