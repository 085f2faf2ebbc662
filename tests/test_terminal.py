"""Progress in a log, and sentences on a terminal; the bars themselves are tried on a pseudo-terminal."""

import io
from pathlib import Path

import pytest

from t2m_bench import terminal


@pytest.mark.parametrize(
    ("before", "counted", "rate", "left"), [(0, "20 of 40", "2.0/s", "10 s"), (10, "20 of 40", "1.0 s each", "20 s")]
)
def test_the_time_left_counts_what_this_process_did(
    before: int, counted: str, rate: str, left: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: seconds[0])
    with terminal.Terminal().watch("trials", 40, before) as advance:
        advance(before, 40)
        seconds[0] = 10.0
        advance(20, 40)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"trials: {counted}; {rate}, {left} left"  # phrase: a log is read by programs too


def test_a_note_stands_in_place_of_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.Terminal().watch("training runs", 18) as advance:
        advance(9, 18, "2 of 3, epoch 3 of 6")
    shown = capsys.readouterr().err
    assert "2 of 3" in shown
    assert "epoch 3 of 6" in shown
    assert "9 of 18" not in shown
    assert "each" not in shown, "nine epochs are not nine runs"
    assert "/s" not in shown


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80])
def test_sentences_break_between_words_on_a_terminal_and_not_in_a_file(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = ["no-such-folder/with-hyphens:", *["word"] * 40, "x" * (columns - 10)]
    sentence = " ".join(words)
    screen, log = Screen(), io.StringIO()
    terminal.print_sentence(sentence, screen)
    terminal.print_sentence(sentence, log)
    assert max(map(len, screen.getvalue().splitlines())) <= columns
    assert screen.getvalue().split() == words
    assert log.getvalue() == f"{sentence}\n"


def test_a_list_of_failures_stays_a_list_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    screen = Screen()
    terminal.print_sentence("2 cells failed:\n  one: " + "reason " * 6 + "\n  two:", screen)
    lines = screen.getvalue().splitlines()
    assert [lines[0].split()[-1], lines[1][:6], lines[-1]] == ["failed:", "  one:", "  two:"]
    assert all(len(line) <= 30 for line in lines)


@pytest.mark.parametrize(
    ("here", "said", "shown"),
    [
        ("work", "{here}/runs/x '{here}/y'", "runs/x 'y'"),
        ("work", "/scratch{here}/runs", "/scratch{here}/runs"),
        ("work", "s3://bucket{here}/runs", "s3://bucket{here}/runs"),
        (None, "s3://bucket/runs /runs/x", "s3://bucket/runs /runs/x"),
    ],
)
def test_only_paths_below_the_working_folder_are_shortened(
    here: str | None, said: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / here if here else Path(tmp_path.anchor)
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    log = io.StringIO()
    terminal.print_sentence(said.format(here=folder), log)
    assert log.getvalue() == shown.format(here=folder) + "\n"


def test_a_message_is_told_even_where_the_working_folder_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    log = io.StringIO()
    terminal.print_sentence("full", log)
    assert log.getvalue() == "full\n"
