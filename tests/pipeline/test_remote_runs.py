"""Runs at a URL, on a real S3 server (moto) in a process of its own."""

import errno
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from messages import check_names, raises_naming
from pyarrow import fs
from safetensors import safe_open

from t2m_bench.errors import StoppedError, StorageError
from t2m_bench.pipeline.remote_runs import Mirror, locate, open_runs
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal
from t2m_bench.training.checkpoint import STATE_NAME, load_tensors

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}

EPOCHS = 10  # more than what is trained between two sendings

MakeUrl = Callable[[str], str]


def serve(**environment: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        env=ENVIRONMENT | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(urllib.request.Request(f"http://{address}/runs", method="PUT"))
            return process, address
        except OSError:
            time.sleep(0.1)
    process.kill()
    pytest.fail("moto does not answer")


@pytest.fixture(scope="module")
def make_url() -> Iterator[MakeUrl]:
    process, address = serve()
    try:
        yield lambda path: f"s3://{path}?endpoint_override={address}&scheme=http"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def url(make_url: MakeUrl, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in the bucket for one test."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return make_url(f"runs/{request.node.name}")


def write(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def read(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "/." not in str(path)]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_another_folder_gets_what_the_first_one_made_and_gives_back(url: str, tmp_path: Path) -> None:
    made = {"pseudonyms.key": "k", "exp/experiment.json": "{}", "exp/run/state": "1", "exp/run/events/e": "2"}
    with open_runs(url, tmp_path / "a", "exp", Terminal()) as first:
        for name, content in made.items():
            write(first, name, content)
        write(first, "prepared/manifest.jsonl", "a patient's name")
        write(first, "exp/run/.half.partial", "half")
    with open_runs(url, tmp_path / "b", "exp", Terminal()) as second:
        assert read(second) == made
        assert (second / "pseudonyms.key").stat().st_mode & 0o077 == 0
        write(second, "exp/run/state", "two")
    with open_runs(url, tmp_path / "a", "exp", Terminal()) as first:
        assert (first / "exp/run/state").read_text() == "two"
    with open_runs(url, tmp_path / "c", "other", Terminal()) as third:
        assert read(third) == {"pseudonyms.key": "k"}, "experiments of other recipes are left there"


def test_what_a_killed_process_did_not_send_is_kept_and_sent(url: str, tmp_path: Path) -> None:
    with open_runs(url, tmp_path / "a", "exp", Terminal()) as first:
        write(first, "exp/experiment.json", "{}")
        write(first, "exp/run/state", "1")
    write(first, "exp/run/state", "two")
    with open_runs(url, tmp_path / "a", "exp", Terminal()):
        assert (first / "exp/run/state").read_text() == "two"
    with open_runs(url, tmp_path / "b", "exp", Terminal()) as second:
        assert (second / "exp/run/state").read_text() == "two"


def test_a_stop_on_request_sends_what_was_saved_before_it_ends(url: str, tmp_path: Path) -> None:
    def work() -> None:
        with open_runs(url, tmp_path / "a", "exp", Terminal()) as first:
            write(first, "exp/experiment.json", "{}")
            raise StoppedError("stopped by SIGUSR1", 85)

    with pytest.raises(StoppedError):
        work()
    with open_runs(url, tmp_path / "b", "exp", Terminal()) as second:
        assert read(second) == {"exp/experiment.json": "{}"}


def test_a_run_that_went_on_elsewhere_is_taken_whole_and_the_own_one_set_aside(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_runs(url, tmp_path / "a", "exp", Terminal()) as first:
        for name in ("exp/experiment.json", "exp/run/adapter", "exp/run/state", "exp/other/state"):
            write(first, name, "1")
    with open_runs(url, tmp_path / "b", "exp", Terminal()) as second:
        write(second, "exp/run/state", "there")
    write(first, "exp/run/adapter", "here")
    write(first, "exp/run/run.json", "here")
    with open_runs(url, tmp_path / "a", "exp", Terminal()):
        assert read(first / "exp/run") == {"adapter": "1", "state": "there"}
        assert read(first / "exp/other") == {"state": "1"}
    check_names(capsys.readouterr().out, "exp/run", "elsewhere")
    (aside,) = first.glob(".aside-*/exp/run")
    assert {path.name: path.read_text() for path in aside.iterdir()} == {
        "adapter": "here",
        "run.json": "here",
        "state": "1",
    }


def test_a_file_that_another_host_replaced_is_read_again_and_one_that_cannot_be_read_is_told(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read_bytes, stale = Path.read_bytes, iter([True])

    def read_stale(path: Path) -> bytes:
        if path.name == "state" and next(stale, False):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read_stale)
    mirror = Mirror(url, tmp_path, "exp", Terminal())
    for name in ("exp/experiment.json", "exp/run/state"):
        write(mirror.folder, name, "1")
    mirror.push()
    with open_runs(url, tmp_path / "b", "exp", Terminal()) as elsewhere:
        assert (elsewhere / "exp/run/state").read_text() == "1"

    stale = itertools.repeat(True)
    monkeypatch.setattr("t2m_bench.pipeline.remote_runs.PUSH_SECONDS", 0.05)
    write(mirror.folder, "exp/run/state", "two")
    with mirror.follow():
        time.sleep(1)
        stale = iter(())  # readable again: the thread still sends
        time.sleep(2)
    assert capsys.readouterr().err.count(os.strerror(errno.ESTALE)) == 1
    with open_runs(url, tmp_path / "c", "exp", Terminal()) as elsewhere:
        assert (elsewhere / "exp/run/state").read_text() == "two"


def test_an_update_is_sent_as_it_was_at_one_moment(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes while others are read makes the reading start again."""
    mirror = Mirror(url, tmp_path, "exp", Terminal())
    for name in ("exp/experiment.json", "exp/run/adapter", "exp/run/state"):
        write(mirror.folder, name, "1")
    read, times = Path.read_bytes, itertools.count()

    def read_and_write(path: Path) -> bytes:
        content = read(path)
        if path.parent.name == "run" and next(times) == 0:  # an epoch ends between the reading of two files
            write(mirror.folder, "exp/run/adapter", "later")
            write(mirror.folder, "exp/run/state", "later")
        return content

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_and_write)
        mirror.push()
    with open_runs(url, tmp_path / "elsewhere", "exp", Terminal()) as elsewhere:
        assert [(elsewhere / "exp/run" / name).read_text() for name in ("adapter", "state")] == ["later"] * 2


def test_places_below_a_url(tmp_path: Path) -> None:
    assert locate("s3://b/x/exp/run?scheme=http", None, 2) == ("s3://b/x?scheme=http", Path("exp/run"))
    assert locate("somewhere/exp/run", "s3://b/x", 2) == ("s3://b/x", Path("exp/run"))
    assert locate(f"{tmp_path}/exp", None, 1) == (str(tmp_path), tmp_path / "exp")
    with raises_naming(StorageError, "s3://b/x", "s3://BUCKET/.../EXPERIMENT/RUN") as caught:
        locate("s3://key:secret@b/x?scheme=http", None, 2)
    assert "secret" not in str(caught.value)


def make_recipe(small: Recipe) -> Recipe:
    raw = {
        "name": "trial",
        "dataset": small.dataset.model_dump(mode="json"),
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": EPOCHS, "warmup_steps": 2, "global_batch_size": 8, "patience": 9},
        "cluster": {"checkpoint_minutes": 1e-6},
    }
    return parse_recipe(raw, "test")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from t2m_bench.cli import main; main()", *map(str, arguments)]


def run(*arguments: object) -> dict[str, object]:
    done = subprocess.run(command(*arguments, "--json"), env=ENVIRONMENT | KEYS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def load_run(folder: Path) -> tuple[dict[str, object], list[dict[str, object]]]:
    (run,) = folder.glob("**/trial-*/hierarchical-*")
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return load_tensors(run / "adapter.safetensors")[0], rows


def count_kept_epochs(store: fs.FileSystem, base: str, tmp_path: Path) -> int:
    """Return how many epochs the state at the URL has seen: its history, sent apart, may be ahead of it."""
    there = store.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    states = [info.path for info in there if info.base_name == STATE_NAME]
    if not states:
        return 0
    (tmp_path / STATE_NAME).write_bytes(store.open_input_stream(states[0]).read())
    with safe_open(tmp_path / STATE_NAME, framework="pt") as file:
        return int(json.loads(file.metadata()["note"])["epoch"])


@pytest.mark.cluster
def test_a_killed_run_goes_on_elsewhere_from_the_url_alone(url: str, small_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make_recipe(small_recipe).model_dump(mode="json")))
    first = subprocess.Popen(
        command("train", recipe, "--runs", url, "--cache", tmp_path / "a"), env=ENVIRONMENT | KEYS, text=True
    )
    store, base = fs.FileSystem.from_uri(url)
    while count_kept_epochs(store, base, tmp_path) < 1 and first.poll() is None:
        time.sleep(0.1)
    assert first.poll() is None, "ended before it was killed"
    first.kill()
    first.wait()
    kept = count_kept_epochs(store, base, tmp_path)
    assert 1 <= kept < EPOCHS
    (path,) = [i.path for i in store.get_file_info(fs.FileSelector(base, recursive=True)) if "history" in i.base_name]
    before = [json.loads(line) for line in store.open_input_stream(path).read().splitlines()]

    summary = run("train", recipe, "--runs", url, "--cache", tmp_path / "b")
    weights, history = load_run(tmp_path / "b")
    assert [row["seconds"] for row in history[:kept]] == [row["seconds"] for row in before[:kept]], "not begun anew"
    assert not [
        info.path for info in store.get_file_info(fs.FileSelector(base, recursive=True)) if "manifest" in info.path
    ]

    (mirror,) = (tmp_path / "b").iterdir()
    for name in ("shards", "prepared", "prompt_banks"):  # to save the time
        shutil.copytree(mirror / name, tmp_path / "local" / name)
    shutil.copy(mirror / "pseudonyms.key", tmp_path / "local")  # whose names decide the order of cases
    run("train", recipe, "--runs", tmp_path / "local")
    undisturbed, _ = load_run(tmp_path / "local")
    assert all(weights[name].equal(undisturbed[name]) for name in undisturbed)

    (folder,) = mirror.glob("trial-*/hierarchical-*")
    shutil.rmtree(folder.parent)
    again = run("evaluate", url.replace("?", f"/{folder.parent.name}/{folder.name}?"), "--cache", tmp_path / "b")
    assert again.pop("evaluation")["decodes"] == summary.pop("evaluation")["decodes"]  # besides, how long it took
    assert again == summary
    report = run("report", "--runs", url, "--cache", tmp_path / "c")
    assert Path(report["report"]).is_file()
    assert store.get_file_info(f"{base}/{folder.parent.name}/report/report.html").size > 0


@pytest.mark.cluster
def test_no_bucket_and_no_credentials_are_one_message(make_url: MakeUrl, small_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make_recipe(small_recipe).model_dump(mode="json")))
    closed, address = serve(INITIAL_NO_AUTH_ACTION_COUNT="1")  # the bucket is made, then every call is checked
    try:
        places = {
            make_url("no-such-bucket/x"): KEYS,
            f"s3://runs/x?endpoint_override={address}&scheme=http": {"AWS_EC2_METADATA_DISABLED": "true"},
            "s3://t2m-bench-nowhere/x?endpoint_override=127.0.0.1:9&scheme=http": KEYS,
        }
        for place, keys in places.items():
            start = time.monotonic()
            done = subprocess.run(
                command("train", recipe, "--runs", place, "--cache", tmp_path),
                env=ENVIRONMENT | keys,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 2, done.stderr
            check_names(done.stderr, place.partition("?")[0], "bucket", "AWS_ACCESS_KEY_ID")
            assert len(done.stderr.strip().splitlines()) == 1
            assert time.monotonic() - start < 60, "an answer, not a hang"  # 12 s and a start on a busy machine
    finally:
        closed.kill()
        closed.wait()


def test_a_store_that_fails_at_the_end_keeps_all_here(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Mirror, name: str, content: bytes) -> tuple[int, int]:
        raise OSError("cable out")

    def work() -> None:
        with open_runs(url, tmp_path, "exp", Terminal()) as folder:
            monkeypatch.setattr(Mirror, "_send", fail)
            write(folder, "exp/experiment.json", "{}")

    with raises_naming(StorageError, "cable out") as caught:
        work()
    (kept,) = tmp_path.glob("*/exp")
    check_names(caught.value, kept.parent)
    assert list(tmp_path.glob("*/exp/experiment.json"))
