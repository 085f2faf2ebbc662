"""A sweep: trials on validation cases until as many count as asked for, the winning recipe, and its refit."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from t2m_bench.cluster.tune_job import run_trials
from t2m_bench.errors import RecipeError, RunFolderError
from t2m_bench.files import load_json, write_json, write_text
from t2m_bench.pipeline.bench import bench
from t2m_bench.pipeline.preflight import check_folders, check_packages
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.train import Experiment, gather
from t2m_bench.recipe.arms import ARMS, LEVELS, REFERENCE_ARM
from t2m_bench.recipe.defaults import keep_decisive, load_defaults
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.recipe.typed_yaml import list_values, set_dotted
from t2m_bench.recipe.yaml_text import dump_yaml
from t2m_bench.runs.run_folder import lock_run
from t2m_bench.runs.trial import TrialData, hide_test_cases
from t2m_bench.search.axes import CONTRASTIVE, find_idle_axes
from t2m_bench.search.samplers import Sampling
from t2m_bench.search.study import count_states, find_best, has_trials, list_counted, open_study, remove_studies
from t2m_bench.search.sweep import LoadedSweep, Sweep, apply_params, override_refit
from t2m_bench.terminal import Terminal

SWEEP_NAME = "sweep.json"
BEST_NAME = "best.yaml"
FREE = REFERENCE_ARM

CHANGEABLE_KEYS = ("recipe", "overrides", "trials", "concurrency", "resources", "refit")
"""Keys of a sweep that decide no trial; the recipe itself is compared as a whole."""


@dataclass(frozen=True)
class Searched:
    """Outcome of a sweep.

    Attributes:
        refit: the folder of the experiment in which the winner and text_free were trained and tested, if any.
    """

    folder: Path
    study: optuna.Study
    seconds: float
    refit: Path | None

    def summarise(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        states = count_states(self.study)
        best = find_best(self.study)
        names = self.study.metric_names or []
        found = None
        if best is not None:
            values = dict(zip(names, best.values, strict=True))
            found = {"trial": best.number, "values": values, "params": best.params, "recipe": self.recipe}
        return {
            "study": self.study.study_name,
            "folder": str(self.folder),
            "trials": sum(states.values()),
            "states": states,
            "best": found,
            "refit": str(self.refit) if self.refit else None,
            "seconds": round(self.seconds, 1),
        }

    @property
    def recipe(self) -> str:
        """The winning recipe's file."""
        return str(self.folder / BEST_NAME)


def check_axes(loaded: LoadedSweep, terminal: Terminal, strict: bool) -> None:
    """Name the axes that cannot matter.

    Raises:
        RecipeError: the arm reads one in no trial, or there are any and the check is strict.
    """
    idle = find_idle_axes(loaded.sweep, loaded.recipe)
    unread = [axis for axis in idle if axis.is_unread]
    if unread:
        told = "; ".join(f"{axis}; remove the axis, or add an adapter.kind that has it" for axis in unread)
        raise RecipeError(f"{loaded.path}: {told}")
    for axis in idle:
        terminal.say(f"cannot matter: {axis}")
    if idle and strict:
        raise RecipeError(f"{loaded.path}: {len(idle)} axes cannot matter (--strict): {'; '.join(map(str, idle))}")


def search(
    loaded: LoadedSweep, runs: Path, terminal: Terminal, stop: StopRequest, strict: bool = False, refit: bool = False
) -> Searched:
    """Run a sweep, or go on with it; validation cases alone decide, and only a refit looks at test cases.

    Raises:
        RecipeError: no trial reads an axis, or one cannot matter and `strict` is set, or the storage cannot lie in
            `runs`.
        RunFolderError: the folder holds a study of another space, or another process works on it.
        ClusterError: not even one trial fits.
        StoppedError: the process was asked to stop; the study is whole, the same command goes on.
    """
    start = time.monotonic()
    check_axes(loaded, terminal, strict)
    if refit:
        _check_fair(loaded.sweep)
    check_folders(runs)
    folder = runs / "sweeps" / loaded.sweep.name
    with lock_run(folder):
        check_packages(_list_kinds(loaded))
        experiments = [gather(_draw(loaded.recipe, seed), runs, terminal) for seed in loaded.sweep.split_seeds]
        check_unchanged(folder, loaded, experiments[0][1])
        study = open_study(folder, loaded.sweep, loaded.sweep.name)
        run_study(study, loaded, [experiment for experiment, _ in experiments], folder, terminal, stop)
        best = _write_best(study, loaded, folder, terminal)
        refitted = None
        if refit and best is not None:
            recipe, studies = _tune_free(loaded, best, study, [e for e, _ in experiments], folder, terminal, stop)
            refitted = _refit(recipe, studies, folder, terminal, stop)
    return Searched(folder, study, time.monotonic() - start, refitted)


def _check_fair(sweep: Sweep) -> None:
    """Refuse a refit of arms that were chosen by different measures: text_free has Dice alone to be chosen by."""
    first, direction = next(iter(sweep.objectives.items()))
    if (first, direction) != ("val_dice", "maximize"):
        raise RecipeError(
            f"--refit compares the winner with {FREE}, which is chosen by validation Dice; here the winner is chosen "
            f"by {first} ({direction}). Put val_dice: maximize first among the objectives, or leave --refit out."
        )


def _list_kinds(loaded: LoadedSweep) -> list[str]:
    """Return every kind of arm that a trial may have."""
    axis = loaded.sweep.space.get("adapter.kind")
    return [str(kind) for kind in axis.choices or ()] if axis else [loaded.recipe.adapter.kind]


def _draw(recipe: Recipe, split_seed: int) -> Recipe:
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"split_seed": split_seed})})


def run_study(
    study: optuna.Study,
    loaded: LoadedSweep,
    experiments: list[Experiment],
    folder: Path,
    terminal: Terminal,
    stop: StopRequest,
) -> None:
    """Run trials until as many count as the sweep asks for; those of a process that was killed are settled.

    Raises:
        StoppedError: the process was asked to stop; the study is whole.
    """
    sweep = loaded.sweep
    done = len(list_counted(study))
    if done:
        terminal.say(f"continuing {folder}, study {study.study_name}: {done} of {sweep.trials} trials are there")
    if done >= sweep.trials:
        Sampling(sweep).settle_interrupted(study)  # of a process that was killed, where fewer trials are asked for now
        return
    jobs = tuple(hide_test_cases(experiment.make_job(loaded.recipe.adapter.kind, 0)) for experiment in experiments)
    data = TrialData(jobs, sweep.seeds, tuple(sweep.objectives))
    # a stop need be told to nobody: Tune asks at each step
    with terminal.watch(f"trials of {study.study_name}", sweep.trials, done) as advance, stop.tell(lambda: None):

        def tell() -> None:
            counted = len(list_counted(study))
            advance(counted, sweep.trials, f"{counted} of {sweep.trials}, {_describe_best(study)}".rstrip(", "))

        run_trials(study, loaded, data, folder, stop.is_set, tell)
    if stop.is_set():
        raise stop.make_error()


def _describe_best(study: optuna.Study) -> str:
    best = find_best(study)
    if best is None:
        return ""
    values = ", ".join(f"{name} {value:.4f}" for name, value in zip(study.metric_names or [], best.values, strict=True))
    return f"best {values} (trial {best.number})"


def _write_best(study: optuna.Study, loaded: LoadedSweep, folder: Path, terminal: Terminal) -> Recipe | None:
    """Write the winning recipe as YAML that `train` takes; None where no trial came to its end."""
    best = find_best(study)
    if best is None:
        terminal.say(f"no trial of {study.study_name} came to its end; the reasons are in the report")
        return None
    recipe = _draw(apply_params(loaded.raw, best.params, f"trial {best.number}"), loaded.sweep.split_seeds[0])
    seeded = recipe.model_copy(update={"seed": loaded.sweep.seeds[0]})
    number = len(list_counted(study))
    head = f"# Trial {best.number} of {number} of the sweep {study.study_name}; {_describe_best(study)}\n"
    body = dump_yaml(seeded.model_dump(mode="json"))
    write_text(folder / BEST_NAME, head + body)
    return seeded


def check_unchanged(folder: Path, loaded: LoadedSweep, hashes: Mapping[str, str]) -> None:
    """Refuse to go on with trials of something else; note what the study is of.

    A sweep that was refused before its first trial may be changed, as the refusal advised.

    Raises:
        RunFolderError: naming what changed.
    """
    now = json.loads(json.dumps(_identify(loaded, hashes)))
    path = folder / SWEEP_NAME
    changes = list(_compare(load_json(path, "Run the sweep again."), now)) if path.is_file() else []
    if changes and has_trials(folder):
        raise RunFolderError(
            f"{folder}: its study is of another sweep: {'; '.join(changes)}. Undo the change, or give the new sweep a "
            "name of its own (sweep.name=...) or another --runs."
        )
    if changes:
        remove_studies(folder)  # which hold no trial, but their objectives
    write_json(path, now)


def _identify(loaded: LoadedSweep, hashes: Mapping[str, str]) -> dict[str, Any]:
    sweep = keep_decisive(list_values(loaded.sweep), load_defaults("sweep"))
    for name in CHANGEABLE_KEYS:
        sweep.pop(name, None)
    sweep["objectives"] = list(loaded.sweep.objectives.items())  # a study's values have places, not names
    recipe = loaded.recipe.list_decisive("seed", "dataset.split_seed")
    workers = loaded.recipe.cluster.min_train_workers
    return {"sweep": sweep, "recipe": recipe, "data": dict(hashes), "wide": workers > 1}


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*before, *now]):
        name, old, new = f"{place}{key}", before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _compare(old, new, f"{name}.")
        elif old != new:
            yield f"{name} was {json.dumps(old)} and is {json.dumps(new)}"


def _tune_free(
    loaded: LoadedSweep,
    best: Recipe,
    study: optuna.Study,
    experiments: list[Experiment],
    folder: Path,
    terminal: Terminal,
    stop: StopRequest,
) -> tuple[Recipe, dict[str, str]]:
    """Give text_free as many trials as the winner had; return the refit's recipe, and arm -> study."""
    tuned, studies = {best.adapter.kind: (best, study)}, {best.adapter.kind: study.study_name}
    number = len(list_counted(study))  # more than asked for now, where it was asked for more before
    free = make_free_sweep(loaded, number) if best.adapter.kind != FREE else None
    if free is not None:
        own = open_study(folder, free.sweep, f"{loaded.sweep.name}-{FREE}")
        run_study(own, free, experiments, folder, terminal, stop)
        winner = find_best(own)
        if winner is None:
            raise RunFolderError(f"{folder}: no trial of {own.study_name} is complete; `t2m-bench report` shows why.")
        tuned[FREE] = apply_params(free.raw, winner.params, own.study_name), own
        studies[FREE] = own.study_name
    trials = {arm: len(list_counted(of)) for arm, (_, of) in tuned.items()}
    recipes = {FREE: best.with_arm(FREE, best.seed)} | {arm: recipe for arm, (recipe, _) in tuned.items()}
    return make_refit_recipe(loaded.sweep, best, recipes, trials), studies


def make_refit_recipe(sweep: Sweep, best: Recipe, recipes: Mapping[str, Recipe], trials: Mapping[str, int]) -> Recipe:
    """Return a benchmark's recipe in which each arm is tuned by as many trials as it had."""
    named = {}
    source = f"refit of {sweep.name}"
    for arm, recipe in recipes.items():
        refitted = override_refit(sweep, recipe.model_dump(mode="json"), source)
        own = refitted.model_dump(mode="json", include={"adapter", "optim", "loss", "prompts"})
        named[arm] = own | {"differently_tuned": True, "trials": trials.get(arm, 1)}
    said = {"bench": best.bench.model_dump(mode="json", exclude_unset=True)}  # what is not said stays so
    refitted = override_refit(sweep, best.model_dump(mode="json") | said, source)
    changed = {"arms": list(recipes), "named": named, "seeds": list(sweep.refit.seeds), "folds": []}
    bench_said = refitted.bench.model_dump(mode="json", exclude_unset=True) | changed
    return parse_recipe(refitted.model_dump(mode="json") | {"bench": bench_said, "deviations": {}}, source)


def _refit(recipe: Recipe, studies: Mapping[str, str], folder: Path, terminal: Terminal, stop: StopRequest) -> Path:
    """Train the tuned arms with all refit seeds, test each once, and say of which sweep they are.

    Raises:
        RunFolderError: a training failed; the others are kept.
    """
    suite = bench(recipe, folder.parents[1], terminal, stop)
    place = suite.experiment.folder
    write_json(place / SWEEP_NAME, {"folder": f"../sweeps/{folder.name}", "studies": studies})
    if suite.failures:
        told = "; ".join(f"{run}: {reason}" for run, reason in suite.failures.items())
        raise RunFolderError(
            f"{place}: {len(suite.failures)} trainings failed; run the same command again to retry them: {told}"
        )
    return place


def make_free_sweep(loaded: LoadedSweep, trials: int) -> LoadedSweep | None:
    """Return the sweep over the axes that text_free has, of so many trials; None where it has none of them."""
    sweep = loaded.sweep
    unread = ("prompts.", *(f"adapter.{level}." for level in LEVELS if level not in ARMS.find(FREE).levels))
    space: dict[str, Any] = {}
    for name, axis in sweep.space.items():
        idle = name in ("adapter.kind", *CONTRASTIVE) or name.startswith(unread)
        when = {other: values for other, values in axis.when.items() if other != "adapter.kind"}
        if not idle and all(other in space for other in when):
            space[name] = axis.model_copy(update={"when": when}).model_dump(exclude_defaults=True)
    if not space:
        return None
    changes: dict[str, Any] = {"space": space, "objectives": {"val_dice": "maximize"}}
    points = math.prod(sweep.space[name].count_values() or 1 for name in space)
    number = min(trials, points) if sweep.sampler.kind == "grid" else trials
    own = Sweep.model_validate(sweep.model_dump() | changes | {"trials": number})
    raw = deepcopy(loaded.raw)
    set_dotted(raw, "adapter.kind", FREE)
    return LoadedSweep(own, raw, parse_recipe(raw, FREE))
