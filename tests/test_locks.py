"""One lock, on storage with flock and without."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages import check_names, raises_naming

from t2m_bench import locks
from t2m_bench.cluster.doctor import NodeView, Place, check_locks
from t2m_bench.errors import RunFolderError
from t2m_bench.locks import Locking, check_locking, hold_lock
from t2m_bench.runs.run_folder import lock_run

NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def refuse_flock(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    def fail(stream: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", fail)


def note_owner(folder: Path, age: float = 0.0, **noted: object) -> Path:
    """Leave the file of a lock's owner."""
    path = folder / ".lock.owner"
    content = {"host": "elsewhere", "pid": 7, "started": "9", "token": "theirs"} | noted
    path.write_text(json.dumps(content))
    renewed = time.time() - age
    os.utime(path, (renewed, renewed))
    return path


HOLD = """
import errno, fcntl, os, sys, time
from pathlib import Path
if sys.argv[2] == "without":
    def fail(stream, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock = fail
from t2m_bench.locks import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


def start_holder(path: Path, way: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(path), way]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("way", ["with", "without"])
def test_a_second_writer_is_refused_and_a_killed_one_frees_the_lock(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "without":
        refuse_flock(monkeypatch)
    path = tmp_path / "run" / ".lock"
    process = start_holder(path, way)
    try:
        for _ in range(2):
            with (
                raises_naming(RunFolderError, tmp_path / "run", path, process.pid, socket.gethostname(), "--runs"),
                hold_lock(path, patience_s=0.0),
            ):
                pass
    finally:
        process.kill()
        process.wait()
    with lock_run(tmp_path / "run"):  # at once: the process is known to be dead
        assert path.exists()


@pytest.mark.parametrize("number", NO_FLOCK)
def test_without_flock_a_file_stands_for_the_lock(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch, number)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    owner = tmp_path / ".lock.owner"
    with lock_run(tmp_path):
        noted = json.loads(owner.read_text())
        assert (noted["host"], noted["pid"]) == (socket.gethostname(), os.getpid())
        os.utime(owner, (0, 0))
        time.sleep(0.5)
        assert time.time() - owner.stat().st_mtime < 30, "the heartbeat renews it"
        with raises_naming(RunFolderError, os.getpid()), lock_run(tmp_path):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_another_host_is_believed_while_its_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch)
    note_owner(tmp_path, age=locks.STALE_SECONDS / 2)
    with raises_naming(RunFolderError, "elsewhere", 7), lock_run(tmp_path):
        pass
    note_owner(tmp_path, age=2 * locks.STALE_SECONDS)
    with lock_run(tmp_path):
        assert json.loads((tmp_path / ".lock.owner").read_text())["pid"] == os.getpid()
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_a_container_of_the_same_host_name_is_believed_by_its_heartbeat_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes have numbers of their own, which say nothing here."""
    refuse_flock(monkeypatch)
    of_here = {"host": socket.gethostname(), "processes": os.readlink("/proc/self/ns/pid")}
    note_owner(tmp_path, **of_here)  # the process that it names never was: free at once
    with hold_lock(tmp_path / ".lock", patience_s=0.0):
        pass
    note_owner(tmp_path, **(of_here | {"processes": "pid:[1]"}))
    with raises_naming(RunFolderError, tmp_path / ".lock"), hold_lock(tmp_path / ".lock", patience_s=0.0):
        pass


def test_who_has_patience_waits_until_a_dead_process_of_another_host_is_known_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_flock(monkeypatch)
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    note_owner(tmp_path)
    with hold_lock(tmp_path / ".lock", patience_s=0.2):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": 3, "pid": "x"}'])
def test_an_owner_file_that_says_nothing_counts_by_its_age(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_flock(monkeypatch)
    owner = tmp_path / ".lock.owner"
    owner.write_text(content)
    with raises_naming(RunFolderError, tmp_path), lock_run(tmp_path):
        pass
    os.utime(owner, (0, 0))
    with lock_run(tmp_path):
        pass


def test_a_later_process_of_the_same_number_is_not_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch)
    processes = os.readlink("/proc/self/ns/pid")
    note_owner(tmp_path, host=socket.gethostname(), pid=os.getpid(), started="1", processes=processes)
    with lock_run(tmp_path):
        pass


def test_a_claim_that_its_maker_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch)
    note_owner(tmp_path, age=2 * locks.STALE_SECONDS)
    claim = tmp_path / ".lock.owner.theirs"
    claim.touch()
    with pytest.raises(RunFolderError), lock_run(tmp_path):
        pass
    os.utime(claim, (0, 0))
    with lock_run(tmp_path, patience_s=5.0):
        pass


def test_of_many_successors_one_takes_over(tmp_path: Path) -> None:
    note_owner(tmp_path, age=2 * locks.STALE_SECONDS)
    code = HOLD.replace("hold_lock(Path(sys.argv[1]))", "hold_lock(Path(sys.argv[1]), 0.0)")
    command = [sys.executable, "-c", code, str(tmp_path / ".lock"), "without"]
    started = [subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(6)]
    try:
        end = time.monotonic() + 60
        while sum(process.poll() is None for process in started) > 1 and time.monotonic() < end:
            time.sleep(0.1)
        assert sorted(str(process.poll()) for process in started) == ["1"] * 5 + ["None"]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_lock_with_flock_heeds_a_host_without(tmp_path: Path) -> None:
    note_owner(tmp_path)
    with raises_naming(RunFolderError, "elsewhere"), lock_run(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_other_failures_of_the_storage_name_file_and_remedy(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_flock(monkeypatch, number)
    with raises_naming(RunFolderError, tmp_path / ".lock", os.strerror(number), "--runs"), lock_run(tmp_path):
        pass
    problem = check_locking(tmp_path).problem
    check_names(problem, os.strerror(number), "--runs")
    assert not list(tmp_path.glob(".locking*"))


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with raises_naming(RunFolderError, tmp_path / "run" / ".lock"), lock_run(tmp_path / "run"):
        pass


def test_waiting_ends_on_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch)
    note_owner(tmp_path)

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt), hold_lock(tmp_path / ".lock", on_wait=interrupt):
            pass
    finally:
        signal.signal(signal.SIGINT, before)


def test_doctor_sees_how_nodes_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_locking(tmp_path) == Locking("flock")
    refuse_flock(monkeypatch)
    other = check_locking(tmp_path)
    assert not other.problem
    assert other.way != "flock"
    assert list(tmp_path.iterdir()) == []
    place = Place(tmp_path, None)
    alike = [NodeView("n1", True, locking=other), NodeView("n2", True, locking=other)]
    assert not [finding for finding in check_locks(alike, place) if finding.problem]
    mixed = [NodeView("n1", True, locking=other), NodeView("n2", True, locking=Locking("flock"))]
    (finding,) = [finding for finding in check_locks(mixed, place) if finding.problem]
    check_names(finding.problem, tmp_path, "n1", "n2", "--runs")
