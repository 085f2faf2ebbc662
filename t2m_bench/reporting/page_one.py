"""Page one of a report: the question, the answer, one table, three figures, and what to beware of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2m_bench.recipe.arms import LABEL_ARM
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.measures import DICE, HD95
from t2m_bench.reporting.arms import BASELINE, REFERENCE
from t2m_bench.reporting.cases import draw_cases
from t2m_bench.reporting.cautions import list_cautions
from t2m_bench.reporting.comparisons import compare_arms, find_best_floor
from t2m_bench.reporting.completeness import find_asked_method
from t2m_bench.reporting.drawing import Figure
from t2m_bench.reporting.forest import Bar, draw_forest, list_costs, list_gains, make_forest_table
from t2m_bench.reporting.gain_strata import draw_gain_strata, list_gain_strata, make_gain_strata_table
from t2m_bench.reporting.measure_columns import ArmRows, compare_location
from t2m_bench.reporting.provenance import list_grave_warnings
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import (
    ABSENT,
    BOOTSTRAP_SEED,
    Table,
    flatten_contrast,
    make_table,
    show_change,
    show_contrast,
    show_estimate,
    show_interval,
    show_percent,
)
from t2m_bench.reporting.verdict import Verdict
from t2m_bench.statistics.intervals import compute_patient_means, estimate_mean
from t2m_bench.statistics.paired_location import PairedLocation, estimate_location

DIGITS = 3

FAILED = 0.7
"""Dice below which an outline counts as failed."""

HARMED = 0.1
"""Dice that a case loses at least to count as harmed."""


@dataclass(frozen=True)
class PageOne:
    """What a reader needs first.

    Attributes:
        question, answer: a sentence each; headline: the answer in a few words.
        warnings: what makes all figures doubtful, mostly none. cautions: what to beware of in any case.
        table, figures: None and none where there is nothing to show.
    """

    question: str
    headline: str
    answer: str
    warnings: tuple[str, ...]
    cautions: tuple[str, ...]
    table: Table
    figures: tuple[Figure, ...]


def make_page_one(results: Results, verdicts: Sequence[Verdict], draw: bool = True) -> PageOne:
    """Return page one, with figures unless `draw` is False."""
    method = _find_shown_method(results)
    gains = list_gains(results, method) if method else []
    figures = _draw(results, method, gains) if draw else ()
    headline, answer = _answer(results, verdicts, gains)
    return PageOne(
        question=_ask(results),
        headline=headline,
        answer=answer,
        warnings=tuple(list_grave_warnings(results)),
        cautions=tuple(list_cautions(results)),
        table=make_page_table(results, method),
        figures=figures,
    )


def _find_shown_method(results: Results) -> str | None:
    """Return the text-guided arm, None where it has no results."""
    asked = find_asked_method(results)
    return asked if asked in results.arms else None


def make_numbers_tables(results: Results) -> list[Table | None]:
    """Return the numbers behind the figures of page one."""
    method = _find_shown_method(results)
    if method is None:
        return []
    forest = make_forest_table(list_gains(results, method), list_costs(results, method))
    return [forest, make_gain_strata_table(list_gain_strata(results, method))]


def _draw(results: Results, method: str | None, gains: Sequence[Bar]) -> tuple[Figure, ...]:
    drawn = [
        draw_forest(gains, list_costs(results, method), results.margin) if method else None,
        draw_cases(results, method),
        draw_gain_strata(list_gain_strata(results, method), results.margin) if method else None,
    ]
    return tuple(figure for figure in drawn if figure is not None)


def _ask(results: Results) -> str:
    """Return the question with the data that it was put to."""
    dataset = results.experiment["dataset"]
    entry = DATA_SETS.get(str(dataset["kind"]))
    label = entry.label if entry else str(dataset["kind"])
    fields = " and ".join(map(results.name_field, results.fields))
    told = "the text written about each case" if results.is_free_text else f"the {fields} in words"
    is_own = entry is not None and entry.reads_table  # whose label names no data set
    source = "images" if is_own else f"{label} images"
    if dataset.get("phantom"):
        source = "phantoms" if is_own else f"phantoms in the layout of {label}"
    seeds = [len({run.summary["seed"] for run in results.list_runs(arm)}) for arm in results.arms]
    repeats = min((number for number in seeds if number), default=0)
    return (
        f"Does telling a segmentation model {told} improve its outline of a lesion? Tested on "
        f"{results.table['case'].nunique()} {source} ({results.num_patients} patients, "
        f"{_count(len(results.folds), 'test fold')}, {_count(repeats, 'training repeat')})."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _answer(results: Results, verdicts: Sequence[Verdict], gains: Sequence[Bar]) -> tuple[str, str]:
    """Return the verdict on help in few words, and the differences that it rests on in a sentence."""
    headline = verdicts[0].headline if verdicts else "Not known: no text-guided model has results."
    if not gains or not gains[0].is_main:
        return headline, ""
    return headline, (
        f"Text changed Dice by {show_contrast(gains[0].contrast, DIGITS)} against the same model trained without it "
        f"(95 % interval; differences within {results.margin:g} do not matter)."
    )


def make_page_table(results: Results, method: str | None) -> Table:
    """Return a row a model: its Dice, and how the text-guided model differs from it."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    unit = str(results.table["distance_unit"].mode().iloc[0])
    rows, numbers = [], []
    for label, arm in _list_models(results, method):
        main = results.select_main(arm)
        estimate = estimate_mean(compute_patient_means(main, DICE), rng)
        compared = method if arm != method else None
        gain = compare_arms(results, compared, arm) if compared else None
        distance = _compare_distance(results, compared, arm, unit)
        dice = main.groupby("case")[DICE].mean()
        failed = float((dice < FAILED).mean())
        lost = dice - results.select_main(compared).groupby("case")[DICE].mean() if compared else dice.iloc[:0]
        shares = [_find_share(lost, least) for least in (results.margin, HARMED)]
        rows.append(
            (
                label,
                show_estimate(estimate, DIGITS),
                show_contrast(gain, DIGITS),
                _show_location(distance),
                show_percent(failed, signed=False),
                " / ".join(show_percent(share, signed=False) for share in shares) if compared else ABSENT,
            )
        )
        numbers.append(
            {"model": label, "arm": arm, DICE: estimate.mean, "dice_low": estimate.low, "dice_high": estimate.high}
            | flatten_contrast("gain", gain)
            | {"hd95_difference": distance.difference, "hd95_low": distance.low, "hd95_high": distance.high}
            | {"failed": failed, "loses_more_than_margin": shares[0], "loses_more_than_0.1": shares[1]}
        )
    columns = (
        "Model",
        "Dice [95 %]",
        "Dice gained by text-guided [95 %]",
        f"HD95 change by text-guided, {unit} [95 %]",
        f"Failed (Dice < {FAILED:g})",
        f"Cases where text-guided loses > {results.margin:g} / > {HARMED:g}",
    )
    note = "Each row is a model; differences are the text-guided model minus that row, case by case."
    return make_table("page_one", "Models compared", note, columns, rows, numbers)


def _compare_distance(results: Results, compared: str | None, arm: str, unit: str) -> PairedLocation:
    """Return how an arm's HD95 differs from another's, patient by patient, given these trained models."""
    rows, other = (results.select_main(name) if name else None for name in (compared, arm))
    if rows is None or other is None:
        return estimate_location(np.empty(0))
    rows, other = (part[part["distance_unit"] == unit] for part in (rows, other))
    return compare_location(ArmRows(rows, other, unit), HD95)


def _show_location(location: PairedLocation) -> str:
    interval = show_interval(location.low, location.high, digits=1)
    return show_change(location.difference, 1) + ("" if interval == ABSENT else f" {interval}")


def _list_models(results: Results, method: str | None) -> list[tuple[str, str]]:
    """Return (label, arm) of the rows that have results."""
    floor = find_best_floor(results)
    wanted: list[tuple[str, Any]] = [
        ("Best shape without the image", floor),
        ("Frozen model", BASELINE),
        ("Same model, no text", REFERENCE),
        ("Category alone", LABEL_ARM),
        ("Text-guided", method),
    ]
    return [(label, arm) for label, arm in wanted if arm in results.arms]


def _find_share(lost: Any, least: float) -> float:
    known = lost.dropna()
    return float((known > least).mean()) if len(known) else math.nan
