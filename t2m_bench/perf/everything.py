"""All measurements: which there are, making them in turn, and the table they make."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile

from t2m_bench.errors import UserError
from t2m_bench.files import write_json, write_text
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement
from t2m_bench.terminal import print_sentence

WORKS = ("step", "shards", "embed", "epoch", "eval", "metrics", "startup", "scaling")

ON_DEVICE = ("step", "embed", "epoch", "eval")
"""Measurements that use a GPU; one GPU says nothing about scaling."""

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


def measure_all(device: str, folder: Path, measures: Mapping[str, Callable[[str], Measurement]]) -> bool:
    """Make all measurements, writing down after each what there is.

    Args:
        measures: work -> what measures it on a device; one that fails keeps none of the others from being made.

    Returns:
        Whether any failed for another reason than that what it is compared with is not installed.

    Raises:
        OSError: the folder cannot be written; before anything is measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass
    found: list[Measurement] = []
    missing: dict[str, str] = {}
    failed = False
    for work, measure in measures.items():
        print_sentence(f"measuring {work}")
        try:
            # a GPU has no say in reading files, in metrics, in starting up, nor one GPU in scaling
            found.append(measure(device if work in ON_DEVICE else "cpu"))
        except Exception as error:
            is_absent = isinstance(error, UserError) or _lacks_package(error)
            failed = failed or not is_absent
            missing[work] = str(error) if is_absent else f"failed with {type(error).__name__}: {error}"
            print_sentence(f"  not measured: {missing[work]}")
        else:
            print_measurement(found[-1])
        write_measurements(folder, found, missing)
    print_sentence(f"wrote {folder / 'perf.json'} and {folder / 'perf.md'}")
    return failed


def _lacks_package(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("t2m_bench")


def print_measurement(measured: Measurement) -> None:
    """Print a measurement and those in other settings."""
    for found in flatten([measured]):
        print_sentence(f"{found.name}: {found.setting}")
        for row in found.rows:
            spread = f"{row.fastest_s * 1e3:.1f} to {row.slowest_s * 1e3:.1f}"
            print_sentence(f"  {row.way:<6} {row.median_s * 1e3:8.1f} ms ({spread})  {row.what}")
        for peer in found.lacking:
            print_sentence(f"  not measured: {peer}")
        print_sentence(f"  {found.speedup:.2f} times as fast as the plain way, at {found.of_limit:.2f} of the limit")


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
