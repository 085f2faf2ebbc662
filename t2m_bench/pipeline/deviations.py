"""Measures what each deviation of a recipe from the clean protocol is worth: the clean one, each alone, all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2m_bench.errors import RecipeError
from t2m_bench.metrics.results import RESULTS_NAME
from t2m_bench.pipeline.bench import bench
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.recipe.schema import Recipe
from t2m_bench.reporting.deviations import Deviations, ProtocolRow, measure_protocol, write_deviations
from t2m_bench.terminal import Terminal

CLEAN, ALL, ALL_BUT = "clean protocol", "all of these (as published)", "all but: "


@dataclass(frozen=True)
class Protocol:
    """One protocol to be run; no recipe where the deviation cannot be measured with this recipe's image encoder."""

    name: str
    recipe: Recipe | None


def bench_deviations(
    recipe: Recipe, runs: Path, terminal: Terminal, stop: StopRequest
) -> tuple[Deviations, Path, dict[str, str]]:
    """Run every protocol's arms and seeds, reusing what is finished; return the table, its file, and the failures.

    Raises:
        RecipeError: the recipe names no deviations.
        StoppedError: the process was asked to stop; the same command goes on.
    """
    if not recipe.deviations:
        raise RecipeError(f"{recipe.name}: names no deviations; see launch/published_bus_bra.yaml.")
    rows: list[ProtocolRow] = []
    failures: dict[str, str] = {}
    for protocol in list_protocols(recipe):
        terminal.say(f"--- {protocol.name}")
        if protocol.recipe is None:
            rows.append(ProtocolRow(protocol.name, None))
            continue
        suite = bench(protocol.recipe, runs, terminal, stop)
        failures |= {f"{protocol.name}: {run}": reason for run, reason in suite.failures.items()}
        results = [suite.experiment.folder / run["run"] / RESULTS_NAME for run in suite.summaries]
        rows.append(measure_protocol(protocol.name, results, leaks(protocol.recipe)))
    table = Deviations(recipe.image_encoder.preset, recipe.bench.arms, tuple(rows))
    return table, write_deviations(runs / f"{recipe.name}-deviations", table), failures


def leaks(recipe: Recipe) -> bool:
    """Return whether patients are on both sides, or test cases choose the epoch; a recipe that only allows it does not
    leak.
    """
    return recipe.dataset.split_by == "image" or recipe.dataset.validation == "test"


def list_protocols(recipe: Recipe) -> Iterator[Protocol]:
    """Yield the clean protocol, each deviation alone, and all; only a clean protocol may not leak."""
    clean: dict[str, Any] = {"allow_leakage": False}
    for values in recipe.deviations.values():
        clean |= values
    yield Protocol(CLEAN, recipe.with_values(clean))
    absent = []
    for name, values in recipe.deviations.items():
        others = {field: value for field, value in clean.items() if field not in values}
        is_there = recipe.with_values(values) != recipe.with_values({})
        absent += [] if is_there else [name]
        yield Protocol(name, recipe.with_values(others | {"allow_leakage": True}) if is_there else None)
    yield Protocol(ALL_BUT + ", ".join(absent) if absent else ALL, recipe.with_values({}))
