"""The verdict on wording: do sentences that training never saw do as well, with sentences taken as random?

The margin is a share of what the text does at all: a fixed one calls everything equivalent where the text does little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special

from t2m_bench.data.held_out_wording import FEWEST_WORDINGS
from t2m_bench.recipe.conditions import CONDITIONS, OTHER_PATIENT, PARAPHRASE, RIGHT, SWAP, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import REFERENCE
from t2m_bench.reporting.comparisons import DECISION_SEED
from t2m_bench.reporting.counterfactuals import TextRow, select_row, tell_wordings
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import show_change, show_p
from t2m_bench.reporting.verdict import Verdict, tell_difference
from t2m_bench.statistics.crossed import Contrast, FoldTable, estimate_crossed, estimate_given_models, make_fold_tables
from t2m_bench.statistics.decision import ALPHA, Decision, Outcome, Reason, decide, withhold

SHARE = 0.2
"""Share of the text effect within which another wording does not matter."""

FREE = "free text"
"""Stands for the text field where each case has a text of its own."""

QUESTION = "Is it the meaning or the wording?"


@dataclass(frozen=True)
class WordingTables:
    """Mean Dice differences of patients, training runs averaged.

    Attributes:
        lost: right minus held-out wording, a row a patient, a column a sentence.
        effect: right minus other text of the same patients.
        classes: field -> the patient's class, which says whose sentences the columns are.
    """

    lost: pd.DataFrame
    effect: pd.Series
    classes: Mapping[str, pd.Series]


@dataclass(frozen=True)
class WordingEstimate:
    """The cost of other wordings: patients and sentences are random, the trained models are given.

    Attributes:
        equivalence_p: of two one-sided tests that the cost is within SHARE of the text effect, whose own error counts.
        by_patient: (patients, 1), the cost averaged over sentences.
    """

    contrast: Contrast
    equivalence_p: float
    by_patient: FoldTable


def judge_wording(results: Results, method: str) -> Verdict | None:
    """Judge held-out wordings against what text does at all; None where the arm was asked with none."""
    names = list_wordings(results, method)
    if not names:
        return None
    effect_name, other = _find_other_text(results, method)
    right = results.select(method, RIGHT)
    tables = collect_tables(results, method, names, right if other is None else other)
    if other is not None and tables.lost.empty:  # no patient has both the other text and every wording
        other, tables = None, collect_tables(results, method, names, right)
    if tables.lost.empty:
        return None
    if other is None:
        return _judge(results, estimate_wordings(tables), None, "", len(names))
    effect = estimate_given_models(make_fold_tables(right, other, DICE))
    return _judge(results, estimate_wordings(tables), effect, effect_name, len(names))


def list_wordings(results: Results, method: str) -> list[str]:
    """Return the conditions of held-out wordings; one without a number is the first sentence, in runs of before."""
    entry = CONDITIONS.find(PARAPHRASE)
    names = [name for name in results.conditions if entry.covers(name) and len(results.select(method, name))]
    numbered = [name for name in names if name != PARAPHRASE]
    return numbered or names


def _find_other_text(results: Results, method: str) -> tuple[str, pd.DataFrame | None]:
    """Return the text that the effect is measured against, and its rows: any other class, else what there is."""
    swaps = tuple(name for name in results.conditions if name.startswith(f"{SWAP}:"))
    row = TextRow(SWAP, "", swaps, CONDITIONS.find(SWAP))
    found = {
        "right minus any other class": select_row(results, method, row),
        "right minus another patient's text": results.select(method, OTHER_PATIENT),
        "right minus extreme wrong text": results.select(method, WRONG),
        f"{method} - {REFERENCE}": results.select_main(REFERENCE),
    }
    right = results.select(method, RIGHT)
    for name, rows in found.items():
        if len(rows) and make_fold_tables(right, rows, DICE):
            return name, rows
    return "", None


def collect_tables(results: Results, method: str, names: Sequence[str], other: pd.DataFrame) -> WordingTables:
    """Return the differences of the patients that have every wording and the other text."""
    right = results.select(method, RIGHT)
    lost = pd.DataFrame({name: _mean_difference(right, results.select(method, name)) for name in names}).dropna()
    effect = _mean_difference(right, other).reindex(lost.index).dropna()
    lost = lost.loc[effect.index]
    if results.is_free_text:  # each case has a rewording of its own, whose chance is among that of the patients
        return WordingTables(lost, effect, {FREE: pd.Series("", lost.index)})
    first = right.drop_duplicates("patient").set_index("patient").loc[lost.index]
    return WordingTables(lost, effect, {field: results.list_values(first, field) for field in results.fields})


def _mean_difference(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Return patient -> mean difference over the cases of the runs that both have, runs averaged."""
    keys = ["fold", "patient", "case", "seed"]
    pairs = one[[*keys, DICE]].merge(other[[*keys, DICE]], on=keys, suffixes=("", "_other"))
    difference = (pairs[DICE] - pairs[f"{DICE}_other"]).groupby([pairs["patient"], pairs["seed"]]).mean()
    means: pd.Series = difference.groupby("patient").mean()
    return means


def estimate_wordings(tables: WordingTables) -> WordingEstimate:
    """Return the cost of held-out wordings with the error of patients and sentences.

    A class's patients and its sentences form a two-way table, as patients and training runs of a fold do: sentences of
    different classes are different sentences, and the variance between them is pooled over classes. Of several text
    fields, whose sentences are given together, the one with the larger error decides.
    """
    estimates = [_estimate_by(tables, field) for field in tables.classes]
    return WordingEstimate(
        max((found.contrast for found in estimates), key=lambda contrast: np.nan_to_num(contrast.standard_error)),
        max((found.equivalence_p for found in estimates), key=_order_p),
        estimates[0].by_patient,
    )


def _estimate_by(tables: WordingTables, field: str) -> WordingEstimate:
    classes = tables.classes[field].to_numpy()
    lost, allowed = tables.lost.to_numpy(), SHARE * tables.effect.to_numpy()[:, None]
    places = [classes == value for value in sorted(set(classes))]
    contrast = estimate_crossed([lost[place] for place in places], folds_vary=False)
    sides = [
        estimate_crossed([side[place] for place in places], folds_vary=False)
        for side in (allowed - lost, allowed + lost)
    ]
    p = max((_find_p_above_zero(side) for side in sides), key=_order_p)
    return WordingEstimate(contrast, p, lost.mean(axis=1, keepdims=True))


def _order_p(p: float) -> float:
    return 2.0 if np.isnan(p) else p


def _find_p_above_zero(contrast: Contrast) -> float:
    """Return the one-sided p of a mean that is not above 0; NaN where there is no test."""
    if np.isnan(contrast.standard_error):
        return float("nan")
    if contrast.no_test:
        return float(contrast.mean <= 0)
    return float(special.stdtr(contrast.degrees, -contrast.mean / contrast.standard_error))


def _judge(
    results: Results, found: WordingEstimate, effect: Contrast | None, effect_name: str, num_wordings: int
) -> Verdict:
    contrast = found.contrast
    margin = SHARE * effect.mean if effect else results.margin
    decision = _decide(results, found, effect, margin, num_wordings)
    outcome = decision.outcome
    share = f"{100 * SHARE:.0f} % of the text effect"
    headline = {
        Outcome.NO_DIFFERENCE: f"Held-out wordings of the same text are equivalent: within {share}.",
        Outcome.GAIN: "Held-out wordings cost Dice: it is not the meaning alone.",
        Outcome.LOSS: "Held-out wordings do better than the sentences of training.",
        Outcome.UNDECIDED: f"Undecided whether held-out wordings are equivalent: {decision.reason}.",
        Outcome.WITHHELD: f"Withheld: {decision.reason}.",
    }[outcome]
    if decision.reason is Reason.SMALL_EFFECT:
        headline = f"Uninformative here: {Reason.SMALL_EFFECT}."
    sentences = [
        f"Right minus held-out wording ({_tell_number(results, num_wordings)}): {tell_difference(contrast)}, given "
        f"these trained models; equivalence within {share}: p {show_p(found.equivalence_p)}."
    ]
    if effect:
        sentences.append(
            f"The text effect, {effect_name}, is {show_change(effect.mean)} Dice; {100 * SHARE:.0f} % of it is "
            f"{show_change(margin)}. Wordings of a text that does nothing are equivalent whatever they mean."
        )
    else:
        sentences.append(f"Without other texts or {REFERENCE} the text effect is not known, nor a margin.")
    sentences += [_tell_naming(results), _tell_homes(results)]
    said = tuple(sentence for sentence in sentences if sentence)
    return Verdict(PARAPHRASE, QUESTION, outcome, headline, said, decision)


def _decide(
    results: Results, found: WordingEstimate, effect: Contrast | None, margin: float, num_wordings: int
) -> Decision:
    rng = np.random.default_rng(DECISION_SEED)
    decision = decide(found.contrast, [found.by_patient], max(margin, 0.0), rng, equivalence_p=found.equivalence_p)
    if effect is None:
        return withhold(decision, Reason.NO_EFFECT_KNOWN)
    if effect.mean < results.margin or (effect.no_test is None and effect.low <= 0):
        return replace(decision, outcome=Outcome.UNDECIDED, size=None, reason=Reason.SMALL_EFFECT)
    is_few = num_wordings < FEWEST_WORDINGS and not results.is_free_text
    if is_few and decision.reason is not Reason.FEW_PATIENTS:
        return withhold(decision, Reason.FEW_WORDINGS)
    if found.equivalence_p < ALPHA and decision.outcome in (Outcome.GAIN, Outcome.LOSS):  # it costs, and too little
        return replace(decision, outcome=Outcome.NO_DIFFERENCE, size=None, reason=None)
    return decision


def _tell_number(results: Results, num_wordings: int) -> str:
    if results.is_free_text:
        return "each case's own"
    if num_wordings == 1:
        return "1 sentence a class, which stands for no other"
    return f"{num_wordings} sentences a class, taken as random"


def _tell_naming(results: Results) -> str:
    """Say whether held-out sentences name their class, so that a model needs to know that word alone."""
    if results.is_free_text:
        return ""
    noted = results.experiment.get("prompts", {})
    if "num_naming" not in noted:
        return "Whether held-out sentences share the class's name or number with training was not recorded."
    if not noted["num_naming"]:
        return ""
    return (
        f"{noted['num_naming']} of {noted['num_held_out']} held-out sentences have the class's name or a number of its "
        "training sentences in them: to read that word is enough."
    )


def _tell_homes(results: Results) -> str:
    homes = tell_wordings(results)
    if homes:
        return (
            f"Held-out sentences that the text encoder puts nearest to their class: {homes}; of others this measures "
            "the encoder."
        )
    return "Where the text encoder does not put wordings of a class together, this measures the encoder."
