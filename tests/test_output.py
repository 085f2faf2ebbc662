"""Standard output that is closed, full or slow stops no work and leaves no traceback."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from messages import check_names

from t2m_bench.output import LastingOutput

COMMAND = [sys.executable, "-c", "from t2m_bench.cli import main; main()"]
RECIPE = {
    "name": "mini",
    "dataset": {"root": "data", "phantom": {"cases": 40}},
    "text_encoder": {"name": "stand-in"},
    "optim": {"epochs": 1},
    "bench": {"arms": ["text_free", "gated"], "seeds": [0], "conditions": ["right", "wrong"], "boxes": ["tight"]},
    "cluster": {"num_train_workers": 0, "num_embed_workers": 0},
}
SWEEP = {
    "name": "s",
    "recipe": "mini.yaml",
    "trials": 2,
    "space": {"optim.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}


def run_until_line(folder: Path, *arguments: str, lines: int = 1, with_error: bool = False) -> tuple[int, str]:
    """Run a command whose reader leaves after some lines; return its exit code and what standard error had."""
    reader, writer = os.pipe()
    error = writer if with_error else subprocess.PIPE
    with subprocess.Popen([*COMMAND, *arguments], stdout=writer, stderr=error, text=True, cwd=folder) as process:
        os.close(writer)
        with os.fdopen(reader) as stream:
            for _ in range(lines):
                assert stream.readline()
        said = "" if with_error else process.communicate(timeout=300)[1]
        return process.wait(300), said


def write_recipe(folder: Path) -> None:
    (folder / "mini.yaml").write_text(yaml.safe_dump(RECIPE))


@pytest.mark.parametrize("lines", [0, 1])
def test_a_listing_whose_reader_leaves_ends_quietly(tmp_path: Path, lines: int) -> None:
    write_recipe(tmp_path)
    assert run_until_line(tmp_path, "recipe", "mini.yaml", lines=lines) == (0, "")


def test_a_refusal_keeps_its_code_where_nobody_reads_it(tmp_path: Path) -> None:
    assert run_until_line(tmp_path, "recipe", "absent.yaml", lines=0, with_error=True) == (2, "")


@pytest.mark.cluster
def test_every_long_verb_goes_on_where_nobody_reads(tmp_path: Path) -> None:
    """With a pipe for both streams, as in `t2m-bench bench ... 2>&1 | head -1`."""
    write_recipe(tmp_path)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SWEEP))
    assert run_until_line(tmp_path, "bench", "mini.yaml", with_error=True)[0] == 0
    (report,) = tmp_path.glob("runs/mini-*/report/report.html")
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("runs/mini-*/*/run.json")]
    assert sorted(run["arm"] for run in runs) == ["gated", "text_free"]
    report.unlink()
    assert run_until_line(tmp_path, "report", with_error=True)[0] == 0
    assert report.is_file()
    assert run_until_line(tmp_path, "sweep", "s.yaml", with_error=True)[0] == 0
    assert list(tmp_path.glob("runs/sweeps/*/report/report.html"))
    for verb in ("embed", "inspect", "train", "doctor"):
        assert run_until_line(tmp_path, verb, "mini.yaml", with_error=True)[0] == 0


def test_lost_lines_are_reported_and_a_closed_output_is_none(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    command = [*COMMAND, "recipe", "mini.yaml"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 2
    check_names(done.stderr, os.strerror(errno.ENOSPC))
    closed = subprocess.run(["/bin/sh", "-c", '"$@" >&- 2>&-', "sh", *command], cwd=tmp_path)
    assert closed.returncode == 0


def test_an_output_that_does_not_wait_gets_every_byte() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = bytes(range(256)) * 2000  # more than a pipe holds
    read: list[bytes] = []

    def drain() -> None:
        with os.fdopen(reader, "rb") as stream:
            read.append(stream.read())

    thread = threading.Thread(target=drain)
    thread.start()
    output = LastingOutput(writer)
    assert output.write(text) == len(text)
    os.close(writer)
    thread.join()
    assert read == [text]
    assert output.error is None
