"""The sweep file: a recipe, the space around it, and how it is searched."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from t2m_bench.errors import RecipeError
from t2m_bench.recipe.schema import Positive, Recipe, parse_recipe
from t2m_bench.recipe.typed_yaml import (
    DISTINCT,
    AnyPath,
    Section,
    Seed,
    apply_override,
    find_near,
    list_fields,
    load_mapping,
    set_dotted,
    validate,
)
from t2m_bench.search.space import Axis
from t2m_bench.shipped import find_file

Seeds = Annotated[tuple[Seed, ...], *DISTINCT]
Direction = Literal["maximize", "minimize"]
Objectives = Annotated[dict[str, Direction], Field(min_length=1)]

METRICS = ("val_dice", "val_reliance", "trainable_parameters")
"""Objectives of a trial, all on validation cases: mean Dice with the right text, cost of wrong text, and the
adapter's size."""

MOST_POINTS = 100_000
"""Most points of a grid: Optuna lists them all."""

SEARCHABLE = ("adapter", "loss", "optim", "prompts.text_dropout")
"""Parts of a recipe that leave data, splits and embeddings as they are."""

REFIT_PREFIXES = ("optim.", "bench.", "cluster.")
"""Parts of a recipe that a refit may change; data, arms and losses stay those of its trials."""

SET_BY_REFIT = ("bench.arms", "bench.named", "bench.seeds", "bench.folds")


class SamplerSection(Section):
    """Optuna's sampler, which proposes the next trial."""

    kind: Literal["tpe", "random", "grid", "nsga2"] = "tpe"
    """Optuna's sampler."""
    seed: Seed = 0
    """Seed of the sampler."""
    startup_trials: Positive = 10
    """Random trials before TPE learns; the population of NSGA-II."""


class SchedulerSection(Section):
    """Optuna's pruner, which stops a trial early by its objective beside the other trials' at the same epoch."""

    kind: Literal["asha", "median", "none"] = "asha"
    """`asha`: successive halving. `median`: a trial ends if its best value is below the median of the complete ones."""
    grace_epochs: Positive = 1
    """No trial is stopped before this epoch."""
    reduction: Annotated[float, Field(ge=2.0, multiple_of=1.0)] = 3.0
    """For `asha`: one in this many trials continues at epochs `grace_epochs` x 1, `reduction`, `reduction`^2, ...

    It must be a whole number; its type is float only because a change would alter the hashes of sweeps."""


class ResourcesSection(Section):
    """Resources of a trial of one worker; a trial of several takes what the recipe's `cluster` says."""

    cpus: Annotated[float, Field(gt=0.0)] = 1.0
    """CPUs of a trial."""
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of a trial; with 0.5, two trials share one."""


class RefitSection(Section):
    """Settings of `--refit`, which trains the best recipe beside a text_free given the same number of trials."""

    seeds: Seeds = (0, 1, 2)
    """Seeds of the refit."""
    overrides: tuple[str, ...] = ()
    """Overrides of the recipe for the refit alone: `optim.epochs=12` where trials are short."""


class Sweep(Section):
    """A whole sweep; see `sweeps/` for examples."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Names the study's folder."""
    recipe: AnyPath
    """Path of the recipe, relative to the sweep file."""
    overrides: tuple[str, ...] = ()
    """Overrides of the recipe for all trials."""
    space: Annotated[dict[str, Axis], Field(min_length=1)]
    """Dotted fields and their possible values."""
    objectives: Objectives = Field(default_factory=lambda: dict[str, Direction](val_dice="maximize"))
    """What a trial is judged by, and whether more or less is better."""
    sampler: SamplerSection = SamplerSection()
    """How points are chosen."""
    scheduler: SchedulerSection = SchedulerSection()
    """How poor trials are stopped early."""
    trials: Positive = 24
    """Number of trials."""
    seeds: Seeds = (0,)
    """Training seeds of each trial."""
    split_seeds: Seeds = (0,)
    """Draws of the validation patients; a trial trains once for each seed and draw, never on the test fold."""
    concurrency: Positive | None = None
    """Trials at once; as many as fit if not set."""
    resources: ResourcesSection = ResourcesSection()
    """What one trial reserves."""
    storage: str = "journal"
    """`journal`, or a URL that Optuna knows."""
    refit: RefitSection = RefitSection()
    """Training of the winners on all training patients, with one look at test."""

    @model_validator(mode="before")
    @classmethod
    def _flatten_space(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("space"), dict):
            return {**raw, "space": _flatten(raw["space"])}
        return raw

    @model_validator(mode="after")
    def _is_sound(self) -> "Sweep":
        problems = [*_check_axes(self), *_check_search(self), *_check_refit(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def has_scheduler(self) -> bool:
        """Return whether trials may be stopped early."""
        return self.scheduler.kind != "none"


@dataclass(frozen=True)
class LoadedSweep:
    """A sweep with the recipe around which it searches, as mapping without its defaults (a preset's hold) and whole."""

    sweep: Sweep
    raw: dict[str, Any]
    recipe: Recipe
    path: Path = Path("sweep")
    """The sweep file, for messages."""


def load_sweep(path: Path, overrides: Sequence[str] = (), trials: int | None = None) -> LoadedSweep:
    """Read a sweep file and its recipe; `sweep.KEY=value` overrides the sweep, all else the recipe.

    Raises:
        RecipeError: a file is absent, or a key or value of the sweep, the space or the recipe is not allowed.
    """
    raw = load_mapping(path, "sweep", "sweeps")
    for override in overrides:
        if override.startswith("sweep."):
            apply_override(raw, override.removeprefix("sweep."))
    if trials is not None:
        raw["trials"] = trials
    sweep = validate(Sweep, raw, "sweep", str(path))
    place = path.parent / sweep.recipe
    if not place.is_file():
        place = find_file(sweep.recipe, "launch")
    raw_recipe = load_mapping(place, "recipe", "launch")
    changes = (*sweep.overrides, *(item for item in overrides if not item.startswith("sweep.")))
    for override in changes:
        apply_override(raw_recipe, override)
    recipe = parse_recipe(raw_recipe, str(place))
    sweep = _draw_as_recipe(sweep, recipe, changes)
    override_refit(sweep, deepcopy(raw_recipe), f"{path}: refit")  # told now, not after the search
    problems = list(_check_together(sweep, recipe))
    if problems:
        raise RecipeError(f"{path}: {'; '.join(problems)}")
    _check_against_recipe(sweep, raw_recipe, str(path))
    return LoadedSweep(sweep, raw_recipe, recipe, path)


def _draw_as_recipe(sweep: Sweep, recipe: Recipe, changes: Iterable[str]) -> Sweep:
    """Return a sweep with the recipe's seed and draw of validation cases where it has none of its own.

    Raises:
        RecipeError: it has, and an override of the recipe would be without effect.
    """
    given = {"seeds": ("seed", recipe.seed), "split_seeds": ("dataset.split_seed", recipe.dataset.split_seed)}
    for name, (field, value) in given.items():
        if name not in sweep.model_fields_set:
            sweep = sweep.model_copy(update={name: (value,)})
        elif any(change.partition("=")[0] == field for change in changes):
            raise RecipeError(f"{field}: the sweep has {name} of its own, which decide; write sweep.{name}=[{value}]")
    return sweep


def override_refit(sweep: Sweep, raw: dict[str, Any], source: str) -> Recipe:
    """Return the recipe of a mapping, changed in place, with what the refit has differently.

    Raises:
        RecipeError: an override is none, or its key or value is not allowed.
    """
    for override in sweep.refit.overrides:
        apply_override(raw, override)
    return parse_recipe(raw, source)


def apply_params(raw: dict[str, Any], params: dict[str, Any], source: str) -> Recipe:
    """Return a recipe with a trial's values in place.

    Raises:
        RecipeError: the values together make no recipe.
    """
    changed = deepcopy(raw)
    for name, value in params.items():
        set_dotted(changed, name, value)
    return parse_recipe(changed, source)


def _flatten(space: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `a.b: axis` of sections inside sections; a later entry adds to an earlier one of the same name."""
    flat: dict[str, Any] = {}
    for key, value in space.items():
        name = f"{prefix}{key}"
        is_section = isinstance(value, dict) and value and not value.keys() & Axis.model_fields.keys()
        if is_section and all(isinstance(part, dict) for part in value.values()):
            parts = _flatten(value, f"{name}.")
        else:
            parts = {name: value}
        for inner, axis in parts.items():
            both = isinstance(axis, dict) and isinstance(flat.get(inner), dict)
            flat[inner] = flat[inner] | axis if both else axis
    return flat


def _check_axes(sweep: Sweep) -> Iterable[str]:
    known = _list_searchable()
    earlier: dict[str, Axis] = {}
    for name, axis in sweep.space.items():
        if name not in known:
            yield f"space.{name} is not a field of the recipe that can be searched; {find_near(name, known)}"
            continue
        problem = axis.find_problem()
        if problem:
            yield f"space.{name}: {problem}"
        for other in axis.when:
            if other not in earlier or earlier[other].choices is None:
                yield f"space.{name}.when: {other} must be an axis with choices that stands above it"
                continue
            choices = earlier[other].choices or ()
            if not axis.allows(other):
                yield f"space.{name}.when: {other} has no value; name those under which the axis exists"
            strange = [value for value in axis.allows(other) if value not in choices]
            if strange:
                yield f"space.{name}.when: {other} is never {strange[0]!r}; its choices are {list(choices)}"
        earlier[name] = axis
    if sweep.has_scheduler and "optim.epochs" in sweep.space:
        yield "space.optim.epochs: with a scheduler all trials have the same epochs; set scheduler.kind to none"


def _list_searchable() -> list[str]:
    """Return the dotted names of all values under SEARCHABLE."""
    names = []
    for part in SEARCHABLE:
        section, _, leaf = part.partition(".")
        for field in [leaf] if leaf else list_fields(Recipe, (section,)):
            inner = list_fields(Recipe, (section, field))
            names += [f"{section}.{field}.{key}" for key in inner] or [f"{section}.{field}"]
    return names


def _check_search(sweep: Sweep) -> Iterable[str]:
    for metric in sweep.objectives:
        if metric not in METRICS:
            yield f"objectives.{metric} is not an objective; {find_near(metric, list(METRICS))}"
    several = len(sweep.objectives) > 1
    if several and sweep.has_scheduler:
        yield "objectives: a scheduler compares trials by one objective; set scheduler.kind to none"
    scheme, separator, _ = sweep.storage.partition("://")
    if separator:
        yield (
            f"storage = {scheme}://...: a study lies in the run folder, beside what it is of, and a server's address "
            "would put its password there too; write journal or sqlite"
        )
    elif sweep.storage not in ("journal", "sqlite"):
        yield f"storage = {sweep.storage!r}: write journal, or sqlite on a local disk"
    conditional = [name for name, axis in sweep.space.items() if axis.when]
    if sweep.sampler.kind == "nsga2" and sweep.sampler.startup_trials < 2:
        yield "sampler.startup_trials: a generation of nsga2 has at least 2 trials"
    if sweep.sampler.kind == "grid":
        yield from _check_grid(sweep, conditional)


def _check_grid(sweep: Sweep, conditional: list[str]) -> Iterable[str]:
    if conditional:
        yield f"sampler.kind = grid: no axis may have when (found {conditional[0]}); use tpe or random"
    points = 1
    for name, axis in sweep.space.items():
        number = axis.count_values() if axis.find_problem() is None else 1
        if number is None:
            yield f"space.{name}: a grid needs choices, integers or a step"
        points *= number or 1
    if points > MOST_POINTS:
        yield f"sampler.kind = grid: {points} points are too many to list; use random, or wider steps"
    if sweep.trials > points:
        yield f"trials = {sweep.trials}: the grid has {points} points; ask for at most as many"


def _check_refit(sweep: Sweep) -> Iterable[str]:
    for override in sweep.refit.overrides:
        key = override.partition("=")[0]
        if not key.startswith(REFIT_PREFIXES):
            yield (
                f"refit.overrides: {key} is not for the refit alone, which trains the winner on the data that chose "
                "it; put it into overrides"
            )
        elif key in sweep.space:
            yield f"refit.overrides: {key} is an axis of the space, of which the refit takes the winner's value"
        elif key.startswith(SET_BY_REFIT):
            yield f"refit.overrides: the refit sets {key} itself; refit.seeds has its seeds"


def _check_together(sweep: Sweep, recipe: Recipe) -> Iterable[str]:
    """Say what of a sweep and its recipe contradicts each other."""
    if recipe.dataset.split_by == "image" and len(sweep.split_seeds) > 1:
        yield (
            "split_seeds: with dataset.split_by = image each draws test images of its own, so one would train on the "
            "test images of another; give one"
        )
    if not isinstance(recipe.cluster.num_train_workers, int):
        yield (
            f"cluster.num_train_workers = {list(recipe.cluster.num_train_workers)}: the trials of a sweep keep their "
            "number of workers; write one number"
        )
    use_gpu, gpus = recipe.cluster.use_gpu, sweep.resources.gpus
    if recipe.cluster.min_train_workers == 0 and use_gpu != (gpus > 0):
        yield (
            f"cluster.use_gpu = {str(use_gpu).lower()} and resources.gpus = {gpus:g}: trials of one worker take a GPU, "
            "or a share of one, as sweep.resources.gpus says; set both or neither"
        )


def _check_against_recipe(sweep: Sweep, raw: dict[str, Any], source: str) -> None:
    """Refuse an axis of which a value makes no recipe."""
    for name, axis in sweep.space.items():
        for value in axis.list_probes():
            try:
                apply_params(raw, {**_find_condition(sweep, name), name: value}, f"{name} = {value}")
            except RecipeError as error:
                raise RecipeError(f"{source}: space.{name}: {error}") from None


def _find_condition(sweep: Sweep, name: str) -> dict[str, Any]:
    """Return values of other axes under which an axis exists."""
    found: dict[str, Any] = {}
    for other in sweep.space[name].when:
        found |= _find_condition(sweep, other)
        found[other] = sweep.space[name].allows(other)[0]
    return found
