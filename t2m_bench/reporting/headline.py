"""The headline table: what each arm reaches, and what it gains over the others."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from t2m_bench.recipe.conditions import PLAUSIBLE, RIGHT
from t2m_bench.recipe.measures import DICE, MEASURE_TABLE, MeasureEntry
from t2m_bench.reporting.arms import BASELINE, REFERENCE, is_trained
from t2m_bench.reporting.comparisons import (
    Comparison,
    compare_arms,
    compare_conditions,
    find_best_floor,
    find_p,
    key_reliance,
)
from t2m_bench.reporting.published import MARK, find_published, write_footnote
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import (
    ABSENT,
    BOOTSTRAP_SEED,
    BOXES,
    LACKING,
    Table,
    flatten_contrast,
    make_table,
    show_change,
    show_contrast,
    show_interval,
    show_number,
    show_p,
    show_percent,
)
from t2m_bench.statistics.crossed import Contrast
from t2m_bench.statistics.intervals import FEWEST, FEWEST_FOR_BOOTSTRAP, compute_patient_means, estimate_mean

COST_OF_PLAUSIBLE = "cost_of_plausible"
"""Column of the numbers that the report in the terminal shows too."""

Rows = list[tuple[str, ...]]
Numbers = list[dict[str, Any]]


def make_headline_table(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Dice and measures beside it of each arm, gains over baseline, text_free and best floor; p of `comparisons`."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    floor, beside = find_best_floor(results), [entry.name for entry in list_beside_dice()]
    rows: Rows = []
    numbers: Numbers = []
    for arm in results.arms:
        found = _measure_arm(results, arm, floor, rng)
        gains: Mapping[str, Contrast | None] = found["gains"]
        over_baseline = gains["over_baseline"]
        p = {"help": find_p(comparisons, f"{arm} - {REFERENCE}")}
        costs = {COST_OF_PLAUSIBLE: PLAUSIBLE, "cost_of_wrong": results.wrong_condition}
        p |= {name: find_p(comparisons, key_reliance(arm, condition)) for name, condition in costs.items()}
        relative = over_baseline.mean / found["baseline"] if over_baseline else math.nan
        rows.append(
            (
                results.name_arm(arm),
                str(found["seeds"]) if is_trained(arm) else ABSENT,
                f"{show_number(found[DICE])} ± {show_number(found['dice_sd'])} {_show_range(found)}".rstrip()
                + found["lacking"],
                *(f"{show_number(found[name])} ± {show_number(found[f'{name}_sd'])}" for name in beside),
                ABSENT if over_baseline is None else f"{show_change(over_baseline.mean)} ({show_percent(relative)})",
                _show_with_p(gains["help"], p["help"]),
                show_contrast(gains["over_floor"]),
                *([show_contrast(gains[COST_OF_PLAUSIBLE])] if PLAUSIBLE in results.conditions else []),
                show_contrast(gains["cost_of_wrong"]),
            )
        )
        measured = {name: value for name, value in found.items() if name not in {"gains", "baseline", "lacking"}}
        flat: dict[str, float] = {}
        for name, gain in gains.items():
            flat |= flatten_contrast(name, gain, p.get(name, math.nan))
        numbers.append({"arm": arm, "published": False, **measured, **flat})
    rows, numbers = _add_published(results, rows, numbers)
    return make_table("arms", "Arms", _write_note(results, floor), list_headline_columns(results), rows, numbers)


def tell_untrained(results: Results, method: str) -> str:
    """Return one sentence with the best shape drawn without the image, the frozen model and the method; "" of none."""
    floor = find_best_floor(results)
    named = {"best shape drawn without the image": floor, "frozen model": BASELINE, f"text-guided ({method})": method}
    there = [(name, arm) for name, arm in named.items() if arm and arm in results.arms]
    if len(there) < 2:
        return ""
    means = [f"{name} {compute_patient_means(results.select_main(arm), DICE).mean():.3f}" for name, arm in there]
    return f"Mean Dice: {', '.join(means)}."


def list_beside_dice() -> list[MeasureEntry]:
    """Return the measures that the headline shows beside Dice."""
    return [entry for entry in MEASURE_TABLE if entry.in_headline and entry.name != DICE]


def list_headline_columns(results: Results) -> tuple[str, ...]:
    """Return the headers of the headline."""
    return (
        "Arm",
        "Runs a fold",
        "Dice, mean ± SD [95 %]",
        *(f"{entry.name_column('')}, mean ± SD" for entry in list_beside_dice()),
        "Gain over baseline*",
        "Help: gain over text_free",
        "Gain over best floor",
        *(["Cost of plausible wrong text"] if PLAUSIBLE in results.conditions else []),
        "Cost of another patient's text" if results.is_free_text else "Cost of extreme wrong text",
    )


def _measure_arm(results: Results, arm: str, floor: str | None, rng: np.random.Generator) -> dict[str, Any]:
    rows = results.select_main(arm)
    dice = compute_patient_means(rows, DICE)
    beside = {entry.name: compute_patient_means(rows, entry.name) for entry in list_beside_dice()}
    estimate = estimate_mean(dice, rng)
    baseline = results.select_main("baseline")
    baseline = baseline[baseline["case"].isin(rows["case"])]
    trained = is_trained(arm)
    gains = {
        "over_baseline": compare_arms(results, arm, "baseline") if trained else None,
        "help": compare_arms(results, arm, REFERENCE) if trained and arm != REFERENCE else None,
        "over_floor": compare_arms(results, arm, floor) if floor and (trained or arm == "baseline") else None,
        COST_OF_PLAUSIBLE: compare_conditions(results, arm, RIGHT, PLAUSIBLE),
        "cost_of_wrong": compare_conditions(results, arm, RIGHT, results.wrong_condition),
    }
    wrong = results.select(arm, results.wrong_condition)
    return {
        "seeds": int(rows.groupby("fold")["seed"].nunique().min()) if trained else 0,
        DICE: estimate.mean,
        "dice_sd": float(dice.std()),
        "dice_low": estimate.low,
        "dice_high": estimate.high,
        "dice_wrong": float(compute_patient_means(wrong, DICE).mean()) if len(wrong) else math.nan,
        **{key: value for name, means in beside.items() for key, value in _sum_up(name, means).items()},
        "patients": len(dice),
        "lacking": results.tell_lacking(rows),
        "baseline": float(compute_patient_means(baseline, DICE).mean()) if len(baseline) else math.nan,
        "gains": gains,
    }


def _sum_up(name: str, means: pd.Series) -> dict[str, float]:
    return {name: float(means.mean()), f"{name}_sd": float(means.std())}


def _show_range(found: Mapping[str, Any]) -> str:
    interval = show_interval(found["dice_low"], found["dice_high"], signed=False, digits=3)
    return "" if interval == ABSENT else interval


def _show_with_p(contrast: Contrast | None, p: float) -> str:
    return show_contrast(contrast) + ("" if math.isnan(p) else f", p {show_p(p)}")


def _tell_mean_interval(results: Results) -> str:
    """Return what the interval of a mean is with as many patients as there are."""
    if results.num_patients < FEWEST:
        return f"a mean of fewer than {FEWEST} patients has no interval"
    if results.num_patients < FEWEST_FOR_BOOTSTRAP:
        return f"the interval of a mean is a t interval over patients (fewer than {FEWEST_FOR_BOOTSTRAP})"
    return "the interval of a mean is a BCa bootstrap over patients"


def _add_published(results: Results, rows: Rows, numbers: Numbers) -> tuple[Rows, Numbers]:
    """Add the published rows of the same data set; phantoms have none."""
    for arm, dice in _find_published(results).items():
        row = (f"{arm} ({MARK})", ABSENT, show_number(dice), *(ABSENT for _ in list_headline_columns(results)[3:]))
        rows = [*rows, row]
        numbers = [*numbers, {"arm": arm, "published": True, DICE: dice}]
    return rows, numbers


def _find_published(results: Results) -> Mapping[str, float]:
    dataset = results.experiment["dataset"]
    return {} if dataset.get("phantom") else find_published(str(dataset["kind"]))


def _name_wrong(results: Results) -> str:
    if results.is_free_text:
        return "another patient's text"
    return "wrong text (plausible: a neighbouring class or the commonest confusion; extreme: the published map)"


def _write_note(results: Results, floor: str | None) -> str:
    parts = [
        f"Mean over {results.num_patients} patients, images of a patient and seeds averaged first; SD between "
        f"patients; {_tell_mean_interval(results)}, given these trained models. {BOXES}",
        "* Includes adaptation to the data set: no evidence about text.",
        "Gains hold for these splits, with patients and training runs random; p is the primary contrast's own, "
        "adjusted in a family, and none else.",
        "Runs a fold: those of the fold that has fewest. A gain is over the runs of the same fold and seed that both "
        "arms have, and over no others, so that it may differ from the difference of two means.",
        "Help is not of the text's content alone: arms with text also train with the contrastive loss (text_train_only "
        "has it without text, text_input_only has text without it), and gated has one level where text_free and "
        "hierarchical have two.",
        f"Cost is right minus {_name_wrong(results)}, given these trained models; it shows reliance on the text, not "
        "help.",
    ]
    if any(results.tell_lacking(results.select_main(arm)) for arm in results.arms):
        parts.append(LACKING)
    if floor:
        parts.append(f"Best floor: {results.name_arm(floor)}.")
    if _find_published(results):
        parts.append(write_footnote(str(results.experiment["dataset"]["kind"])))
    return " ".join(parts)
