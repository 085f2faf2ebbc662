"""Plain lines of progress, by a clock that a test sets."""

import pytest
from messages import check_names

from t2m_bench.pipeline import terminal


@pytest.mark.parametrize(
    ("before", "named"),
    [(0, {"2.0/s", "10 s"}), (10, {"1.0 s", "20 s"})],
)
def test_the_time_left_is_told_by_what_this_process_did(
    before: int, named: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: seconds[0])
    with terminal.Terminal().watch("trials", before) as advance:
        advance(before, 40)
        seconds[0] = 10.0
        advance(20, 40, "best 0.9")
    (line,) = capsys.readouterr().err.splitlines()
    check_names(line, "trials", "20/40", *named, "best 0.9")
