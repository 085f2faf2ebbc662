"""Plain lines of progress, by a clock that a test sets."""

import pytest

from t2m_bench import terminal


@pytest.mark.parametrize(
    ("before", "line"),
    [(0, "trials: 20/40, 2.0/s, 10 s left, best 0.9"), (10, "trials: 20/40, 1.0 s each, 20 s left, best 0.9")],
)
def test_the_time_left_is_told_by_what_this_process_did(
    before: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: seconds[0])
    with terminal.Terminal().watch("trials", before) as advance:
        advance(before, 40)
        seconds[0] = 10.0
        advance(20, 40, "best 0.9")
    assert capsys.readouterr().err.splitlines() == [line]
