from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import raises_naming
from plugins import install

from t2m_bench.data.case import Case
from t2m_bench.data.prompts import load_prompts
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.errors import RecipeError
from t2m_bench.evaluation.conditions import (
    EvaluationSpec,
    Question,
    QuestionSet,
    ask_right,
    build_questions,
    compute_same_class_share,
)
from t2m_bench.metrics.measures import is_measured_in_full

BOOK = load_prompts("nsclc", "category")
FIELDS = BOOK.fields
CLASSES = {field: BOOK.classes(field) for field in FIELDS}
PLAUSIBLE = {field: BOOK.plausible(field) for field in FIELDS}
EVERY = ("right", "wrong", "plausible", "swap", "other_patient", "paraphrase", "unknown", "random", "predicted")


def make_case(number: int, t_stage: str, histology: str, patient: int | None = None) -> Case:
    fields = {"t_stage": t_stage, "histology": histology}
    patient_id = f"p{number if patient is None else patient}"
    return Case(f"case-{number}", patient_id, Path("x"), Path("x"), 50, 50, (1, 1, 9, 9), fields, 1, None, (), "", "")


CASES = [
    make_case(0, "T1a", "Adenocarcinoma"),
    make_case(1, "T4", "NSCLC NOS"),
    make_case(2, "unknown", "Squamous cell carcinoma"),
    make_case(3, "T1a", "Adenocarcinoma"),
]


def make_texts(cases: list[Case] = CASES) -> TextTable:
    sentences = BOOK.all_sentences()

    def find(use: str) -> dict[str, dict[str, tuple[int, ...]]]:
        return {
            field: {
                value: tuple(sentences.index(sentence) for sentence in BOOK.sentences(field, value, use))
                for value in (*BOOK.classes(field), "unknown")
            }
            for field in FIELDS
        }

    embeddings = torch.randn(len(sentences), 6, generator=torch.Generator().manual_seed(0))
    return TextTable(embeddings, find("training"), {case.case_id: case.text_fields for case in cases}, find("held_out"))


def ask(cases: list[Case] = CASES, **changes: object) -> QuestionSet:
    wrong = {field: BOOK.wrong(field) for field in FIELDS}
    places = {case.case_id: place for place, case in enumerate(CASES)}
    predicted = {"case-1": {"t_stage": "T4", "histology": "Adenocarcinoma"}}
    asking = EvaluationSpec(EVERY, ("tight", "jitter_20"), wrong, CLASSES, predicted, places, PLAUSIBLE)
    return build_questions(cases, make_texts(), replace(asking, **changes))


def find(question_set: QuestionSet, case_id: str, condition: str) -> Question:
    (found,) = (
        q for q in question_set.questions if (q.case.case_id, q.condition, q.box) == (case_id, condition, "tight")
    )
    return found


def list_conditions(question_set: QuestionSet, case_id: str) -> list[str]:
    return [q.condition for q in question_set.questions if q.case.case_id == case_id and q.box == "tight"]


def test_fields_go_wrong_together_and_one_by_one() -> None:
    question_set = ask()
    both = find(question_set, "case-0", "wrong").given
    # phrase: the other class of histology in the published table
    assert both == {"t_stage": "T4", "histology": "Squamous cell carcinoma"}
    assert find(question_set, "case-0", "wrong:t_stage").given == {"t_stage": "T4", "histology": "Adenocarcinoma"}
    assert find(question_set, "case-0", "wrong:histology").given["t_stage"] == "T1a"
    # a field that is not known has no wrong value, so neither have all fields together
    assert [name for name in list_conditions(question_set, "case-2") if name.startswith("wrong")] == ["wrong:histology"]


def test_a_plausible_class_is_a_neighbour_each_of_two_as_often() -> None:
    cases = [make_case(number, "T1b", "Squamous cell carcinoma") for number in range(400)]
    places = {case.case_id: place for place, case in enumerate(cases)}
    given = [
        q.given for q in ask(cases, places=places, conditions=("plausible",)).questions if q.condition == "plausible"
    ]
    stages = Counter(values["t_stage"] for values in given)
    assert stages.keys() == {"T1a", "T2a"}
    assert abs(stages["T1a"] - 200) < 4 * 10, "4 standard deviations of 400 fair draws"
    assert {values["histology"] for values in given} == {"NSCLC NOS"}


def test_plausible_fields_go_wrong_together_and_one_by_one() -> None:
    question_set = ask()
    together = find(question_set, "case-1", "plausible").given
    assert together == {"t_stage": "T3", "histology": "Adenocarcinoma"}
    assert find(question_set, "case-1", "plausible:t_stage").given == {"t_stage": "T3", "histology": "NSCLC NOS"}
    of_unknown = [name for name in list_conditions(question_set, "case-2") if name.startswith("plausible")]
    assert of_unknown == ["plausible:histology"]
    alone = find(ask([CASES[0]]), "case-0", "plausible")
    assert alone.given == find(question_set, "case-0", "plausible").given, "the same draw whoever else is asked"


def test_without_an_order_or_without_classes_nothing_is_plausible() -> None:
    named = {"t_stage": PLAUSIBLE["t_stage"], "histology": {}}
    conditions = list_conditions(ask(plausible=named), "case-1")
    assert [name for name in conditions if name.startswith("plausible")] == ["plausible:t_stage"]
    without = {q.condition.split(":")[0] for q in ask(classes=dict.fromkeys(FIELDS, ())).questions}
    assert without == {"right", "other_patient", "paraphrase", "unknown", "random"}


def test_the_swap_matrix_names_every_other_class_of_every_field_once() -> None:
    swaps = [name for name in list_conditions(ask(), "case-0") if name.startswith("swap")]
    expected = [f"swap:t_stage={name}" for name in CLASSES["t_stage"] if name != "T1a"]
    expected += [f"swap:histology={name}" for name in CLASSES["histology"] if name != "Adenocarcinoma"]
    assert swaps == expected
    given = find(ask(), "case-0", "swap:t_stage=T2b").given
    assert given == {"t_stage": "T2b", "histology": "Adenocarcinoma"}


def test_other_patients_differ_in_class_and_are_known() -> None:
    question_set = ask()
    donors = {find(question_set, case_id, "other_patient").given["t_stage"] for case_id in ("case-0", "case-3")}
    assert donors == {"T4"}, "the only known other class among other patients"
    assert "other_patient" not in list_conditions(question_set, "case-2")
    assert compute_same_class_share(CASES, FIELDS) == pytest.approx(2 / 12)


def test_another_lesion_of_the_same_patient_is_no_other_patient() -> None:
    cases = [make_case(0, "T1a", "Adenocarcinoma", 7), make_case(1, "T4", "NSCLC NOS", 7)]
    assert "other_patient" not in list_conditions(ask(cases), "case-0")
    third = make_case(2, "T2b", "NSCLC NOS", 8)
    assert find(ask([*cases, third]), "case-0", "other_patient").given == third.text_fields


def test_what_is_given_is_what_the_condition_says() -> None:
    question_set, texts = ask(), make_texts()
    sentences = BOOK.all_sentences()

    def read(question: Question) -> list[str]:
        return [sentences[row] for row in question.prompt]

    assert read(find(question_set, "case-1", "right")) == [
        BOOK.sentences("t_stage", "T4", "training")[0],
        BOOK.sentences("histology", "NSCLC NOS", "training")[0],
    ]
    for place in range(3):
        assert read(find(question_set, "case-1", f"paraphrase:{place + 1}")) == [
            BOOK.sentences("t_stage", "T4", "held_out")[place],
            BOOK.sentences("histology", "NSCLC NOS", "held_out")[place],
        ]
    assert read(find(question_set, "case-1", "unknown")) == [
        BOOK.sentences(field, "unknown", "training")[0] for field in FIELDS
    ]
    assert find(question_set, "case-1", "predicted").given == {"t_stage": "T4", "histology": "Adenocarcinoma"}
    assert "predicted" not in list_conditions(question_set, "case-0"), "nothing was predicted for it"
    guessed = ask(predicted={"case-2": {"t_stage": "T4", "histology": "Adenocarcinoma"}})
    assert "predicted" not in list_conditions(guessed, "case-2"), "its own text is unknown: no class to compare with"

    random, right = find(question_set, "case-1", "random"), find(question_set, "case-1", "right")
    vector, text = (
        question_set.vectors[list(random.prompt)].mean(dim=0),
        texts.embeddings[list(right.prompt)].mean(dim=0),
    )
    assert float(vector.norm()) == pytest.approx(float(text.norm()), rel=1e-5)
    assert random.given is None
    assert abs(float(torch.cosine_similarity(vector, text, dim=0))) < 0.999


def is_reworded(condition: str) -> bool:
    return condition == "random" or condition.startswith("paraphrase")


def test_a_single_wording_has_no_number_and_each_class_has_as_many_as_the_one_with_fewest() -> None:
    texts = make_texts()
    few = {
        field: {value: rows[:1] if value == "T4" else rows for value, rows in of.items()}
        for field, of in texts.held_out.items()
    }
    places = {case.case_id: place for place, case in enumerate(CASES)}
    asking = EvaluationSpec(("paraphrase",), ("tight",), {}, CLASSES, {}, places)
    question_set = build_questions(CASES, replace(texts, held_out=few), asking)
    assert [question.condition for question in question_set.questions] == ["paraphrase"] * len(CASES)


def test_the_text_is_a_sentence_of_the_classes_that_its_row_names() -> None:
    sentences, question_set = BOOK.all_sentences(), ask()
    of_classes = [question for question in question_set.questions if not is_reworded(question.condition)]
    assert {"wrong", "wrong:t_stage", "swap:t_stage=T2b", "other_patient"} < {q.condition for q in of_classes}
    for question in of_classes:
        expected = [BOOK.sentences(field, question.given[field], "training")[0] for field in FIELDS]
        assert [sentences[row] for row in question.prompt] == expected, question.condition


def test_wordings_are_counted_where_the_encoder_puts_them() -> None:
    rows = {"z": {"a": (0, 1), "b": (2,)}}
    embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [5.0, 1.0], [3.0, 1.0]])
    table = TextTable(embeddings, rows, {}, held_out={"z": {"a": (3,), "b": (4,)}})
    assert table.count_nearest_in_class() == {"z": (1, 2)}, "b's held-out sentence lies nearest to one of a's"
    assert table.as_labels().count_nearest_in_class() == {}


def test_boxes_are_crossed_with_right_and_wrong_alone() -> None:
    crossed = {q.condition for q in ask().questions if q.box == "jitter_20"}
    assert crossed == {"right", "wrong"}


def test_draws_are_the_same_whoever_else_is_asked() -> None:
    alone, among = ask([CASES[1]]), ask()
    one, other = (find(question_set, "case-1", "random") for question_set in (alone, among))
    assert torch.equal(alone.vectors[list(one.prompt)], among.vectors[list(other.prompt)])


def test_labels_have_neither_paraphrases_nor_random_vectors() -> None:
    labels = make_texts().as_labels()
    places = {case.case_id: place for place, case in enumerate(CASES)}
    wrong = {field: BOOK.wrong(field) for field in FIELDS}
    question_set = build_questions(CASES, labels, EvaluationSpec(EVERY, ("tight",), wrong, CLASSES, {}, places))
    assert not any(is_reworded(question.condition) for question in question_set.questions)
    mean = labels.embed(CASES[0].text_fields)
    assert mean.sum() == 1
    assert mean.max() == 0.5
    assert len(labels.embeddings) == sum(len(names) + 1 for names in CLASSES.values())


def test_shuffled_texts_are_a_permutation_over_patients_and_leave_others_alone() -> None:
    cases = [make_case(number, CLASSES["t_stage"][number % 7], "NSCLC NOS", number // 2) for number in range(40)]
    texts = make_texts(cases)
    trained = {case.case_id: case.patient_id for case in cases[:30]}
    shuffled = texts.shuffle(trained, np.random.default_rng(0))
    assert texts.shuffle(trained, np.random.default_rng(0)).fields_of == shuffled.fields_of
    own = [texts.fields_of[f"case-{number}"]["t_stage"] for number in range(0, 30, 2)]
    given = [shuffled.fields_of[f"case-{number}"]["t_stage"] for number in range(0, 30, 2)]
    assert sorted(own) == sorted(given)
    assert own != given
    assert all(shuffled.fields_of[f"case-{n}"] == shuffled.fields_of[f"case-{n + 1}"] for n in range(0, 30, 2))
    assert all(shuffled.fields_of[case.case_id] == case.text_fields for case in cases[30:])


def test_validation_asks_with_the_text_of_training() -> None:
    shuffled = make_texts().shuffle({"case-0": "p0", "case-1": "p1"}, np.random.default_rng(1))
    question_set = ask_right(CASES, shuffled)
    given = [question.given for question in question_set.questions]
    assert given == [shuffled.fields_of[case.case_id] for case in CASES]


MINE = """
from t2m_bench.recipe.conditions import ConditionEntry

MINE = ConditionEntry("mine", "mine:draw", row="mean", pattern="mine:[ab]", all_boxes=True, in_full=True)

def draw(asked):
    yield from (asked.give(f"mine:{name}", asked.case.text_fields) for name in NAMES)
"""

MINE_POINT = {"t2m_bench.conditions": "mine = mine:MINE"}


def test_a_condition_of_several_names_is_asked_with_every_box_and_measured_in_full(tmp_path: Path) -> None:
    with install(tmp_path, "mine", f"{MINE}\nNAMES = 'ab'\n", MINE_POINT):
        question_set = ask(conditions=("right", "mine"))
        asked = {(q.condition, q.box) for q in question_set.questions if q.case.case_id == "case-0"}
        names, boxes = ("right", "mine:a", "mine:b"), ("tight", "jitter_20")
        assert asked == {(name, box) for name in names for box in boxes}
        assert is_measured_in_full("mine:a", "tight")
    assert not is_measured_in_full("mine:a", "tight")


def test_wrong_texts_of_one_field_are_asked_and_measured_in_brief() -> None:
    boxes = {q.box for q in ask().questions if q.condition == "wrong:t_stage"}
    assert boxes == {"tight"}
    assert not is_measured_in_full("wrong:t_stage", "tight")


@pytest.mark.parametrize("name", ["c", "ab"])
def test_a_name_that_is_none_of_the_conditions_own_is_refused(tmp_path: Path, name: str) -> None:
    code = f"{MINE}\nNAMES = ['a', {name!r}]\n"
    refused = raises_naming(RecipeError, "mine", f"mine:{name}", "mine:[ab]")
    with install(tmp_path, "mine", code, MINE_POINT), refused:
        ask(conditions=("right", "mine"))
