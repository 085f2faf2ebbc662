"""The questions that a trained arm is asked: which text and which box each test case is given."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2m_bench.data.case import Case
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.recipe.schema import TIGHT, Condition

DRAW_SEED = 10
"""Of other patients and random vectors; apart from training seeds, so that all arms and seeds are asked the same."""

Values = Mapping[str, str]
Rows = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """One case under one condition and box.

    Attributes:
        given: the field values of the text given; None where none is, or none that a class has.
        prompt: rows of the exam's vectors whose mean is given as text; None for an arm that reads none.
    """

    case: Case
    condition: str
    box: str = TIGHT
    given: Values | None = None
    prompt: Rows | None = None

    @property
    def key(self) -> tuple[str, Rows | None, str]:
        """What decides the answer: questions of one key are decoded once."""
        return self.case.case_id, self.prompt, self.box

    @property
    def is_main(self) -> bool:
        """Whether it is what an evaluation without counterfactuals would ask."""
        return self.condition in ("none", "right") and self.box == TIGHT


@dataclass(frozen=True)
class Exam:
    """Questions, and the vectors (V, E) that their prompts point into."""

    questions: tuple[Question, ...]
    vectors: Tensor


@dataclass(frozen=True)
class Asking:
    """What decides the questions besides the arm, equal for all arms and seeds of a fold.

    Attributes:
        wrong: field -> class -> the published wrong class. classes: field -> classes without "unknown".
        predicted: case_id -> field -> the class that a probe fitted on other cases predicts.
        places: case_id -> place in the data set, which seeds the case's draws.
    """

    conditions: tuple[Condition, ...]
    boxes: tuple[str, ...]
    wrong: Mapping[str, Mapping[str, str]]
    classes: Mapping[str, tuple[str, ...]]
    predicted: Mapping[str, Values]
    places: Mapping[str, int]


def ask_without_text(cases: Sequence[Case], boxes: Sequence[str] = (TIGHT,), text_width: int = 1) -> Exam:
    """Return the questions to an arm that reads no text, or to none at all; zeros (E,) stand for its text."""
    return Exam(tuple(Question(case, "none", box) for case in cases for box in boxes), torch.zeros(1, text_width))


def ask_right(cases: Sequence[Case], texts: TextTable) -> Exam:
    """Return one question a case, with its own text: what validation asks."""
    asked = (
        Question(case, "right", TIGHT, texts.fields_of[case.case_id], texts.pick(texts.fields_of[case.case_id]))
        for case in cases
    )
    return Exam(tuple(asked), texts.embeddings)


def ask_all(cases: Sequence[Case], texts: TextTable, asking: Asking) -> Exam:
    """Return every question to an arm that reads text.

    A text table without held-out sentences is one of labels: it has no paraphrases, and a random vector is none of its.
    """
    questions: list[Question] = []
    drawn: list[Tensor] = []
    sentences_only = () if texts.held_out else ("paraphrase", "random")
    for case in cases:
        rng = np.random.default_rng([DRAW_SEED, asking.places[case.case_id]])
        noise = rng.standard_normal(texts.embeddings.shape[1])
        donor = _draw_donor(case, cases, tuple(asking.wrong), rng)
        for condition, given in _list_given(case, asking, donor):
            if condition in sentences_only:
                continue
            prompt = texts.pick(case.text_fields if given is None else given)
            if condition == "paraphrase":
                prompt = texts.pick_held_out(case.text_fields)
            if condition == "random":
                drawn.append(_scale(noise, texts.embeddings[list(prompt)].mean(dim=0)))
                prompt = (len(texts.embeddings) + len(drawn) - 1,)
            boxes = asking.boxes if condition in ("right", "wrong") else (TIGHT,)
            questions += [Question(case, condition, box, given, prompt) for box in boxes]
    return Exam(tuple(questions), torch.cat([texts.embeddings, *(row[None] for row in drawn)]))


def _list_given(case: Case, asking: Asking, donor: Case | None) -> Iterator[tuple[str, Values | None]]:
    """Yield (condition, field values given); a class that is not known has no wrong or other one."""
    own = case.text_fields
    known = [name for name in asking.wrong if own[name] != UNKNOWN]
    is_known = len(known) == len(asking.wrong)
    predicted = asking.predicted.get(case.case_id)
    for condition in asking.conditions:
        if condition in ("right", "paraphrase"):
            yield condition, own
        elif condition == "random":
            yield condition, None
        elif condition == "unknown":
            yield condition, dict.fromkeys(own, UNKNOWN)
        elif condition == "wrong":
            wrong = {name: asking.wrong[name][own[name]] for name in known}
            if is_known:
                yield condition, {**own, **wrong}
            if len(asking.wrong) > 1:
                yield from ((f"wrong:{name}", {**own, name: value}) for name, value in wrong.items())
        elif condition == "swap":
            for name in known:
                others = (other for other in asking.classes[name] if other != own[name])
                yield from ((f"swap:{name}={other}", {**own, name: other}) for other in others)
        elif condition == "other_patient" and donor is not None and is_known:
            yield condition, donor.text_fields
        elif condition == "predicted" and predicted is not None and is_known:
            yield condition, predicted


def _draw_donor(case: Case, cases: Sequence[Case], fields: tuple[str, ...], rng: np.random.Generator) -> Case | None:
    """Draw a case of another patient with another class, known in every field."""
    own = list_values(case, fields)
    others = [
        other
        for other in cases
        if other.patient_id != case.patient_id and list_values(other, fields) != own
        if UNKNOWN not in list_values(other, fields)
    ]
    return others[int(rng.integers(len(others)))] if others else None


def list_values(case: Case, fields: Sequence[str]) -> tuple[str, ...]:
    """Return the case's values of the text fields in their order."""
    return tuple(case.text_fields[name] for name in fields)


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
