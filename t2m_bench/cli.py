"""The verbs of `t2m-bench`, nothing else; heavy imports stay inside them so that --help answers at once."""

import json
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from t2m_bench.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RecipeFile = Annotated[Path, typer.Argument(help="Recipe file, such as launch/demo.yaml.", metavar="RECIPE")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Dotted overrides, such as adapter.fine.heads=4.")]
Runs = Annotated[Path, typer.Option(help="Folder for all that is made.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


class DatasetKind(StrEnum):
    """Datasets that phantoms can imitate."""

    BUS_BRA = "bus-bra"
    NSCLC = "nsclc"


@app.callback()
def describe() -> None:
    """Train and benchmark text-guided fusion adapters for MedSAM; say whether the text helps."""


@app.command()
def recipe(recipe: RecipeFile, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Print a recipe with every default filled in."""
    import yaml

    from t2m_bench.config import load_recipe

    resolved = load_recipe(recipe, overrides or ()).model_dump(mode="json")
    print(yaml.safe_dump(resolved, sort_keys=False), end="")
    _end(as_json, {"recipe": resolved})


@app.command()
def phantom(
    kind: Annotated[DatasetKind, typer.Argument(help="Whose layout the phantoms take.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    cases: Annotated[int, typer.Option(help="Images, at least 5.")] = 600,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    text_effect: Annotated[float, typer.Option(help="Probability that the text tells the hidden class.")] = 1.0,
    text_visible: Annotated[bool, typer.Option("--text-visible", help="The look follows the class.")] = False,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write phantoms whose text has a known effect on the mask."""
    from t2m_bench.data.phantom import write_bus_bra_phantom

    start = time.monotonic()
    if kind is DatasetKind.NSCLC:
        raise UserError("phantom nsclc is not available in this version; `t2m-bench phantom bus-bra OUT` is.")
    write_bus_bra_phantom(out, num_cases=cases, seed=seed, text_effect=text_effect, text_visible=text_visible)
    print(f"{cases} phantoms in {out}, text effect {text_effect:g}")
    _end(as_json, {"out": str(out), "cases": cases, "seconds": round(time.monotonic() - start, 2)})


@app.command()
def prepare(
    recipe: RecipeFile, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False
) -> None:
    """Read a dataset folder into a manifest, split it by patient and audit it for leaks."""
    from rich.progress import Progress

    from t2m_bench.config import load_recipe
    from t2m_bench.pipeline import prepare as run_prepare

    start = time.monotonic()
    with Progress(disable=not sys.stderr.isatty(), console=_stderr(), transient=True) as progress:
        task = progress.add_task("reading cases", total=None)
        prepared = run_prepare(
            load_recipe(recipe, overrides or ()),
            runs,
            print,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    audit = prepared.audit
    for split, count in audit.cases.items():
        shown = ", ".join(f"{name}: {number}" for name, number in audit.classes[split].items())
        print(f"{split}: {count} cases of {audit.patients[split]} patients ({shown})")
    print("quality flags: " + (", ".join(f"{name} {number}" for name, number in audit.flags.items()) or "none"))
    print("leaks: " + ("; ".join(audit.leaks) or "none found"))
    summary = {"folder": str(prepared.folder), "cases": audit.cases, "patients": audit.patients, "leaks": audit.leaks}
    _end(as_json, summary | {"reused": prepared.reused, "seconds": round(time.monotonic() - start, 2)})


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _end(as_json: bool, summary: dict[str, Any]) -> None:
    if as_json:
        print(json.dumps(summary))


def main() -> None:
    """Run a verb; a user's error is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"t2m-bench: {error}", file=sys.stderr)
        sys.exit(2)
