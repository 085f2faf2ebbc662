"""The ladder of comparisons over the arms, and its appendix."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.comparisons import (
    FAMILY,
    PRIMARY,
    Comparison,
)
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import (
    ABSENT,
    BOOTSTRAP_SEED,
    BOXES,
    BOXES_BUT_NAMED,
    Table,
    flatten_contrast,
    make_table,
    show_change,
    show_contrast,
    show_interval,
    show_number,
    show_p,
)
from t2m_bench.statistics import tests
from t2m_bench.statistics.crossed import CLAIM_SEEDS, FEWEST_FOLDS
from t2m_bench.statistics.intervals import compute_patient_means
from t2m_bench.statistics.ranking import compute_rank_shares, compute_standardised_difference, compute_superiority

METHOD_FAMILY, MODEL_FAMILY = "adjusted", "adjusted, given these models"
"""Roles of the two families in the table: p of arms and p within trained models are never adjusted together."""


def make_ladder_table(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Each step from the box alone to language: what it asks, how large it is, how sure."""
    rows, numbers = [], []
    for item in comparisons:
        contrast = item.contrast
        family = item.simultaneous_interval if item.role == FAMILY else (math.nan, math.nan)
        rows.append(
            (
                item.key,
                item.question,
                show_contrast(contrast),
                show_interval(*family),
                show_p(item.p_adjusted),
                _show_role(item),
                str(contrast.num_patients),
                _show_seeds(item),
                ", ".join(show_change(mean) for mean in contrast.fold_means) if contrast.num_folds > 1 else ABSENT,
                show_p(contrast.heterogeneity_p),
            )
        )
        numbers.append(
            {"comparison": item.key, "role": item.role, **flatten_contrast("difference", contrast, item.p_adjusted)}
            | {"patients": contrast.num_patients, "seeds": contrast.num_seeds if item.is_trained else math.nan}
            | {"unpaired_runs": item.num_unpaired, **_flatten_intervals(item, family)}
        )
    note = (
        "Dice, for these splits. One primary contrast, not adjusted; comparisons of arms and comparisons within "
        "trained models are two families, each adjusted for all its claims, of difference and of equivalence (Holm "
        "with Shaffer's count); the family's intervals hold together in 95 % of suites; the rest are intervals only. "
        f"Interval and p: {tell_what_is_random(comparisons)} (within a model, right minus wrong: patients alone); of "
        f"{FEWEST_FOLDS} folds or more the wider of that and an interval with folds random. Folds differ: F test of "
        f"Cochran's Q. How often they miss the truth: docs/statistics.md. {BOXES_BUT_NAMED}"
        + "".join(f" {entry.name}: {entry.note}." for entry in ARMS if entry.note and entry.name in results.arms)
    )
    return make_table("ladder", "Is the text needed? A ladder over the arms", note, _LADDER_COLUMNS, rows, numbers)


def _flatten_intervals(item: Comparison, family: tuple[float, float]) -> dict[str, float]:
    contrast = item.contrast
    (low, high), (folds_low, folds_high) = contrast.find_default_interval(), contrast.find_folds_interval()
    found = {"default_low": low, "default_high": high, "folds_low": folds_low, "folds_high": folds_high}
    found |= {"simultaneous_low": family[0], "simultaneous_high": family[1], "equivalence_p": item.equivalence_p}
    return found | {"folds_differ_p": contrast.heterogeneity_p}


def tell_what_is_random(comparisons: Sequence[Comparison]) -> str:
    """Return what the default interval takes as random with as many training runs and folds as there are."""
    trained = [item for item in comparisons if item.is_trained and not item.within_models]
    counts = {table.shape[1] for item in trained for table in item.tables}
    if not counts:
        return "patients alone"
    if len(counts) > 1:
        return (
            "patients and training runs both random where a fold has several runs (column Runs: the fewest of any "
            "fold), patients alone where none has"
        )
    if counts == {1}:
        return "patients alone, given these trained models: one training run a fold cannot tell how runs differ"
    random = "patients and training runs both random"
    if min(counts) < CLAIM_SEEDS and max(item.contrast.num_folds for item in trained) == 1:
        return f"{random}; {min(counts)} runs of one fold are too few for 95 %: it misses the truth more often"
    return random


_LADDER_COLUMNS = (
    "Comparison",
    "Question",
    "Difference [95 %]",
    "All of the family",
    "p",
    "Role",
    "Patients",
    "Runs",
    "By fold",
    "Folds differ, p",
)


def _show_role(item: Comparison) -> str:
    family = MODEL_FAMILY if item.within_models else METHOD_FAMILY
    return {PRIMARY: "primary", FAMILY: family}.get(item.role, ABSENT)


def _show_seeds(item: Comparison) -> str:
    if not item.is_trained:
        return ABSENT
    return "averaged" if item.within_models else str(item.contrast.num_seeds)


def make_secondary_table(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Table for an appendix: tests over patients given these trained models, and effect sizes."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    rows, numbers = [], []
    for item in comparisons:
        values = item.patient_values
        found = {
            "sign_flip_p": tests.flip_signs(values, rng),
            "wilcoxon_p": tests.rank_signs(values),
            "equivalence_p": tests.find_equivalence(values, results.margin),
            "d_z": compute_standardised_difference(values),
            "superiority": compute_superiority(values),
        }
        shown = [show_p(found[name]) for name in ("sign_flip_p", "wilcoxon_p", "equivalence_p")]
        rows.append((item.key, *shown, show_change(found["d_z"], 2), show_number(found["superiority"], 2)))
        numbers.append({"comparison": item.key, **found})
    note = (
        "Given these trained models: patients alone are random, seeds averaged, so that these p are too small "
        "for a claim "
        f"about the method. Equivalence: two one-sided t tests within {results.margin:g} Dice. Superiority: "
        "share of patients "
        f"with a gain, ties half. {BOXES_BUT_NAMED}"
    )
    columns = ("Comparison", "Sign flips, p", "Wilcoxon (Pratt), p", "Equivalence, p", "d_z", "Superiority")
    return make_table("secondary", "Appendix: tests given these trained models", note, columns, rows, numbers)


def make_rank_table(results: Results) -> Table | None:
    """Table for an appendix: how often each arm has each rank when patients are drawn again."""
    means = {arm: compute_patient_means(results.select_main(arm), DICE) for arm in results.arms}
    together = pd.DataFrame(means).dropna()
    if len(together) < 2 or together.shape[1] < 2:
        return None
    shares = compute_rank_shares(together, np.random.default_rng(BOOTSTRAP_SEED))
    shares = shares.loc[together.mean().sort_values(ascending=False).index]
    rows = [
        (results.name_arm(str(arm)), *(f"{100 * share:.0f}" for share in row))
        for arm, row in zip(shares.index, shares.to_numpy(), strict=True)
    ]
    named = shares.rename(columns=lambda rank: f"rank_{rank}").rename_axis("arm").reset_index()
    note = "Per cent of bootstrap samples of patients in which an arm has the rank, given these trained models. "
    note += BOXES
    return make_table(
        "ranks",
        "Appendix: stability of the order",
        note,
        ("Arm", *map(str, shares.columns)),
        rows,
        named.to_dict("records"),
    )
