"""The verdicts in plain language, computed from the numbers: help, reliance, language beyond the label, wording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from t2m_bench.recipe.arms import (
    ARMS,
    DEFAULT_ARM,
    IN_LOSS_ARM,
    INPUT_ONLY_ARM,
    LABEL_ARM,
    ONE_LEVEL_REFERENCE,
    PROMPT_ARM,
    PROMPT_REFERENCE,
    STRONG_ARM,
    STRONG_REFERENCE,
)
from t2m_bench.recipe.conditions import WRONG
from t2m_bench.reporting.arms import REFERENCE
from t2m_bench.reporting.comparisons import (
    FAMILY,
    Comparison,
    find_comparison,
    key_reliance,
    list_wrong_texts,
    name_wrong_text,
)
from t2m_bench.reporting.completeness import find_asked_method
from t2m_bench.reporting.evidence import tell_evidence, tell_patients
from t2m_bench.reporting.headline import tell_untrained
from t2m_bench.reporting.image_audit import mark_flagged
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import show_interval, show_p
from t2m_bench.reporting.verdict import Verdict, tell_difference
from t2m_bench.reporting.wording import judge_wording
from t2m_bench.statistics.crossed import CLAIM_SEEDS, Contrast
from t2m_bench.statistics.decision import EQUIVALENCE_LEVEL, Decision, Outcome, Reason, Size, miss, withhold

STAND_IN = "stand-in"
"""The text encoder that is no language model."""

LEAKAGE_MARK = "(Leakage was allowed: not from honest test figures.)"


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
    if help_:
        others = [*_list_controls(comparisons, results), *_list_others(comparisons, help_, results.margin)]
        verdicts = [_judge_help(results, help_, method, others)]
    else:
        verdicts = [_miss_primary(results, method)]
    of_help = verdicts[0].outcome if help_ else None
    reliances = _list_reliances(results, comparisons, method)
    verdicts += [_judge_reliance(found, of_help, results.margin) for found in reliances]
    language = find_comparison(comparisons, f"{method} - {LABEL_ARM}")
    if language:
        verdicts.append(_judge_language(language, results))
    wording = judge_wording(results, method)
    if wording:
        verdicts.append(wording)
    return verdicts


def _miss_primary(results: Results, method: str) -> Verdict:
    """Say why the primary contrast has no figures."""
    why = f"The primary contrast is {method} - {REFERENCE}, "
    absent = [arm for arm in (method, REFERENCE) if arm not in results.arms]
    if absent:
        reason = Reason.NO_RESULTS
        headline, why = f"Not known yet: {absent[0]} has no results.", f"{why}and no run of {absent[0]} has finished."
    else:
        reason = Reason.NO_SHARED_REPEATS
        headline = f"Not known: {method} and {REFERENCE} share no training repeat."
        why += "which compares runs of the same fold and seed: " + "; ".join(
            f"{arm} has {_name_runs(results, arm)}" for arm in (method, REFERENCE)
        )
        why += ". Train the missing runs."
    decision = miss(reason, results.margin)
    return Verdict("help", HELP_QUESTION, decision.outcome, headline, (why,), decision)


def _name_runs(results: Results, arm: str) -> str:
    runs = results.select_main(arm)[["fold", "seed"]].drop_duplicates().sort_values(["fold", "seed"])
    return ", ".join(f"fold {fold} seed {seed}" for fold, seed in runs.itertuples(index=False))


HELP_QUESTION = "Does the text help?"


def _list_controls(comparisons: Sequence[Comparison], results: Results) -> list[str]:
    """Return what the controls beside the primary contrast say, or that one was not trained."""
    said = []
    for key, what in _CONTROLS.items():
        control = find_comparison(comparisons, key)
        if control:
            said.append(f"{what} ({control.key}): {tell_difference(control.contrast, with_p=False)}.")
    if LABEL_ARM not in results.arms:
        said.append(f"No arm {LABEL_ARM} has results: what sentences add to the bare category is not known.")
    return said


_CONTROLS = {
    f"{STRONG_ARM} - {STRONG_REFERENCE}": "On the strong base, adapter and mask decoder trained together",
    f"{PROMPT_ARM} - {PROMPT_REFERENCE}": "Text as tokens beside the box, the image embedding left as it is",
    f"{PROMPT_ARM} - {DEFAULT_ARM}": "Text beside the box in place of text in the image embedding",
    f"{INPUT_ONLY_ARM} - {REFERENCE}": "Text at the input alone, trained without the contrastive loss",
    f"{IN_LOSS_ARM} - {REFERENCE}": "Text in the training loss alone, none at the input",
}


def _list_others(comparisons: Sequence[Comparison], help_: Comparison, margin: float) -> list[str]:
    """Return a sentence for each other gain over text_free of the family that is one, or a loss."""
    said = []
    for item in comparisons:
        arm, _, other = item.key.partition(" - ")
        reference, _, rest = other.partition(" ")
        if item.role != FAMILY or reference not in _TEXTLESS or item is help_:
            continue
        decision = item.decide(margin)
        if decision.outcome not in _OF_OTHERS:
            continue
        whose = f"{arm}, with the box {rest.strip(' ()')}" if rest else arm
        told = f"{tell_difference(item.contrast)} (adjusted p {show_p(item.p_adjusted)})"
        found = f"{_OF_OTHERS[decision.outcome]}, {_tell_size(decision)}"
        said.append(f"{whose}: {found}, {told}; {reference} {_describe_reference(arm, reference)}.")
    return said


_TEXTLESS = (REFERENCE, ONE_LEVEL_REFERENCE)
_OF_OTHERS = {Outcome.GAIN: "a gain", Outcome.LOSS: "a loss"}


def _tell_size(decision: Decision) -> str:
    """Return how a gain or loss compares with the margin, in words that name the margin."""
    within = f"the margin of {decision.margin:g} Dice"
    return {
        Size.MORE: f"by more than {within}",
        Size.LESS: f"by less than {within}",
        Size.OPEN: f"and whether by more than {within} is open",
    }[decision.size or Size.OPEN]


def _judge_help(results: Results, comparison: Comparison, method: str, others: Sequence[str]) -> Verdict:
    contrast = comparison.contrast
    decision = comparison.decide(results.margin)
    size, within = _tell_size(decision), f"the margin of {decision.margin:g} Dice"
    headline = {
        Outcome.GAIN: f"Text-guided training gains over the same adapter trained without text, {size}",
        Outcome.LOSS: f"Text-guided training loses against the same adapter trained without text, {size}",
        Outcome.NO_DIFFERENCE: f"Text-guided training makes no difference that matters, which lies within {within}",
        Outcome.UNDECIDED: f"Undecided: {decision.reason}",
        Outcome.WITHHELD: f"Withheld: {decision.reason}",
    }[decision.outcome]
    if decision.reason is Reason.FEW_PATIENTS:
        headline = f"Not known: {tell_patients(contrast)}"
    limit = "(For this trained model only.)" if contrast.num_seeds == 1 else "(For these splits.)"
    headline = " ".join(filter(None, (f"{headline}.", limit, tell_untrained(results, method))))
    differs = f"which {_describe_reference(method)}"
    sentences = [f"{method} with its right text minus {REFERENCE}, {differs}: {tell_difference(contrast)}."]
    if decision.outcome is Outcome.NO_DIFFERENCE and not contrast.no_test:
        low, high = contrast.find_interval(EQUIVALENCE_LEVEL)
        sentences.append(f"The 90 % interval {show_interval(low, high)} lies within {within}.")
    sentences += tell_evidence(results, comparison, decision, method)
    return Verdict(
        "help", HELP_QUESTION, decision.outcome, headline, (*sentences, *_limit(contrast), *others), decision
    )


def _describe_reference(method: str, reference: str = REFERENCE) -> str:
    """Return in what a reference differs from an arm with text, text itself aside."""
    entry, same = ARMS.get(method), ARMS.find(reference)
    levels = "two levels where it has one" if entry and len(entry.levels) < len(same.levels) else "the same levels"
    loss = " and no contrastive loss" if entry is None or entry.has_text_loss else ", trained with the same loss"
    return f"has {levels}, a learned constant for the text{loss}"


@dataclass(frozen=True)
class _Reliance:
    """The cost of wrong text, of one field or of all together.

    Attributes:
        what: the field, or "the text". costs: kind of wrong text -> its comparison, the one that leads first.
    """

    method: str
    what: str
    costs: Mapping[str, Comparison]


def _list_reliances(results: Results, comparisons: Sequence[Comparison], method: str) -> list[_Reliance]:
    """Return the costs of wrong text by field; plausible text leads where it was asked."""
    costs: dict[str, dict[str, Comparison]] = {}
    for condition, field in list_wrong_texts(results):
        found = find_comparison(comparisons, key_reliance(method, condition))
        if found:
            costs.setdefault(field or "the text", {})[_name_cost(condition)] = found
    return [_Reliance(method, what, of_field) for what, of_field in costs.items()]


def _name_cost(condition: str) -> str:
    return name_wrong_text(condition) + (" (the published map)" if condition.partition(":")[0] == WRONG else "")


def _judge_reliance(reliance: _Reliance, help_: Outcome | None, margin: float) -> Verdict:
    what, (kind, comparison) = reliance.what, next(iter(reliance.costs.items()))
    decision = comparison.decide(margin)
    headline = {
        Outcome.GAIN: f"The model relies on {what}: {kind} costs Dice, {_tell_size(decision)}.",
        Outcome.LOSS: f"{kind.capitalize()} does better than right text ({what}), {_tell_size(decision)}.",
        Outcome.NO_DIFFERENCE: f"The model hardly looks at {what}: {kind} costs nothing that matters.",
        Outcome.UNDECIDED: f"Undecided whether the model relies on {what}: {decision.reason}.",
        Outcome.WITHHELD: f"Withheld whether the model relies on {what}: {decision.reason}.",
    }[decision.outcome]
    sentences = []
    for name, cost in reliance.costs.items():
        told = f"{tell_difference(cost.contrast)} (adjusted p {show_p(cost.p_adjusted)}), given these trained models"
        sentences.append(f"{reliance.method}, right minus {name}: {told}.")
    if decision.outcome is Outcome.GAIN and help_ not in {None, Outcome.GAIN}:
        sentences.append(
            "Reliance without help: the model depends on the text without a shown benefit from it, a liability "
            "wherever a text can be wrong."
        )
    sentences.append("Depending on the text is not the same as gaining from it.")
    question = f"Does the model rely on {what}?"
    return Verdict("reliance", question, decision.outcome, headline, tuple(sentences), decision)


def _judge_language(comparison: Comparison, results: Results) -> Verdict:
    decision = comparison.decide(results.margin)
    if results.experiment["models"]["text_encoder"] == STAND_IN:
        decision = withhold(decision, Reason.NO_LANGUAGE_MODEL)
    size = _tell_size(decision)
    headline = {
        Outcome.GAIN: f"Sentences gain over the bare category, {size}.",
        Outcome.LOSS: f"Sentences lose against the bare category, {size}.",
        Outcome.NO_DIFFERENCE: "Sentences add nothing that matters to the bare category.",
        Outcome.UNDECIDED: f"Undecided whether sentences add anything to the bare category: {decision.reason}.",
        Outcome.WITHHELD: f"Withheld: {decision.reason}.",
    }[decision.outcome]
    if comparison.contrast.num_seeds == 1:
        headline = f"{headline} (For these trained models only.)"
    told = tell_difference(comparison.contrast)
    said = f"{comparison.key}, one learned vector a class in place of a language model: {told}"
    sentences = (f"{said} (adjusted p {show_p(comparison.p_adjusted)}).", *_limit(comparison.contrast))
    return Verdict("language", "Does language help beyond the label?", decision.outcome, headline, sentences, decision)


def _limit(contrast: Contrast) -> tuple[str, ...]:
    """Return what the number of training runs forbids to claim."""
    if contrast.num_seeds == 1:
        return ("One training run a fold: this holds for this trained model only, not for the method.",)
    if contrast.num_seeds >= CLAIM_SEEDS:
        return ()
    if contrast.num_folds == 1:
        return (
            f"{contrast.num_seeds} training runs of one fold: the interval takes runs as random, and with so few it "
            f"misses the truth more often than it says; train at least {CLAIM_SEEDS}.",
        )
    return (
        f"{contrast.num_seeds} training runs a fold: the interval takes runs as random, over all "
        f"{contrast.num_folds} folds together; a claim about the method should rest on at least {CLAIM_SEEDS}.",
    )
