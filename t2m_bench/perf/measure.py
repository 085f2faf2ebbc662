"""Times several ways of one piece of work, taking turns, so that a busy machine is busy for all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

PLAIN, OURS, LIMIT = "plain", "ours", "limit"


class Seconds(float):
    """Seconds that work measured itself, without its surroundings (the start of processes, say)."""


@dataclass(frozen=True)
class Row:
    """Seconds of one way: the median of its repeats, the fastest and the slowest."""

    way: str
    what: str
    median_s: float
    fastest_s: float
    slowest_s: float


@dataclass(frozen=True)
class Measurement:
    """One piece of work, measured in all its ways.

    Attributes:
        name: its first word is the work, as `perf` takes it.
        others: the same work in other settings.
        lacking: peers that are not installed, and so were not measured.
    """

    name: str
    setting: str
    rows: tuple[Row, ...]
    others: tuple["Measurement", ...] = ()
    lacking: tuple[str, ...] = ()

    def with_others(self, *others: "Measurement") -> "Measurement":
        """Return this measurement with the same work in other settings beside it."""
        return replace(self, others=others)

    def median(self, way: str) -> float:
        """Return the median seconds of a way; of several plain ways the fastest."""
        return min(row.median_s for row in self.rows if row.way == way)

    @property
    def speedup(self) -> float:
        """The plain way's time over ours."""
        return self.median(PLAIN) / self.median(OURS)

    @property
    def of_limit(self) -> float:
        """The limit's time over ours; 1 is at the limit."""
        return self.median(LIMIT) / self.median(OURS)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON takes it."""
        rows = [asdict(row) for row in self.rows]
        others = [other.to_json() for other in self.others]
        summary = {"name": self.name, "setting": self.setting, "speedup": self.speedup, "of_limit": self.of_limit}
        further = {"others": others, "lacking": list(self.lacking)}
        return summary | {"rows": rows} | {key: value for key, value in further.items() if value}


def measure(name: str, setting: str, ways: Mapping[tuple[str, str], Callable[[], object]], repeats: int) -> Measurement:
    """Time each (way, what it is) in turn, `repeats` times, after one turn that does not count.

    Work on a GPU must wait for it before it returns; work that returns `Seconds` is believed.
    """
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    for turn in range(repeats + 1):
        for key, work in ways.items():
            start = time.perf_counter()
            found = work()
            if turn > 0:
                seconds[key].append(found if isinstance(found, Seconds) else time.perf_counter() - start)
    rows = tuple(
        Row(way, what, statistics.median(times), min(times), max(times)) for (way, what), times in seconds.items()
    )
    return Measurement(name, setting, rows)
