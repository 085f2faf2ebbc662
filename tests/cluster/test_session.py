"""A Ray of our own: the folder in which it has its sockets, and its start."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from messages import check_names, is_named, raises_naming

from t2m_bench.cluster.session import make_private_folder
from t2m_bench.errors import ClusterError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"t2m-ray-{os.getuid()}"


def test_nobody_else_may_enter_it(place: Path) -> None:
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    assert make_private_folder() == place
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_one_that_somebody_else_laid_there_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with raises_naming(ClusterError, place, "TMPDIR"):
        make_private_folder()
    if os.geteuid() == 0:
        place.unlink()
        place.mkdir()
        os.chown(place, 65534, 65534)
        with raises_naming(ClusterError, place, "TMPDIR"):
            make_private_folder()


def test_a_start_that_cannot_succeed_is_one_message(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["a-folder-of-a-job"] * 6)  # sockets have paths below 107 bytes
    deep.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"TMPDIR": str(deep)}
    command = [
        sys.executable,
        "-c",
        "from t2m_bench.cli import main; main()",
        "doctor",
        "--runs",
        str(tmp_path / "runs"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    (told,) = [line for line in (result.stdout + result.stderr).splitlines() if is_named(line, "TMPDIR")]
    check_names(told, "Ray", deep)
    assert "Traceback" not in result.stderr


def test_a_node_that_starts_late_is_tried_again() -> None:
    code = """
import ray
from t2m_bench.cluster.session import ray_session
start, tries = ray.init, []
def init(**settings):
    tries.append(settings)
    if len(tries) == 1:
        raise Exception("The current node timed out during startup.")
    return start(**settings)
ray.init = init
with ray_session(1, 1):
    print(len(tries), ray.is_initialized())
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}  # read when Ray is imported
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert result.stdout.split() == ["2", "True"], result.stderr


def test_a_stop_while_ray_starts_is_no_failed_start() -> None:
    code = """
import ray
from t2m_bench.cluster.session import ray_session
from t2m_bench.errors import StoppedError
tries = []
def init(**settings):
    tries.append(settings)
    raise StoppedError("stopped by SIGINT", 130)
ray.init = init
try:
    with ray_session(1, 1):
        pass
except StoppedError:
    print(len(tries))
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert result.stdout.split() == ["1"], result.stderr
