from pathlib import Path

import numpy as np
import torch

from t2m_bench.data.case import Case
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.text_table import FreeTexts, TextTable
from t2m_bench.evaluation.conditions import EvaluationSpec, build_questions
from t2m_bench.evaluation.free_donors import FreeDonors

DIRECTIONS = {"ta": [1.0, 0.0], "tb": [0.0, 1.0], "tn": [0.99, 0.141], "tc": [-1.0, 0.0]}
"""`tn` says nearly what `ta` does: cosine 0.99."""

ROW = {value: (row,) for row, value in enumerate((*DIRECTIONS, UNKNOWN))}


def make_case(number: int, patient: str, text: str, name: str = UNKNOWN) -> Case:
    values = {"text": text, "kind": name}
    return Case(f"case-{number}", patient, Path(), Path(), 9, 9, (0, 0, 2, 2), values, 1, None, (), "", "")


CASES = [
    make_case(0, "p0", "ta", "x"),
    make_case(1, "p0", "tb", "y"),  # the same patient
    make_case(2, "p1", "ta", "x"),  # the same text
    make_case(3, "p2", "tn", "x"),  # nearly
    make_case(4, "p3", "tb", "x"),
    make_case(5, "p4", "tc", "y"),
    make_case(6, "p5", UNKNOWN),
]


def make_texts(class_field: str = "", names: tuple[str, ...] = ()) -> TextTable:
    directions = {value: np.array(found) for value, found in DIRECTIONS.items()}
    fields_of = {case.case_id: case.text_fields for case in CASES}
    free = FreeTexts("text", class_field, names, directions)
    return TextTable(torch.eye(len(ROW)), {"text": ROW}, fields_of, {"text": {"ta": (1,)}}, free)


def draw_many(donors: FreeDonors, case: Case) -> set[str]:
    rng = np.random.default_rng(0)
    return {donor.case_id for _ in range(60) if (donor := donors.draw(case, rng)) is not None}


def test_donors_are_other_patients_who_say_something_else() -> None:
    texts = make_texts()
    assert texts.free is not None
    donors = FreeDonors(CASES, texts.free)
    assert draw_many(donors, CASES[0]) == {"case-4", "case-5"}
    assert draw_many(donors, CASES[6]) == set()
    # ordered pairs of patients with texts: 28; near ones are those of 0, 2 and 3 among themselves, and 1 with 4
    assert donors.compute_near_share() == (6 + 2) / 28


def test_donors_are_of_another_class_where_there_is_one() -> None:
    free = make_texts("kind", ("x", "y")).free
    assert free is not None
    assert draw_many(FreeDonors(CASES, free), CASES[0]) == {"case-5"}
    assert draw_many(FreeDonors(CASES[:5], free), CASES[4]) >= {"case-0"}  # case-1, the only y, has its text


def test_positive_pairs_are_classes_or_identical_texts() -> None:
    plain, classed = make_texts(), make_texts("kind", ("x", "y"))
    index = [plain.class_index(case.text_fields) for case in CASES]
    assert index[0] == index[2]
    assert len(set(index)) == 5
    assert index[6] == plain.class_index({"text": UNKNOWN, "kind": UNKNOWN})
    index = [classed.class_index(case.text_fields) for case in CASES]
    assert index[0] == index[2] == index[3] == index[4]
    assert index[1] == index[5]
    assert index[6] not in index[:6]
    without_class = {"text": "ta", "kind": UNKNOWN}
    assert classed.class_index(without_class) not in index


def test_shuffled_texts_are_of_another_patient_each() -> None:
    texts = make_texts()
    patient_of = {case.case_id: case.patient_id for case in CASES}
    first_of = {"p0": "ta", "p1": "ta", "p2": "tn", "p3": "tb", "p4": "tc", "p5": UNKNOWN}
    for seed in range(20):
        shuffled = texts.shuffle(patient_of, np.random.default_rng(seed)).fields_of
        given = {case.patient_id: shuffled[case.case_id]["text"] for case in CASES}
        assert sorted(given.values()) == sorted(first_of.values())
        assert all(given[patient] != own for patient, own in first_of.items() if own not in ("ta",))


def ask(texts: TextTable) -> dict[str, set[str]]:
    """Return condition -> cases that are asked with it."""
    classes = {"kind": ("x", "y")} if texts.free and texts.free.class_field else {}
    conditions = ("right", "wrong", "swap", "other_patient", "paraphrase", "unknown", "random", "predicted")
    places = {case.case_id: place for place, case in enumerate(CASES)}
    predicted = {case.case_id: {"text": UNKNOWN, "kind": "y"} for case in CASES} if classes else {}
    spec = EvaluationSpec(conditions, ("tight",), {}, classes, predicted, places)
    asked: dict[str, set[str]] = {}
    for question in build_questions(CASES, texts, spec).questions:
        asked.setdefault(question.condition, set()).add(question.case.case_id)
    return asked


def test_conditions_of_free_text() -> None:
    everyone = {case.case_id for case in CASES}
    plain = ask(make_texts())
    assert plain == {
        "right": everyone,
        "other_patient": everyone - {"case-6"},
        "paraphrase": {"case-0", "case-2"},
        "unknown": everyone,
        "random": everyone,
    }
    classed = ask(make_texts("kind", ("x", "y")))
    assert classed.keys() == plain.keys() | {"swap:kind=x", "swap:kind=y", "predicted"}
    assert classed["swap:kind=y"] <= {"case-0", "case-2", "case-3", "case-4"}
    label = ask(make_texts("kind", ("x", "y")).as_labels())
    assert label.keys() == classed.keys() - {"paraphrase", "random"}
    assert label["other_patient"] == classed["other_patient"]
