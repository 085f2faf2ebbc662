"""What a signal does to work in progress, in this process."""

import os
import signal
import time

from messages import raises_naming

from t2m_bench.errors import StoppedError
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
