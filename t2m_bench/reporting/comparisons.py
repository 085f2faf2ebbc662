"""Selects the differences to test: one primary contrast, two families of further tests, the rest as intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.conditions import OTHER_PATIENT, PLAUSIBLE, RIGHT, WRONG
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import (
    BASELINE,
    FLOORS,
    REFERENCE,
    TEXT_CONDITION,
    TEXTLESS_CONDITION,
    is_trained,
)
from t2m_bench.reporting.completeness import find_asked_method, list_asked_arms
from t2m_bench.reporting.results import TIGHT, Results
from t2m_bench.statistics.crossed import (
    LEVEL,
    Contrast,
    FoldTable,
    average_seeds,
    count_unpaired_runs,
    estimate_crossed,
    estimate_given_models,
    make_fold_tables,
)
from t2m_bench.statistics.decision import Decision, decide
from t2m_bench.statistics.tests import adjust_claims

PRIMARY, FAMILY, EXPLORATORY = "primary", "Holm family", "interval only"

DECISION_SEED = 0
"""Seed of the sign flips behind a decision, so that a report can be made again to the digit."""


@dataclass(frozen=True)
class Comparison:
    """One mean difference over patients.

    Attributes:
        key: a short name, unique in a report. question: what it answers, for a table.
        role: PRIMARY (unadjusted), FAMILY (adjusted) or EXPLORATORY.
        p_adjusted: Holm's for the family, the plain p of the primary, NaN else.
        tables: patients x seeds, a fold each.
        within_models: True for two answers of the same trained models: the patient is the unit, and tables have one
            column, the mean over seeds. Such differences are a family of their own.
        is_trained: whether one of the two was, so that training runs were counted.
        equivalence_p: of the test that the difference is within the margin, adjusted as p_adjusted is.
        family_size: members of its family, awaited ones among them; 1 outside a family.
        num_unpaired: training runs left out, because the other side has none of that fold and seed.
    """

    key: str
    question: str
    role: str
    contrast: Contrast
    p_adjusted: float
    tables: tuple[FoldTable, ...]
    within_models: bool
    is_trained: bool = True
    equivalence_p: float = float("nan")
    family_size: int = 1
    num_unpaired: int = 0

    @property
    def simultaneous_interval(self) -> tuple[float, float]:
        """The interval at 1 - 5 % / members: those of a family hold together in 95 % of suites (Bonferroni)."""
        return self.contrast.find_interval(1 - (1 - LEVEL) / self.family_size)

    def decide(self, margin: float) -> Decision:
        """Return what it allows to claim: a member of a family after adjustment, all others by their own intervals."""
        adjusted = (self.p_adjusted, self.equivalence_p) if self.role == FAMILY else (None, None)
        return decide(self.contrast, self.tables, margin, np.random.default_rng(DECISION_SEED), *adjusted)

    @property
    def patient_values(self) -> NDArray[np.float64]:
        """One difference a patient, seeds averaged."""
        return np.concatenate([table.mean(axis=1) for table in self.tables])


@dataclass(frozen=True)
class _Wanted:
    key: str
    question: str
    role: str
    one: tuple[str, str, str]
    other: tuple[str, str, str]


def compare_arms(results: Results, one: str, other: str, box: str = TIGHT, measure: str = DICE) -> Contrast | None:
    """Return what one arm gains over another, each as it is meant to be used; None where they share no case."""
    tables = make_fold_tables(results.select_main(one, box), results.select_main(other, box), measure)
    return estimate_crossed(tables) if tables else None


def compare_conditions(results: Results, arm: str, one: str, other: str, box: str = TIGHT) -> Contrast | None:
    """Return what an arm's Dice gains from one condition over another, given these trained models."""
    tables = make_fold_tables(results.select(arm, one, box), results.select(arm, other, box), DICE)
    return estimate_given_models(tables) if tables else None


def find_best_floor(results: Results) -> str | None:
    """Return the image-free floor of the highest mean Dice."""
    means = {
        arm: results.select_main(arm).groupby("patient")[DICE].mean().mean() for arm in FLOORS if arm in results.arms
    }
    return max(means, key=lambda arm: means[arm]) if means else None


def find_loose_box(results: Results) -> str | None:
    """Return the least enlarged box condition."""
    boxes = [box for box in set(results.table["box"]) if box.startswith("loose_")]
    return min(boxes, key=lambda box: int(box.removeprefix("loose_"))) if boxes else None


def make_comparisons(results: Results) -> list[Comparison]:
    """Return every comparison that the results allow, the primary first.

    Differences between arms and differences within trained models are two families: the first are about the method, the
    second about the models at hand. Members of a family whose arms were asked and have no results yet count in the
    adjustment all the same, so that a half-finished suite does not call sure what the whole one would not.
    """
    found = []
    num_awaited = {True: 0, False: 0}
    for wanted in _list_wanted(results):
        within = wanted.one[0] == wanted.other[0]
        comparison = _compare(results, wanted, within)
        if comparison:
            found.append(comparison)
        else:
            num_awaited[within] += wanted.role == FAMILY and _is_awaited(results, wanted)
    return _adjust(found, results.margin, num_awaited)


def _compare(results: Results, wanted: _Wanted, within: bool) -> Comparison | None:
    one, other = results.select(*wanted.one), results.select(*wanted.other)
    tables = make_fold_tables(one, other, DICE)
    if not tables:
        return None
    contrast = estimate_given_models(tables) if within else estimate_crossed(tables)
    return Comparison(
        wanted.key, wanted.question, wanted.role, contrast,
        contrast.p if wanted.role == PRIMARY else float("nan"),
        tuple(average_seeds(tables) if within else tables), within,
        is_trained(wanted.one[0]) or is_trained(wanted.other[0]),
        num_unpaired=count_unpaired_runs(one, other),
    )  # fmt: skip


def _adjust(found: Sequence[Comparison], margin: float, num_awaited: Mapping[bool, int]) -> list[Comparison]:
    """Return the comparisons with the p of each family adjusted."""
    adjusted = {item.key: item for item in found}
    for within, awaited in num_awaited.items():
        family = [item for item in found if item.role == FAMILY and item.within_models == within]
        differences = [item.contrast.p for item in family]
        equivalences = [item.contrast.find_equivalence_p(margin) for item in family]
        size = len(family) + awaited
        for item, *of_item in zip(family, *adjust_claims(differences, equivalences, awaited), strict=True):
            adjusted[item.key] = replace(item, p_adjusted=of_item[0], equivalence_p=of_item[1], family_size=size)
    return list(adjusted.values())


def _is_awaited(results: Results, wanted: _Wanted) -> bool:
    arms = {wanted.one[0], wanted.other[0]}
    return bool(arms - set(results.arms)) and arms <= {*list_asked_arms(results), *results.arms}


def find_comparison(comparisons: Sequence[Comparison], key: str) -> Comparison | None:
    """Return the comparison of that key."""
    return next((comparison for comparison in comparisons if comparison.key == key), None)


def find_p(comparisons: Sequence[Comparison], key: str) -> float:
    """Return the p that a table may show: the primary contrast's own, Holm's in the family, NaN for all else."""
    found = find_comparison(comparisons, key)
    return found.p_adjusted if found else float("nan")


def _list_wanted(results: Results) -> list[_Wanted]:
    """Return what would be compared in a whole suite; the two method arms stand for one where the other is absent."""

    def arms(one: str, other: str, question: str, role: str = EXPLORATORY, box: str = TIGHT) -> _Wanted:
        key = f"{one} - {other}" + ("" if box == TIGHT else f" ({box})")
        return _Wanted(key, question, role, _main(results, one, box), _main(results, other, box))

    method, floor, loose = find_asked_method(results), find_best_floor(results), find_loose_box(results)
    wanted = []
    if method:
        family, alone = _list_contrasts(method, in_family=True), _list_contrasts(method, in_family=False)
        wanted += [
            arms(method, REFERENCE, "does the text help?", PRIMARY),
            *(arms(*named, FAMILY) for named in family),
            *_list_reliance(results, method),
        ]
        if loose:
            wanted.append(arms(method, REFERENCE, "does the text help with a loose box?", FAMILY, loose))
        wanted += [arms(*named) for named in alone]
    if floor:
        wanted.append(arms(BASELINE, floor, "does the frozen model beat shapes drawn in the box?"))
    wanted += [
        arms(REFERENCE, BASELINE, "what is adapting to the data set worth, without text?"),
        *(arms(entry.name, REFERENCE, entry.question) for entry in ARMS if entry.question),
    ]
    # whoever has no question of its own is compared all the same: a recipe's arms, and those of other packages
    asked = {item.one[0] for item in wanted} | {REFERENCE}
    others = [arm for arm in results.arms if is_trained(arm) and arm not in asked]
    wanted += [arms(arm, REFERENCE, "does this arm gain over text_free?") for arm in others]
    return list({item.key: item for item in reversed(wanted)}.values())[::-1]


def _list_contrasts(method: str, in_family: bool) -> list[tuple[str, str, str]]:
    """Return (one arm, other arm, question) as the table of arms has them, those against the method's arm last."""
    asked = [(entry.name, item) for entry in ARMS for item in entry.contrasts if item.in_family == in_family]
    named = [(arm, item.other, item.question) for arm, item in asked if item.other]
    against_method = [(method, arm, item.question) for arm, item in asked if not item.other]
    primary = (method, REFERENCE)  # not in the family besides
    return [found for found in (*named, *against_method) if found[:2] != primary]


def list_wrong_texts(results: Results) -> list[tuple[str, str]]:
    """Return (condition, text field) of wrong texts, plausible ones first.

    Of several fields those of each alone; "" is the field of a condition of all of them.
    """
    if results.is_free_text:
        return [(results.wrong_condition, "")]
    found = []
    for kind in (PLAUSIBLE, WRONG):
        by_field = [(f"{kind}:{field}", field) for field in results.fields if f"{kind}:{field}" in results.conditions]
        if by_field or kind == WRONG or kind in results.conditions:
            found += by_field or [(kind, "")]
    return found


def name_wrong_text(condition: str) -> str:
    """Return what a wrong text is called."""
    names = {PLAUSIBLE: "plausible wrong text", WRONG: "extreme wrong text", OTHER_PATIENT: "another patient's text"}
    return names[condition.partition(":")[0]]


def _list_reliance(results: Results, method: str) -> list[_Wanted]:
    return [
        _Wanted(
            key_reliance(method, condition),
            f"does it rely on {field or 'the text'}? ({name_wrong_text(condition)})",
            FAMILY,
            (method, RIGHT, TIGHT),
            (method, condition, TIGHT),
        )
        for condition, field in list_wrong_texts(results)
    ]


def key_reliance(method: str, condition: str) -> str:
    """Return the key of the comparison of right text with a wrong one."""
    return f"{method}: {RIGHT} - {condition}"


def _main(results: Results, arm: str, box: str) -> tuple[str, str, str]:
    return arm, TEXT_CONDITION if results.reads_text(arm) else TEXTLESS_CONDITION, box
