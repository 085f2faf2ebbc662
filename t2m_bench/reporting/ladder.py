"""The ladder of comparisons over the arms, and its appendix."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

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
from t2m_bench.statistics.intervals import compute_patient_means
from t2m_bench.statistics.ranking import compute_rank_shares, compute_standardised_difference, compute_superiority

FEWEST_RUNS = 3
"""Training runs a fold below which drawing among them says nothing: of two runs, half of all draws hold but one."""


def make_ladder_table(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Each step from the box alone to language: what it asks, how large it is, how sure."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    rows, numbers = [], []
    for item in comparisons:
        contrast = item.contrast
        low, high = tests.bootstrap_crossed(item.tables, rng) if _can_be_drawn(item) else (math.nan, math.nan)
        rows.append(
            (
                item.key,
                item.question,
                show_contrast(contrast),
                show_p(item.p_adjusted),
                {PRIMARY: "primary", FAMILY: "Holm"}.get(item.role, ABSENT),
                str(contrast.num_patients),
                _show_seeds(item),
                show_interval(low, high),
                show_number(contrast.smallest_detectable),
            )
        )
        numbers.append(
            {"comparison": item.key, "role": item.role, **flatten_contrast("difference", contrast, item.p_adjusted)}
            | {"patients": contrast.num_patients, "seeds": contrast.num_seeds if item.is_trained else math.nan}
            | {"bootstrap_low": low, "bootstrap_high": high, "smallest_detectable": contrast.smallest_detectable}
        )
    note = (
        "Dice. One primary contrast, not adjusted; one family adjusted by Holm; the rest are intervals only. Interval "
        f"and p: {tell_what_is_random(comparisons)} (within a model, right minus wrong: patients alone). "
        f"Bootstrap: both drawn within each fold, as a check, from {FEWEST_RUNS} runs on. Smallest detectable: the "
        "difference that such a suite finds in 80 % of cases. Folds share training data, which no interval here "
        f"accounts for. {BOXES_BUT_NAMED}"
    )
    return make_table("ladder", "Is the text needed? A ladder over the arms", note, _LADDER_COLUMNS, rows, numbers)


def tell_what_is_random(comparisons: Sequence[Comparison]) -> str:
    """Return what the default interval takes as random with as many training runs as there are, and how sure it is."""
    trained = [item for item in comparisons if item.is_trained and not item.within_models]
    counts = {table.shape[1] for item in trained for table in item.tables}
    if not counts:
        return "patients alone"
    if len(counts) > 1:
        return (
            "patients and training runs both random where a fold has several runs (column Seeds: the fewest of any "
            "fold), patients alone where none has; with fewer than three it misses the truth more often than it says"
        )
    if counts == {1}:
        return "patients alone, given these trained models: one training run a fold cannot tell how runs differ"
    if min(counts) < FEWEST_RUNS:
        return (
            "patients and training runs both random, with two runs a fold, too few for the interval's 95 %: it misses "
            "the truth more often"
        )
    return (
        "patients and training runs both random; in simulation the interval misses the truth in 4 to 6 % of suites of "
        "several folds or five runs, in up to 7 % of one fold with three runs"
    )


_LADDER_COLUMNS = (
    "Comparison",
    "Question",
    "Difference [95 %]",
    "p",
    "Role",
    "Patients",
    "Seeds",
    "Bootstrap check",
    "Smallest detectable",
)


def _can_be_drawn(item: Comparison) -> bool:
    has_runs = item.within_models or not item.is_trained or item.contrast.num_seeds >= FEWEST_RUNS
    return has_runs and not math.isnan(item.contrast.low)


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
