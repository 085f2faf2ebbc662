"""All measurements: which there are, and the table they make."""

from collections.abc import Callable, Sequence
from importlib import import_module

from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement

WORKS = ("step", "shards", "embed", "epoch", "eval", "metrics", "startup", "scaling")

ON_DEVICE = ("step", "embed", "epoch", "eval")
"""What a GPU takes part in; one GPU says nothing of scaling."""

HEAD = """| Work | Plain | Ours (fastest to slowest) | Limit | Plain / ours | Limit / ours |
|---|---:|---:|---:|---:|---:|"""


def find_measure(work: str) -> Callable[[str], Measurement]:
    """Return what measures a piece of work on a device; imported now, so that one needs only what it measures."""
    found: Callable[[str], Measurement] = getattr(import_module(f"t2m_bench.perf.{work}"), f"measure_{work}")
    return found


def flatten(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements, each followed by the same work in other settings."""
    return [one for measurement in measurements for one in (measurement, *measurement.others)]


def format_table(measurements: Sequence[Measurement]) -> str:
    """Return a Markdown table, a row a measurement: medians, ratios, the spread of ours."""
    lines = [HEAD]
    for one in flatten(measurements):
        ours = next(row for row in one.rows if row.way == OURS)
        spread = f"{ours.median_s * 1e3:,.0f} ms ({ours.fastest_s * 1e3:,.0f} to {ours.slowest_s * 1e3:,.0f})"
        plain, limit = (f"{one.median(way) * 1e3:,.0f} ms" for way in (PLAIN, LIMIT))
        ratios = f"{one.speedup:.2f} | {one.of_limit:.2f}"
        lines.append(f"| {one.name}: {one.setting} | {plain} | {spread} | {limit} | {ratios} |")
    return "\n".join(lines) + "\n"
