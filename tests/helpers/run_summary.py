"""Says at the end of a run where its time went and what it left out, by folder and by reason."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


class RunSummary:
    """Collects the reports of all tests, whichever process ran them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tests: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a test's set-up, call or clean-up to its folder, and the reason of a skip."""
        place = Path(report.nodeid.partition("::")[0])
        folder = place.parent.as_posix()
        self.seconds[folder] += report.duration
        self.tests[folder] += report.when == "call"
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print both tables, the slowest folder and the commonest reason first."""
        write = terminalreporter.write_line
        terminalreporter.section("seconds a folder")
        for folder, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            write(f"{seconds:8.1f} s {self.tests[folder]:5d} tests  {folder}")
        write(f"{sum(self.seconds.values()):8.1f} s {sum(self.tests.values()):5d} tests  in all")
        for reason, count in self.skipped.most_common():
            write(f"skipped {count}: {reason}")
        if not self.skipped:
            write("skipped 0")


def pytest_configure(config: pytest.Config) -> None:
    """Take part in the run, but in the workers of a distributed one, whose reports come here."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunSummary(), "run-summary")
