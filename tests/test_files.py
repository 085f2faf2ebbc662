import errno
import multiprocessing
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from full_disk import limit_file_size
from messages import check_names, is_named

from t2m_bench.cli import main
from t2m_bench.data.case import Case
from t2m_bench.data.images import write_png
from t2m_bench.data.manifest import write_manifest
from t2m_bench.evaluation.crops import write_crops
from t2m_bench.files import clear_partial, explain, write_atomically, write_json, write_text
from t2m_bench.locks import hold_lock


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with write_atomically(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [("file.txt", "old")]
    with pytest.raises(TypeError):
        write_json(path, object())
    assert path.read_text() == "old"


def test_bytes_are_on_the_disk_before_their_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a host that loses power can leave the name of a checkpoint with nothing behind it."""
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, call=call: (done.append(name), call(*given)))
    write_text(tmp_path / "file.txt", "new")
    assert done == ["fsync", "replace"]


def test_a_private_file_is_private_while_it_is_written(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "key", private=True) as partial:
        partial.write_text("secret")
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def write_manifest_of_many(folder: Path) -> None:
    box = (0, 0, 1, 1)
    case = Case("c", "p", Path("i"), Path("m"), 1, 1, box, {"birads": "2"}, 1, None, (), "x" * 64, "y" * 64)
    write_manifest(folder / "manifest.jsonl", [case] * 50)


WRITERS = {
    "manifest": write_manifest_of_many,
    "text": lambda folder: write_text(folder / "text", "x" * 9000),
    "json": lambda folder: write_json(folder / "json", ["x" * 9000]),
    "crops": lambda folder: write_crops(folder / "crops.npz", {"a": random_pixels()}),
    "image": lambda folder: write_png(folder / "image.png", random_pixels()),
}


def random_pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, name: str) -> None:
    with limit_file_size(2000), pytest.raises(OSError) as caught:  # noqa: PT011  # writers differ; checked below
        WRITERS[name](tmp_path)
    assert any(is_named(str(caught.value), part) for part in (str(errno.EFBIG), os.strerror(errno.EFBIG)))
    assert list(tmp_path.iterdir()) == []
    WRITERS[name](tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in ("whole", ".lock", ".shard.h5.1a2b3c4d.partial"):
        (tmp_path / name).touch()
    clear_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", ".lock"}


def _hold(path: Path, held: "multiprocessing.Event", release: "multiprocessing.Event") -> None:
    with hold_lock(path):
        held.set()
        release.wait(60)
        (path.parent / "done").touch()


def test_a_lock_is_waited_for_and_told_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / ".lock", held, release))
    process.start()
    told = []

    def tell() -> None:
        told.append("waiting")
        release.set()

    try:
        assert held.wait(60)
        with hold_lock(tmp_path / ".lock", on_wait=tell):
            assert (tmp_path / "done").exists(), "the other process must have ended its work"
    finally:
        release.set()
        process.join()
    assert told == ["waiting"]


def test_a_file_of_somebody_else_is_told_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setattr("t2m_bench.files.os.access", lambda path, mode: Path(path) not in (theirs, theirs / "file"))
    monkeypatch.setattr("t2m_bench.files.pwd.getpwuid", lambda number: SimpleNamespace(pw_name=f"name-{number}"))
    monkeypatch.setattr("t2m_bench.files.os.getuid", lambda: 54321)
    owner = f"name-{theirs.stat().st_uid}"
    for path in (theirs / "file", theirs / "absent" / "file"):  # absent: its folder is what refuses
        said = explain(PermissionError(errno.EACCES, "Permission denied", str(path)))
        check_names(said, path, theirs, owner, "name-54321", "--runs")
    assert explain(OSError(errno.ENOSPC, "full", "x")) == str(OSError(errno.ENOSPC, "full", "x"))
    assert explain(PermissionError("no file is named"))


@pytest.mark.parametrize("verb", ["prepare", "bench"])
def test_runs_of_another_user_are_refused_by_name(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    write = Path.write_bytes

    def refuse(path: Path, content: bytes) -> int:
        if path.is_relative_to(runs):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr("t2m_bench.files.os.access", lambda path, mode: Path(path) != runs)
    monkeypatch.setattr("t2m_bench.files.pwd.getpwuid", lambda number: SimpleNamespace(pw_name=f"name-{number}"))
    monkeypatch.setattr(
        sys, "argv", ["t2m-bench", verb, "demo", f"dataset.root={tmp_path / 'data'}", "--runs", str(runs)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    check_names(errors, runs, "--runs", f"name-{runs.stat().st_uid}")
    assert not list(runs.iterdir())
