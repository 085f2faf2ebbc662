"""The questions that a trained arm is asked: which text and which box each test case is given."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from t2m_bench.data.case import Case
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.errors import RecipeError
from t2m_bench.evaluation.donors import Donors, list_values
from t2m_bench.evaluation.free_donors import FreeDonors
from t2m_bench.recipe.conditions import (
    CONDITIONS,
    NO_TEXT,
    OTHER_PATIENT,
    PARAPHRASE,
    PLAUSIBLE,
    PREDICTED,
    RIGHT,
    UNKNOWN,
    ConditionEntry,
)
from t2m_bench.recipe.registry import load_object
from t2m_bench.recipe.schema import TIGHT

DRAW_SEED = 10
"""Seed of other patients' texts and random vectors.

It is independent of training seeds, so that all arms and seeds get the same questions.
"""

PLAUSIBLE_DRAWS = 1
"""Number of the stream that draws among neighbouring classes, apart from that of donors and random vectors."""

Values = Mapping[str, str]
Rows = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """One case under one condition and box.

    Attributes:
        given: the field values of the text given; None where none is, or none that a class has.
        prompt: rows of the question set's vectors whose mean is given as text; None for an arm that reads none.
    """

    case: Case
    condition: str
    box: str = TIGHT
    given: Values | None = None
    prompt: Rows | None = None

    @property
    def key(self) -> tuple[str, Rows | None, str]:
        """Key of the answer: questions with the same key are decoded once."""
        return self.case.case_id, self.prompt, self.box

    @property
    def is_main(self) -> bool:
        """Return whether an evaluation without counterfactuals would include it."""
        return self.condition in (NO_TEXT, RIGHT) and self.box == TIGHT


@dataclass(frozen=True)
class QuestionSet:
    """Questions, and the vectors (V, E) that their prompts point into."""

    questions: tuple[Question, ...]
    vectors: Tensor


@dataclass(frozen=True)
class EvaluationSpec:
    """Inputs of the questions besides the arm, equal for all arms and seeds of a fold.

    Attributes:
        wrong: field -> class -> the published wrong class. plausible: field -> class -> those that it is taken for;
            empty of a field without an order. classes: field -> classes without "unknown".
        predicted: case_id -> field -> the class that a probe fitted on other cases predicts.
        places: case_id -> place in the data set, which seeds the case's draws.
    """

    conditions: tuple[str, ...]
    boxes: tuple[str, ...]
    wrong: Mapping[str, Mapping[str, str]]
    classes: Mapping[str, tuple[str, ...]]
    predicted: Mapping[str, Values]
    places: Mapping[str, int]
    plausible: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


def ask_without_text(cases: Sequence[Case], boxes: Sequence[str] = (TIGHT,), text_width: int = 1) -> QuestionSet:
    """Return the questions to an arm that reads no text, or to none at all; zeros (E,) stand for its text."""
    return QuestionSet(
        tuple(Question(case, NO_TEXT, box) for case in cases for box in boxes), torch.zeros(1, text_width)
    )


def ask_right(cases: Sequence[Case], texts: TextTable) -> QuestionSet:
    """Return one question a case, with its own text: what validation asks."""
    asked = (
        Question(case, RIGHT, TIGHT, texts.fields_of[case.case_id], texts.pick(texts.fields_of[case.case_id]))
        for case in cases
    )
    return QuestionSet(tuple(asked), texts.embeddings)


def build_questions(cases: Sequence[Case], texts: TextTable, asking: EvaluationSpec) -> QuestionSet:
    """Return every question to an arm that reads text.

    A text table without held-out sentences is one of labels: it has no paraphrases, and a random vector is none of its.
    Where no field has classes, conditions that name one are absent. Where each case has a text of its own, another
    class's text is that of another patient.

    Raises:
        RecipeError: a condition draws a text under a name that is not one of its own.
    """
    questions: list[Question] = []
    vectors: list[Tensor] = []
    donors = _Donating(cases, texts, asking)
    entries = [
        (entry, draw) for entry in map(CONDITIONS.find, asking.conditions) if (draw := _find_draw(entry, texts, asking))
    ]
    for case in cases:
        rng = np.random.default_rng([DRAW_SEED, asking.places[case.case_id]])
        noise = rng.standard_normal(texts.embeddings.shape[1])
        asked = Asked(case, asking, texts, donors.draw(case, rng), noise, donors.draw_of_classes(case))
        for entry, draw in entries:
            for drawn in load_object(draw)(asked):
                if not entry.covers(drawn.condition):
                    raise RecipeError(
                        f"the condition {entry.name} ({draw}) gives a text under the name {drawn.condition}, "
                        f"which its pattern {entry.form} does not allow; results could not be written"
                    )
                prompt = drawn.prompt
                if drawn.vector is not None:
                    vectors.append(drawn.vector)
                    prompt = (len(texts.embeddings) + len(vectors) - 1,)
                has_all = entry.all_boxes and not entry.is_of_one_field(drawn.condition)
                boxes = asking.boxes if has_all else (TIGHT,)
                questions += [Question(case, drawn.condition, box, drawn.given, prompt) for box in boxes]
    return QuestionSet(tuple(questions), torch.cat([texts.embeddings, *(row[None] for row in vectors)]))


def _find_draw(entry: ConditionEntry, texts: TextTable, asking: EvaluationSpec) -> str:
    """Return the draw of a condition, "module:function"; empty where it means nothing to these texts."""
    if entry.needs_sentences and not texts.has_sentences:
        return ""
    if not entry.needs_classes:
        return entry.draw
    if not any(asking.classes.values()):
        return ""
    return entry.draw if texts.free is None else entry.draw_free


class _Donating:
    """Draws the texts of other patients, be they sentences of a class or each patient's own."""

    def __init__(self, cases: Sequence[Case], texts: TextTable, asking: EvaluationSpec) -> None:
        self._by_class = Donors(cases, tuple(asking.wrong)) if texts.free is None else None
        self._free = FreeDonors(cases, texts.free) if texts.free is not None else None
        self._asking = asking

    def draw(self, case: Case, rng: np.random.Generator) -> Case | None:
        """Return a case whose text is given in place of this one's; None where there is none."""
        if self._by_class is not None:
            return self._by_class.draw(case, rng)
        # a stream of its own: noise for `label` is of another width, and all arms are given the same texts
        return self._free.draw(case, self._start(case, 1)) if self._free is not None else None

    def draw_of_classes(self, case: Case) -> dict[str, Case]:
        """Return class -> a case of another patient with it, where each case has a text of its own."""
        if self._free is None:
            return {}
        rng = self._start(case, 2)
        names = [name for of_field in self._asking.classes.values() for name in of_field]
        found = {name: self._free.draw_of(case, name, rng) for name in names}
        return {name: donor for name, donor in found.items() if donor is not None}

    def _start(self, case: Case, stream: int) -> np.random.Generator:
        return np.random.default_rng([DRAW_SEED, self._asking.places[case.case_id], stream])


@dataclass(frozen=True)
class Asked:
    """Texts from which one case's text may be drawn.

    Attributes:
        donor: a case of another patient with another class, known in every field; None where there is none.
        noise: (E,), drawn for this case.
        of_class: class -> a case of another patient with it, where each case has a text of its own.
    """

    case: Case
    asking: EvaluationSpec
    texts: TextTable
    donor: Case | None
    noise: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    of_class: Mapping[str, Case] = field(default_factory=dict)

    @property
    def known(self) -> list[str]:
        """The fields whose class is known: an unknown one has no wrong or other class."""
        return [name for name in self.asking.wrong if self.case.text_fields[name] != UNKNOWN]

    @property
    def is_known(self) -> bool:
        """Return whether the class of every field is known."""
        return len(self.known) == len(self.asking.wrong)

    def give(self, condition: str, given: Values) -> "Drawn":
        """Return a condition that gives the training sentences of some values."""
        return Drawn(condition, given, self.texts.pick(given))


@dataclass(frozen=True)
class Drawn:
    """One text that a case is given.

    Attributes:
        condition: its name in results. given: the values that it stands for; None where it stands for none.
        prompt: rows of the prompt bank; vector: (E,), in place of any of its rows.
    """

    condition: str
    given: Values | None
    prompt: Rows = ()
    vector: Tensor | None = None


def draw_right(asked: Asked) -> Iterator[Drawn]:
    """Give the case's own text."""
    yield asked.give("right", asked.case.text_fields)


def draw_paraphrase(asked: Asked) -> Iterator[Drawn]:
    """Give each wording of the case's own text that training never sees, numbered from 1 where there are several."""
    own, texts = asked.case.text_fields, asked.texts
    if not texts.has_held_out(own):
        return
    for wording in range(texts.num_wordings):
        name = PARAPHRASE if texts.num_wordings == 1 else f"{PARAPHRASE}:{wording + 1}"
        yield Drawn(name, own, texts.pick_held_out(own, wording))


def draw_random(asked: Asked) -> Iterator[Drawn]:
    """Give a random vector of the norm that the case's own text has."""
    own = asked.texts.embeddings[list(asked.texts.pick(asked.case.text_fields))].mean(dim=0)
    yield Drawn("random", None, vector=_scale(asked.noise, own))


def draw_unknown(asked: Asked) -> Iterator[Drawn]:
    """Say that every field is unknown."""
    yield asked.give(UNKNOWN, dict.fromkeys(asked.case.text_fields, UNKNOWN))


def draw_wrong(asked: Asked) -> Iterator[Drawn]:
    """Give the published wrong class: of all fields at once, and of each by itself where there are several."""
    own = asked.case.text_fields
    wrong = {name: asked.asking.wrong[name][own[name]] for name in asked.known}
    if asked.is_known:
        yield asked.give("wrong", {**own, **wrong})
    if len(asked.asking.wrong) > 1:
        yield from (asked.give(f"wrong:{name}", {**own, name: value}) for name, value in wrong.items())


def draw_plausible(asked: Asked) -> Iterator[Drawn]:
    """Give a class that the own one is taken for, drawn of several: of all fields at once, and of each by itself."""
    own, asking = asked.case.text_fields, asked.asking
    rng = np.random.default_rng([DRAW_SEED, asking.places[asked.case.case_id], PLAUSIBLE_DRAWS])
    drawn = {}
    for name in asked.known:
        neighbours = asking.plausible.get(name, {}).get(own[name], ())
        if neighbours:
            drawn[name] = neighbours[int(rng.integers(len(neighbours)))]
    if len(drawn) == len(asking.wrong):
        yield asked.give(PLAUSIBLE, {**own, **drawn})
    if len(asking.wrong) > 1:
        yield from (asked.give(f"{PLAUSIBLE}:{name}", {**own, name: value}) for name, value in drawn.items())


def draw_swaps(asked: Asked) -> Iterator[Drawn]:
    """Give each other class in turn, field by field."""
    own = asked.case.text_fields
    for name in asked.known:
        others = (other for other in asked.asking.classes[name] if other != own[name])
        yield from (asked.give(f"swap:{name}={other}", {**own, name: other}) for other in others)


def draw_free_swaps(asked: Asked) -> Iterator[Drawn]:
    """Give, for each other class in turn, the text of another patient with it."""
    for name, of_field in asked.asking.classes.items():
        own = asked.case.text_fields[name]
        others = [other for other in of_field if other != own and other in asked.of_class]
        if own != UNKNOWN:
            yield from (asked.give(f"swap:{name}={other}", asked.of_class[other].text_fields) for other in others)


def draw_donor(asked: Asked) -> Iterator[Drawn]:
    """Give the text of another patient of another class."""
    if asked.donor is not None and asked.is_known:
        yield asked.give(OTHER_PATIENT, asked.donor.text_fields)


def draw_predicted(asked: Asked) -> Iterator[Drawn]:
    """Give the class that a probe predicts from box and embedding."""
    predicted = asked.asking.predicted.get(asked.case.case_id)
    if predicted is not None and asked.is_known:
        yield asked.give(PREDICTED, predicted)


def draw_free_predicted(asked: Asked) -> Iterator[Drawn]:
    """Give the text of another patient with the class that a probe predicts from box and embedding."""
    predicted = asked.asking.predicted.get(asked.case.case_id, {})
    donors = [asked.of_class[predicted[name]] for name in asked.asking.classes if predicted.get(name) in asked.of_class]
    if donors:
        yield asked.give(PREDICTED, donors[0].text_fields)


def _scale(noise: np.ndarray[tuple[int, ...], np.dtype[np.float64]], like: Tensor) -> Tensor:
    """Return the direction of the noise at the norm of another vector (E,)."""
    direction = torch.from_numpy(noise).to(like)
    scaled: Tensor = direction * (like.norm() / direction.norm())
    return scaled


def compute_same_class_share(cases: Sequence[Case], fields: Sequence[str]) -> float:
    """Return how often another patient's text would name the same class: such a donor changes nothing."""
    pairs = Counter((case.patient_id, list_values(case, fields)) for case in cases)
    classes, patients = Counter[tuple[str, ...]](), Counter[str]()
    for (patient, values), count in pairs.items():
        classes[values] += count
        patients[patient] += count
    same = sum(count * (classes[values] - count) for (_, values), count in pairs.items())
    others = sum(count * (len(cases) - count) for count in patients.values())
    return same / others if others else 0.0
