"""The table of conditions: which text a trained arm is asked with, how it is drawn, and what reports call it."""

import re
from dataclasses import dataclass

from t2m_bench.recipe.registry import Registry

RIGHT = "right"
"""The condition that all others are compared with: the case's own text."""

WRONG = "wrong"
"""The condition behind every cost of extreme wrong text: the published map of classes."""

PLAUSIBLE = "plausible"
"""The condition behind every cost of plausible wrong text: a class that the own one is taken for."""

NO_TEXT = "none"
"""The condition in results of an arm that reads no text; not an entry, since there is nothing to draw."""

PARAPHRASE = "paraphrase"
"""The condition behind the verdict on wording; in results PARAPHRASE:NUMBER, or the name alone of a single sentence."""

OTHER_PATIENT = "other_patient"
"""The condition behind reliance on free text, which has no published wrong text."""

SWAP = "swap"
"""The condition behind the swap matrix; in results each is SWAP:FIELD=CLASS."""

UNKNOWN = "unknown"
"""The class of a text field that the source does not give, and the condition that says so of every field."""

PREDICTED = "predicted"
"""The condition that gives the class a probe predicts; probe.json keeps these classes under the same name."""


@dataclass(frozen=True)
class ConditionEntry:
    """One way of giving a test case a text.

    Attributes:
        name: as `bench.conditions` has it.
        draw: "module:function" from an `evaluation.conditions.Asked` to the texts given, `evaluation.conditions.Drawn`.
        draw_free: the same where each case has a text of its own and a class; without it a condition that needs classes
            is absent there.
        pattern: regular expression of the condition's names in results; the name alone where it is empty. Names are
            `name`, or `name:` and a part, which begins with the text field where `field_label` is set.
        label: what the table of other texts calls it; empty where it has no row there.
        free_label: the same of free texts, where it differs.
        row: name of a row that averages over all of its names; where it is empty each name has a row.
        fields_label, field_label: labels where a data set has several text fields: of the row of all fields together
            ({fields}), which is left out where it is empty, and of a row of each field alone ({field}). Without
            `field_label` several fields change nothing.
        all_boxes: whether it is asked with every box, not with the tight one alone.
        in_full: whether distances are measured of its answers, not overlap alone. Names of one field alone are asked
            with the tight box and measured in brief all the same.
        needs_sentences: whether it means nothing to an arm that is given classes.
        needs_classes: whether it names a class, so that it is absent where texts are free and have none.
        gives_unknown: whether its text says that the class is unknown.
        uses_probe: whether its text names the class that the redundancy probe predicts.
    """

    name: str
    draw: str
    label: str = ""
    free_label: str = ""
    row: str = ""
    pattern: str = ""
    fields_label: str = ""
    field_label: str = ""
    all_boxes: bool = False
    in_full: bool = False
    needs_sentences: bool = False
    needs_classes: bool = False
    draw_free: str = ""
    gives_unknown: bool = False
    uses_probe: bool = False

    @property
    def form(self) -> str:
        """Regular expression of the names that it may have in results."""
        return self.pattern or re.escape(self.name)

    def covers(self, condition: str) -> bool:
        """Return whether a name in results is one of this condition's."""
        return re.fullmatch(self.form, condition) is not None

    def is_of_one_field(self, condition: str) -> bool:
        """Return whether one of its names is about one text field alone."""
        return bool(self.field_label) and condition != self.name


_DRAWS = "t2m_bench.evaluation.conditions:"

CONDITIONS: Registry[ConditionEntry] = Registry(
    "condition",
    "t2m_bench.conditions",
    (
        ConditionEntry(name=RIGHT, draw=f"{_DRAWS}draw_right", all_boxes=True, in_full=True),
        ConditionEntry(
            name=PLAUSIBLE,
            draw=f"{_DRAWS}draw_plausible",
            pattern=r"plausible(:\w+)?",
            label="plausible wrong text (neighbouring class)",
            fields_label="plausible wrong {fields}",
            field_label="plausible wrong {field} alone",
            needs_classes=True,
        ),
        ConditionEntry(
            name=WRONG,
            draw=f"{_DRAWS}draw_wrong",
            pattern=r"wrong(:\w+)?",
            label="extreme wrong text (published map)",
            fields_label="extreme wrong {fields} (published map)",
            field_label="extreme wrong {field} alone",
            all_boxes=True,
            in_full=True,
            needs_classes=True,
        ),
        ConditionEntry(
            name=SWAP,
            draw=f"{_DRAWS}draw_swaps",
            draw_free=f"{_DRAWS}draw_free_swaps",
            pattern=rf"{SWAP}:\w+=.+",
            label="any other class, uniformly",
            field_label="any other {field}, uniformly",
            row="other",
            needs_classes=True,
        ),
        ConditionEntry(
            name=OTHER_PATIENT,
            draw=f"{_DRAWS}draw_donor",
            label="another patient's text, of another class",
            free_label="another patient's text",
        ),
        ConditionEntry(
            name=PARAPHRASE,
            draw=f"{_DRAWS}draw_paraphrase",
            pattern=rf"{PARAPHRASE}(:\d+)?",
            label="held-out wordings of the right text",
            row=PARAPHRASE,
            needs_sentences=True,
        ),
        ConditionEntry(name=UNKNOWN, draw=f"{_DRAWS}draw_unknown", label="text says unknown", gives_unknown=True),
        ConditionEntry(
            name="random", draw=f"{_DRAWS}draw_random", label="random vector of equal norm", needs_sentences=True
        ),
        ConditionEntry(
            name=PREDICTED,
            draw=f"{_DRAWS}draw_predicted",
            draw_free=f"{_DRAWS}draw_free_predicted",
            label="class that the image predicts (probe)",
            needs_classes=True,
            uses_probe=True,
        ),
    ),
    reserved=(NO_TEXT,),
)

DEFAULT_CONDITIONS = (RIGHT, WRONG, PLAUSIBLE, SWAP, OTHER_PATIENT, PARAPHRASE, UNKNOWN, "random", PREDICTED)
"""Conditions of a recipe that names none; those of other packages are used where a recipe names them."""


def find_condition(condition: str) -> ConditionEntry | None:
    """Return the entry of a name in results; None where no installed package has it."""
    for name in (condition, condition.partition(":")[0]):  # nearly all names, without importing other packages
        entry = CONDITIONS.get(name)
        if entry is not None and entry.covers(condition):
            return entry
    return next((entry for entry in CONDITIONS if entry.covers(condition)), None)


def is_condition_in_full(condition: str) -> bool:
    """Return whether distances are measured of a condition's answers, not overlap alone."""
    entry = find_condition(condition)
    return entry is not None and entry.in_full and not entry.is_of_one_field(condition)
