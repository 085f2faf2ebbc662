"""The verdicts in plain language, computed from the numbers: help, reliance, language beyond the label, wording."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from t2m_bench.recipe.arms import ARMS, IN_LOSS_ARM, INPUT_ONLY_ARM, LABEL_ARM
from t2m_bench.recipe.conditions import PARAPHRASE, RIGHT, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import REFERENCE
from t2m_bench.reporting.comparisons import EXPLORATORY, FAMILY, Comparison, find_comparison
from t2m_bench.reporting.counterfactuals import tell_wordings
from t2m_bench.reporting.image_audit import mark_flagged
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.suite import find_asked_method
from t2m_bench.reporting.table import show_change, show_interval, show_p
from t2m_bench.statistics.crossed import FEWEST_PATIENTS, Contrast, average_seeds, estimate_crossed, make_fold_tables
from t2m_bench.statistics.tests import find_equivalence

EQUIVALENCE_LEVEL = 0.90
"""The interval that lies within the margin exactly when two one-sided tests at 5 % both reject."""

CLAIM_SEEDS = 5
"""Training runs a fold below which nothing is claimed about the method (simulations of the default test)."""

ALPHA = 0.05

LEAKAGE_MARK = "(Leakage was allowed: not from honest test figures.)"


class Outcome(StrEnum):
    """Conclusions that an interval allows about a difference."""

    HELPS = "helps"
    HURTS = "hurts"
    NEGLIGIBLE = "negligible"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """One answer. `question` and `headline` are short, `sentences` say why."""

    key: str
    question: str
    outcome: Outcome
    headline: str
    sentences: tuple[str, ...]


def judge(contrast: Contrast, margin: float, p_adjusted: float | None = None) -> Outcome:
    """Return what a difference's intervals say of it.

    helps: the 95 % interval is above 0; negligible: the 90 % interval is within the margin; hurts: the 95 % interval is
    below 0; else undecided. So a small loss is negligible, whereas a small gain that is surely above 0 helps.

    Args:
        p_adjusted: of a family's member; where it is not below ALPHA, the contrast neither helps nor hurts.
    """
    is_sure = p_adjusted is None or p_adjusted < ALPHA
    if contrast.low > 0 and is_sure:
        return Outcome.HELPS
    low, high = contrast.find_interval(EQUIVALENCE_LEVEL)
    if -margin < low and high < margin:
        return Outcome.NEGLIGIBLE
    return Outcome.HURTS if contrast.high < 0 and is_sure else Outcome.UNDECIDED


def make_verdicts(results: Results, comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Return help, reliance, language and paraphrase, as far as the results allow.

    Each is marked where leakage was allowed, and where many images are flagged.
    """
    marks = [mark_flagged(results), LEAKAGE_MARK if results.experiment["allow_leakage"] else ""]
    marked = "".join(f" {mark}" for mark in marks if mark)
    return [replace(verdict, headline=verdict.headline + marked) for verdict in _judge_all(results, comparisons)]


def _judge_all(results: Results, comparisons: Sequence[Comparison]) -> list[Verdict]:
    method = find_asked_method(results)
    if method is None:
        return []
    help_ = find_comparison(comparisons, f"{method} - {REFERENCE}")
    verdicts = []
    if method not in results.arms:
        verdicts.append(_miss_primary(method))
    if help_:
        others = [*_list_controls(comparisons, results), *_list_others(comparisons, help_, results.margin)]
        verdicts.append(_judge_help(help_, method, results.margin, others))
    for reliance in (c for c in comparisons if c.key.startswith(f"{method}: {RIGHT} - ")):
        verdicts.append(_judge_reliance(reliance, method, verdicts[0].outcome if help_ else None, results.margin))
    language = find_comparison(comparisons, f"{method} - {LABEL_ARM}")
    if language:
        verdicts.append(_judge_language(language, results.margin))
    paraphrase = _compare_texts(results, method, RIGHT, PARAPHRASE)
    if paraphrase:
        effect = _compare_texts(results, method, RIGHT, WRONG) or help_
        verdicts.append(_judge_paraphrase(paraphrase, effect, results.margin, tell_wordings(results)))
    return verdicts


def _miss_primary(method: str) -> Verdict:
    why = f"The primary contrast is {method} - {REFERENCE}, and no run of {method} has finished."
    headline = f"Not known yet: {method} has no results."
    return Verdict("help", "Does the text help?", Outcome.UNDECIDED, headline, (why,))


def _list_controls(comparisons: Sequence[Comparison], results: Results) -> list[str]:
    """Return what the controls beside the primary contrast say, or that one was not trained."""
    said = []
    for arm, what in _CONTROLS.items():
        control = find_comparison(comparisons, f"{arm} - {REFERENCE}")
        if control:
            said.append(f"{what} ({control.key}): {_tell(control.contrast, with_p=False)}.")
    if LABEL_ARM not in results.arms:
        said.append(f"No arm {LABEL_ARM} has results: what sentences add to the bare category is not known.")
    return said


_CONTROLS = {
    INPUT_ONLY_ARM: "Text at the input alone, trained without the contrastive loss",
    IN_LOSS_ARM: "Text in the training loss alone, none at the input",
}


def _list_others(comparisons: Sequence[Comparison], help_: Comparison, margin: float) -> list[str]:
    """Return a sentence for each other gain over text_free of the family that is one, or a loss."""
    said = []
    for item in comparisons:
        outcome = judge(item.contrast, margin, item.p_adjusted)
        arm, _, rest = item.key.partition(f" - {REFERENCE}")
        is_gain = item.role == FAMILY and REFERENCE in item.key and item is not help_
        if not is_gain or outcome not in _OF_OTHERS:
            continue
        whose = f"{arm}, with the box {rest.strip(' ()')}" if rest else arm
        told = f"{_tell(item.contrast)} (Holm p {show_p(item.p_adjusted)})"
        said.append(f"{whose}: {_OF_OTHERS[outcome]}, {told}; {REFERENCE} {_describe_reference(arm)}.")
    return said


_OF_OTHERS = {Outcome.HELPS: "the text helps", Outcome.HURTS: "the text makes it worse"}


def _judge_help(comparison: Comparison, method: str, margin: float, others: Sequence[str]) -> Verdict:
    contrast = comparison.contrast
    outcome = judge(contrast, margin)
    headline = {
        Outcome.HELPS: "The text helps.",
        Outcome.HURTS: "The text makes it worse.",
        Outcome.NEGLIGIBLE: "The text makes no difference that matters.",
        Outcome.UNDECIDED: "Undecided: these results can neither show nor rule out that the text helps.",
    }[outcome]
    if math.isnan(contrast.low):
        headline = f"Not known: {tell_patients(contrast)}."
    if outcome is Outcome.NEGLIGIBLE and contrast.high < 0:
        headline = "The text makes it slightly worse, by less than the margin."
    if contrast.num_seeds == 1:
        headline = f"{headline} (For this trained model only.)"
    differs = f"which {_describe_reference(method)}"
    sentences = [f"{method} with its right text against {REFERENCE}, {differs}: {_tell(contrast)}."]
    if outcome is Outcome.HELPS and contrast.mean < margin:
        sentences.append(f"The gain is smaller than the margin of {margin:g} that was fixed as the least that matters.")
    if outcome is Outcome.NEGLIGIBLE:
        low, high = contrast.find_interval(EQUIVALENCE_LEVEL)
        sentences.append(f"The 90 % interval {show_interval(low, high)} lies within the margin of {margin:g}.")
    if outcome is Outcome.UNDECIDED and not math.isnan(contrast.smallest_detectable):
        sentences.append(f"A gain of {contrast.smallest_detectable:.4f} would have been found in 80 % of such suites.")
    return Verdict("help", "Does the text help?", outcome, headline, (*sentences, *_limit(contrast), *others))


def _describe_reference(method: str) -> str:
    """Return in what the reference differs from an arm with text, text itself aside."""
    entry = ARMS.get(method)
    levels = "two levels where it has one" if entry and len(entry.levels) == 1 else "the same levels"
    loss = " and no contrastive loss" if entry is None or entry.has_text_loss else ", trained with the same loss"
    return f"has {levels}, a learned constant for the text{loss}"


def _judge_reliance(comparison: Comparison, method: str, help_: Outcome | None, margin: float) -> Verdict:
    contrast = comparison.contrast
    outcome = judge(contrast, margin, comparison.p_adjusted)
    what = comparison.question.removeprefix("does it rely on ").rstrip("?")
    headline = {
        Outcome.HELPS: f"The model relies on {what}: wrong text costs.",
        Outcome.HURTS: f"Wrong text does better than right text ({what}).",
        Outcome.NEGLIGIBLE: f"The model hardly looks at {what}: wrong text costs nothing that matters.",
        Outcome.UNDECIDED: f"Undecided whether the model relies on {what}.",
    }[outcome]
    told = f"{_tell(contrast)} (Holm p {show_p(comparison.p_adjusted)}), given these trained models"
    sentences = [f"{method}, right minus wrong text: {told}."]
    if outcome is Outcome.HELPS and help_ not in {None, Outcome.HELPS}:
        sentences.append(
            "Reliance without help: the model depends on the text without a shown benefit from it, a liability "
            "wherever a text can be wrong."
        )
    sentences.append("A drop under wrong text alone never shows that the text helps.")
    return Verdict("reliance", f"Does the model rely on {what}?", outcome, headline, tuple(sentences))


def _judge_language(comparison: Comparison, margin: float) -> Verdict:
    outcome = judge(comparison.contrast, margin, comparison.p_adjusted)
    headline = {
        Outcome.HELPS: "Sentences help beyond the bare category.",
        Outcome.HURTS: "A bare category does better than sentences.",
        Outcome.NEGLIGIBLE: "Sentences add nothing that matters to the bare category.",
        Outcome.UNDECIDED: "Undecided whether sentences add anything to the bare category.",
    }[outcome]
    if comparison.contrast.num_seeds == 1:
        headline = f"{headline} (For these trained models only.)"
    said = f"{comparison.key}, one learned vector a class in place of a language model: {_tell(comparison.contrast)}"
    sentences = (f"{said} (Holm p {show_p(comparison.p_adjusted)}).", *_limit(comparison.contrast))
    return Verdict("language", "Does language help beyond the label?", outcome, headline, sentences)


def _compare_texts(results: Results, method: str, one: str, other: str) -> Comparison | None:
    tables = make_fold_tables(results.select(method, one), results.select(method, other), DICE)
    if not tables:
        return None
    contrast, key = estimate_crossed(average_seeds(tables)), f"{method}: {one} - {other}"
    return Comparison(key, "", EXPLORATORY, contrast, float("nan"), tuple(tables), within_models=True)


def _judge_paraphrase(comparison: Comparison, effect: Comparison | None, margin: float, homes: str) -> Verdict:
    """Judge held-out wording against what text does at all: `effect` is right minus wrong text, else the help."""
    values = comparison.patient_values
    p = find_equivalence(values, margin)
    contrast = comparison.contrast
    told = f"{_tell(contrast)}, given these trained models; equivalence within {margin:g}: p {show_p(p)}"
    sentences = [f"Right minus held-out wording: {told}."]
    outcome = Outcome.NEGLIGIBLE if p < ALPHA else judge(contrast, margin)
    headline = "Held-out wording is not shown equivalent."
    if effect and abs(effect.contrast.mean) < margin:
        outcome, headline = Outcome.UNDECIDED, "Uninformative here: the text effect is below the margin."
        is_ = f"{effect.key}, is {show_change(effect.contrast.mean)} Dice"
        sentences.append(f"The text effect, {is_}: wordings that do nothing are equivalent whatever they mean.")
    elif outcome is Outcome.NEGLIGIBLE:
        headline = "Held-out wording of the same text is equivalent."
    if effect is None:
        sentences.append(
            f"Without wrong text or {REFERENCE} the text effect is not known; below the margin this would be "
            "uninformative."
        )
    sentences.append(
        f"Held-out sentences that the text encoder puts nearest to their class: {homes}; of others this measures the "
        "encoder."
        if homes
        else "Where the text encoder does not put wordings of a class together, this measures the encoder."
    )
    return Verdict(PARAPHRASE, "Is it the meaning or the wording?", outcome, headline, tuple(sentences))


def _tell(contrast: Contrast, with_p: bool = True) -> str:
    p = f"p {show_p(contrast.p)}, " if with_p else ""
    return (
        f"{show_change(contrast.mean)} Dice, 95 % interval {show_interval(contrast.low, contrast.high)}, "
        f"{p}{tell_patients(contrast)}"
    )


def tell_patients(contrast: Contrast) -> str:
    """Return over how many patients a difference is, and that there is no test where they are too few for one."""
    if contrast.num_patients == 1:
        return "one patient: no test"
    number = f"{contrast.num_patients} patients"
    if not math.isnan(contrast.low):
        return number
    return f"{number}, in a test fold fewer than {FEWEST_PATIENTS}: no test"


def _limit(contrast: Contrast) -> tuple[str, ...]:
    """Return what the number of training runs forbids to claim."""
    if contrast.num_seeds == 1:
        return ("One training run a fold: this holds for this trained model only, not for the method.",)
    if contrast.num_seeds < CLAIM_SEEDS:
        return (
            f"{contrast.num_seeds} training runs a fold; a claim about the method wants at least {CLAIM_SEEDS}, "
            "so read this as for these trained models.",
        )
    return ()
