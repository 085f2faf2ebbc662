"""What a signal does to work in progress, in this process."""

import os
import signal
import subprocess
import sys
import time

import pytest
from messages import check_names, raises_naming

from t2m_bench.errors import StoppedError
from t2m_bench.pipeline import signals
from t2m_bench.pipeline.signals import catch_signals


def test_who_listens_after_a_signal_hears_of_it_too() -> None:
    """Slurm sends its signal once; a cell of a suite may be too far to heed it, and the next must."""
    heard: list[str] = []
    with catch_signals() as stop:
        with stop.tell(lambda: heard.append("first")):
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(200):
                if heard:
                    break
                time.sleep(0.05)
        with stop.tell(lambda: heard.append("second")):
            assert heard == ["first", "second"]
        with raises_naming(StoppedError, "SIGUSR1"):
            raise stop.make_error()


DEAF = """
import ctypes
from t2m_bench.pipeline import signals

signals.DEAF_SECONDS = 0.5
with signals.catch_signals():
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("waiting", flush=True)
    lock(mutex)
"""
"""Waits in C code for ever, as for a store or a cluster that does not answer: no handler of Python's runs there."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 85), (signal.SIGINT, 130), (signal.SIGUSR1, 85)])
def test_a_wait_in_c_code_ends_within_seconds(number: signal.Signals, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"waiting\n"
        time.sleep(1.0)  # from its word to the lock
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == code
    check_names(errors.decode(), number.name)


def test_work_that_hears_is_not_ended_for_taking_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "DEAF_SECONDS", 0.1)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with catch_signals() as stop:
        with raises_naming(StoppedError, "SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        time.sleep(0.3)  # it saves
        with stop.tell(lambda: None):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.3)  # it trains to its next step
    assert not ended
