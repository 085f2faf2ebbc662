"""Reports a sweep: its trials, what mattered beside the noise between seeds, what was stopped or failed and why."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from t2m_bench.errors import RunFolderError
from t2m_bench.recipe.typed_yaml import load_mapping
from t2m_bench.reporting.drawing import Figure
from t2m_bench.reporting.table import Table, make_table
from t2m_bench.search.study import MEMBERS, REASON, count_states, find_best, has_study, list_counted, load_studies

matplotlib.use("Agg")

SEARCH_NAME = "sweep.json"
BEST_NAME = "best.yaml"
SHOWN_TRIALS = 10
FEWEST_TRIALS = 6
"""Complete trials below which a random forest over the axes says nothing."""

TARGETS_IN_FRONT = (2, 3)
"""Numbers of objectives whose Pareto front Optuna can draw."""


@dataclass(frozen=True)
class Search:
    """The studies of a sweep by name, and by arm where they led to a refit; the first is the sweep's own."""

    studies: dict[str, optuna.Study]
    arms: dict[str, str]

    @property
    def main(self) -> optuna.Study:
        """The sweep's own study."""
        return next(iter(self.studies.values()))


@dataclass(frozen=True)
class Importance:
    """Share of the spread between trials that an axis explains, among the trials that have the same axes."""

    group: str
    trials: int
    axis: str
    share: float
    spread: float
    is_alone: bool
    """True where no other axis exists to compare with, so that its share holds all of the spread, noise included."""


@dataclass(frozen=True)
class _Group:
    """Complete trials that have the same axes, as a study of their own; `axes` are those told apart."""

    name: str
    axes: list[str]
    study: optuna.Study


def load_search(folder: Path) -> Search:
    """Read a sweep's folder.

    Raises:
        RunFolderError: it holds no study that can be read.
    """
    return Search(load_studies(folder), {})


def find_search(experiment: Path) -> Search | None:
    """Return the search that an experiment's runs are the refit of, if they are of one that is still there."""
    path = experiment / SEARCH_NAME
    if not path.is_file():
        return None
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        folder, arms = experiment / noted["folder"], dict(noted["studies"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}). Remove it, or refit again.") from None
    return Search(load_studies(folder), arms) if has_study(folder) else None


def load_best_recipe(folder: Path) -> dict[str, Any]:
    """Return a sweep's winning recipe as a mapping, empty where no trial came to its end.

    Raises:
        RecipeError: the file is damaged.
    """
    path = folder / BEST_NAME
    return load_mapping(path, "recipe", "launch") if path.is_file() else {}


def make_search_tables(search: Search) -> list[Table]:
    """Return the tables of a search."""
    return [
        make_studies_table(search),
        make_trials_table(search.main),
        make_importance_table(search.main),
        make_reasons_table(search),
    ]


def make_studies_table(search: Search) -> Table:
    """Table of the trials of each arm, how they ended, and the best of them on validation."""
    rows, numbers = [], []
    for name, study in search.studies.items():
        states, best = count_states(study), find_best(study)
        arm = next((arm for arm, of in search.arms.items() if of == name), "-")
        trainings = {len(trial.user_attrs.get(MEMBERS, {})) for trial in list_counted(study)} - {0}
        found = dict(zip(_get_names(study), best.values, strict=True)) if best else {}
        shown = ", ".join(f"{key} {value:.4f}" for key, value in found.items()) or "-"
        counts = [str(sum(states.values())), *(str(count) for count in states.values())]
        rows.append((name, arm, *counts, str(max(trainings, default=0)), shown))
        numbers.append({"study": name, "arm": arm, "trials": sum(states.values()), **states, **found})
    return make_table(
        "sweep_studies",
        "Search",
        "Trials that were interrupted were asked again and count once. Best is on validation cases, those from which "
        "the winner was chosen, so it is too high.",
        ("Study", "Arm", "Trials", "Complete", "Stopped early", "Failed", "Trainings each", "Best"),
        rows,
        numbers,
    )


def make_trials_table(study: optuna.Study) -> Table:
    """The best complete trials with their values."""
    names, axes = _get_names(study), _list_axes(study)
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))[:SHOWN_TRIALS]
    rows = [
        (
            str(trial.number),
            *(f"{value:.4f}" for value in trial.values),
            *(_show(trial.params.get(axis)) for axis in axes),
        )
        for trial in best
    ]
    records = [
        {"trial": trial.number, "state": trial.state.name, **dict(zip(names, trial.values or [], strict=False))}
        | trial.params
        for trial in list_counted(study)
    ]
    return make_table(
        "sweep_trials",
        "Best trials",
        "On validation cases. The spreadsheet beside this table has all trials.",
        ("Trial", *names, *axes),
        rows,
        records,
    )


def make_importance_table(study: optuna.Study) -> Table:
    """Table of what each axis explains of the spread between trials (fANOVA), beside the noise between trainings."""
    found, noise = find_importances(study), compute_noise(study)
    rows, numbers = [], []
    for item in found:
        effect = math.sqrt(item.share) * item.spread
        verdict = "-" if noise is None or item.is_alone else ("above noise" if effect > noise else "within noise")
        row = (item.group, str(item.trials), item.axis, f"{item.share:.3f}", f"{effect:.4f}")
        rows.append((*row, "-" if noise is None else f"{noise:.4f}", verdict))
        numbers.append({**vars(item), "effect": effect, "noise": noise, "verdict": verdict})
    noise_note = (
        "Each trial was one training, so the noise between seeds is not known and a small effect may be nothing else "
        "(sweep.seeds=[0,1] would tell)."
        if noise is None
        else "Noise is the standard deviation of a trial's mean between its seeds and draws of validation cases; with "
        "few trials an axis without any effect gets a share too."
    )
    return make_table(
        "sweep_importance",
        "What mattered",
        f"Share of the variance of {_get_names(study)[0]} over complete trials (fANOVA), and its square root times "
        f"their standard deviation as an effect. Conditional axes are compared among trials that have the same "
        "axes; an axis alone has all of the share. " + noise_note + ("" if found else f" {_tell_why_nothing(study)}"),
        ("Among", "Trials", "Axis", "Share", "Effect", "Noise", "Beside noise"),
        rows,
        numbers,
    )


def make_reasons_table(search: Search) -> Table:
    """Trials that were stopped or failed, by reason."""
    counted = Counter(
        (name, trial.state.name, str(trial.user_attrs.get(REASON, "-")).replace("|", "/"))  # Markdown's own
        for name, study in search.studies.items()
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.PRUNED, TrialState.FAIL)
    )
    records = [{"study": s, "state": state, "reason": r, "trials": n} for (s, state, r), n in counted.most_common()]
    return make_table(
        "sweep_reasons",
        "Stopped and failed trials",
        "Interrupted means that the sweep itself was stopped; these trials were asked again.",
        ("Study", "State", "Reason", "Trials"),
        [tuple(map(str, record.values())) for record in records],
        records,
    )


def _tell_why_nothing(study: optuna.Study) -> str:
    number = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if number < FEWEST_TRIALS:
        return f"Fewer than {FEWEST_TRIALS} complete trials: nothing can be said."
    return "No axis took several values among complete trials, or all were as good: nothing can be said."


def find_importances(study: optuna.Study) -> list[Importance]:
    """Return the importance of each axis for the first objective, in each group of trials with the same axes."""
    found = []
    for group in _list_groups(study):
        values = [trial.values[0] for trial in group.study.trials]
        if len(values) < FEWEST_TRIALS or len(set(values)) < 2:
            continue
        spread, alone = float(np.std(values)), len(group.axes) == 1
        try:
            shares = _compute_shares(group.study, group.axes)
        except RuntimeError:  # no tree of the forest found anything to tell values apart by
            continue
        found += [Importance(group.name, len(values), axis, share, spread, alone) for axis, share in shares.items()]
    return found


def compute_noise(study: optuna.Study) -> float | None:
    """Return the standard deviation of a trial's mean between its trainings, pooled; None with one training each."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    members = [list(trial.user_attrs.get(MEMBERS, {}).values()) for trial in complete]
    variances = [np.var(values, ddof=1) / len(values) for values in members if len(values) > 1]
    return float(np.sqrt(np.mean(variances))) if variances else None


def make_search_figures(search: Search) -> list[Figure]:
    """Return Optuna's own plots of the sweep's study."""
    study = search.main
    names = _get_names(study)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return []
    target: dict[str, Any] = {"target_name": names[0]}
    if len(names) > 1:
        target["target"] = _first_value
    figures = [
        _draw("history", "History of the search", lambda: plots.plot_optimization_history(study, **target)),
        _draw("parallel", "Parallel coordinates", lambda: plots.plot_parallel_coordinate(study, **target)),
        _draw("slices", "Slices", lambda: plots.plot_slice(study, **target)),
    ]
    if len(names) == 1:
        figures.append(_draw("epochs", "Trials over epochs", lambda: plots.plot_intermediate_values(study)))
    if len(names) in TARGETS_IN_FRONT:
        figures.append(_draw("pareto", "Pareto front", lambda: plots.plot_pareto_front(study, target_names=names)))
    if len(complete) >= FEWEST_TRIALS:
        figures += [_draw_importances(group, place, target) for place, group in enumerate(_list_groups(study))]
    return [figure for figure in figures if figure is not None]


def _first_value(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _draw_importances(group: _Group, place: int, target: dict[str, Any]) -> Figure | None:
    def plot() -> Any:
        return plots.plot_param_importances(group.study, FanovaImportanceEvaluator(seed=0), group.axes, **target)

    return _draw(f"importance_{place}", f"Importance of axes among {group.name}", plot)


def _draw(name: str, title: str, plot: Callable[[], Any]) -> Figure | None:
    """Return one of Optuna's plots as a figure; None where it has nothing to show."""
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            axes = plot()
        except (ValueError, RuntimeError):  # too few trials of this form
            return None
        canvas = (axes if hasattr(axes, "figure") else np.asarray(axes).flat[0]).figure
        if not isinstance(axes, np.ndarray):
            canvas.set_size_inches(8.5, 4.8)
    pyplot.close(canvas)
    return Figure(f"sweep_{name}", title, title, f"{title}, as Optuna draws it.", canvas, has_paper=True)


def _compute_shares(study: optuna.Study, axes: list[str]) -> dict[str, float]:
    evaluator = FanovaImportanceEvaluator(seed=0)
    target = _first_value if len(study.directions) > 1 else None
    return dict(get_param_importances(study, evaluator=evaluator, params=axes, target=target))


def _list_groups(study: optuna.Study) -> list[_Group]:
    """Return the axes of all trials, and those of each set of trials that have more."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sets = list(dict.fromkeys(tuple(axis for axis in _list_axes(study) if axis in trial.params) for trial in complete))
    shared = [axis for axis in _list_axes(study) if all(axis in axes for axes in sets)]
    groups = [_Group("all trials", shared, _copy_study(study, complete))] if shared else []
    if len(sets) > 1:
        for axes in sets:
            among = [trial for trial in complete if set(axes) == trial.params.keys()]
            first = among[0].params
            own = [axis for axis in axes if len({repr(trial.params[axis]) for trial in among}) > 1]
            fixed = [axis for axis in shared if isinstance(first[axis], str) and axis not in own]
            told = ", ".join(str(first[axis]) for axis in fixed)
            if own:
                groups.append(_Group(f"{told or 'those'} with {len(axes)} axes", own, _copy_study(study, among)))
    return groups


def _copy_study(study: optuna.Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Return a study in memory of these trials alone."""
    copied = optuna.create_study(directions=study.directions)
    copied.add_trials(trials)
    return copied


def _list_axes(study: optuna.Study) -> list[str]:
    return list(dict.fromkeys(axis for trial in study.get_trials(deepcopy=False) for axis in trial.params))


def _get_names(study: optuna.Study) -> list[str]:
    return study.metric_names or ["objective"]


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
