"""All measurements: which there are, and the table they make."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from t2m_bench.atomic import write_json, write_text
from t2m_bench.errors import UserError
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement

WORKS = ("step", "shards", "embed", "epoch", "eval", "metrics", "startup", "scaling")

ON_DEVICE = ("step", "embed", "epoch", "eval")
"""What a GPU takes part in; one GPU says nothing of scaling."""

HEAD = """| Work | Command | Plain | Ours (fastest to slowest) | Limit | Plain / ours | Limit / ours |
|---|---|---:|---:|---:|---:|---:|"""


def check_device(device: str) -> None:
    """Check that the device is there.

    Raises:
        UserError: a GPU is asked for, and torch sees none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here. Leave --device out, or run where there is one.")


def find_measure(work: str) -> Callable[[str], Measurement]:
    """Return what measures a piece of work on a device; imported now, so that one needs only what it measures."""
    found: Callable[[str], Measurement] = getattr(import_module(f"t2m_bench.perf.{work}"), f"measure_{work}")
    return found


def flatten(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements, each followed by the same work in other settings."""
    return [one for measurement in measurements for one in (measurement, *measurement.others)]


def write_measurements(folder: Path, measurements: Sequence[Measurement], missing: Mapping[str, str]) -> None:
    """Write perf.json and perf.md, whole or not at all.

    Args:
        missing: work -> why it was not measured.
    """
    summaries = [one.to_json() for one in measurements]
    write_json(folder / "perf.json", {"measurements": summaries, "not_measured": dict(missing)})
    write_text(folder / "perf.md", format_table(measurements, missing))


def format_table(measurements: Sequence[Measurement], missing: Mapping[str, str]) -> str:
    """Return a Markdown table, a row a measurement: medians, ratios, the spread of ours; then what is not in it."""
    lines = [HEAD]
    for one in flatten(measurements):
        ours = next(row for row in one.rows if row.way == OURS)
        spread = f"{ours.median_s * 1e3:,.0f} ms ({ours.fastest_s * 1e3:,.0f} to {ours.slowest_s * 1e3:,.0f})"
        plain, limit = (f"{one.median(way) * 1e3:,.0f} ms" for way in (PLAIN, LIMIT))
        command = f"`t2m-bench perf {one.name.split()[0]}`"
        ratios = f"{one.speedup:.2f} | {one.of_limit:.2f}"
        lines.append(f"| {one.name}: {one.setting} | {command} | {plain} | {spread} | {limit} | {ratios} |")
    lacking = [f"{one.name} beside {peer}" for one in measurements for peer in one.lacking]
    reasons = [*lacking, *(f"{work}: {reason}" for work, reason in missing.items())]
    return "\n".join([*lines, *(["", "Not measured:", ""] if reasons else []), *(f"- {one}" for one in reasons)]) + "\n"
