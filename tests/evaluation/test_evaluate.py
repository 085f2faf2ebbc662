"""Every question is answered once, on any number of real processes that talk by gloo."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp
from messages import raises_naming
from PIL import Image
from ranks_bench import (
    CASE_IDS,
    RandomSource,
    find_port,
    join_ranks,
    make_adapter,
    make_batches,
    make_recipe,
    make_segmenter,
)

from t2m_bench.data.boxes import draw_boxes
from t2m_bench.data.case import Case
from t2m_bench.data.frame import Frame
from t2m_bench.data.images import load_mask
from t2m_bench.errors import RunFolderError
from t2m_bench.evaluation.conditions import EvaluationSpec, Question, QuestionSet, build_questions
from t2m_bench.evaluation.crops import CROP_SIDE, cut_out
from t2m_bench.evaluation.evaluate import Evaluator
from t2m_bench.evaluation.predicted_masks import (
    PREDICTED_NAME,
    decode_mask,
    encode_mask,
    load_predicted,
    write_predicted,
)
from t2m_bench.metrics.measures import list_measured
from t2m_bench.metrics.overlap import compute_dice
from t2m_bench.training.process_group import ProcessGroup

WRONG = {"birads": {"2": "5", "3": "5", "4": "2", "5": "2"}}


def make_cases(root: Path) -> list[Case]:
    cases = []
    for number, case_id in enumerate(CASE_IDS[:11]):
        mask = np.zeros((40, 50 + number), np.uint8)
        if number:  # the first reference is empty
            mask[5 : 10 + number, 7:30] = 255
        Image.fromarray(mask).save(root / f"{case_id}.png")
        fields = {"birads": str(2 + number % 4) if number != 5 else "unknown"}
        path = Path(f"{case_id}.png")
        box = (7, 5, 30, 10 + number)
        cases.append(Case(case_id, f"p{number // 2}", path, path, 40, 50 + number, box, fields, 1, None, (), "", ""))
    return cases


def make_asking(cases: list[Case], boxes: tuple[str, ...] = ("tight",)) -> EvaluationSpec:
    places = {case.case_id: place for place, case in enumerate(cases)}
    return EvaluationSpec(("right", "wrong"), boxes, WRONG, {"birads": ("2", "3", "4", "5")}, {}, places)


def make_evaluator(root: Path, cases: list[Case]) -> Evaluator:
    boxes = draw_boxes(cases, ["loose_20"])
    return Evaluator(root, RandomSource(), make_segmenter(), Frame(64, 4), boxes, ProcessGroup("no", use_gpu=False))


def answer_here(root: Path, cases: list[Case]) -> dict[str, torch.Tensor]:
    recipe = make_recipe()
    question_set = build_questions(cases, make_batches(recipe).texts, make_asking(cases))
    evaluator = make_evaluator(root, cases)
    found = evaluator.answer(make_adapter(recipe), question_set, shown=[0, 7, 20], keep_masks=True)
    asked = zip(question_set.questions, found.masks, strict=True)
    masks = [decode_mask(counts.decode(), q.case.height, q.case.width).flatten() for q, counts in asked]
    return {
        "scores": torch.from_numpy(found.scores),
        "crops": torch.from_numpy(found.crops),
        "masks": torch.from_numpy(np.concatenate(masks)),
    }


def _run(rank: int, world_size: int, port: int, root: Path, cases: list[Case]) -> None:
    join_ranks(rank, world_size, port)
    torch.set_num_threads(1)
    result = answer_here(root, cases)
    torch.save(result, root / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_each_distinct_text_and_box_is_decoded_once(tmp_path: Path) -> None:
    recipe, cases = make_recipe(), make_cases(tmp_path)
    texts, asking = make_batches(recipe).texts, make_asking(cases, ("tight", "loose_20"))
    asking = replace(asking, conditions=("right", "wrong", "swap", "predicted"))
    asking = replace(asking, predicted={case.case_id: case.text_fields for case in cases})
    question_set, decoded = build_questions(cases, texts, asking), []
    segmenter = make_segmenter()
    segmenter.register_forward_hook(lambda module, given, logits: decoded.append(len(logits)))
    evaluator = replace(make_evaluator(tmp_path, cases), segmenter=segmenter)
    answers = evaluator.answer(make_adapter(recipe), question_set)
    # wrong is one of the three others and predicted is right here; the unknown case has no other text
    assert sum(decoded) == answers.cost.decodes == 10 * (1 + 3 + 2) + 2
    assert answers.cost.decodes_one == len(cases)
    assert 0 < answers.cost.seconds_one <= answers.cost.seconds
    names = [(question.case.case_id, question.condition, question.box) for question in question_set.questions]
    dice = dict(zip(names, answers.select("dice"), strict=True))
    for case in cases:
        if case.text_fields["birads"] != "unknown":
            assert dice[case.case_id, "predicted", "tight"] == dice[case.case_id, "right", "tight"]
        one = evaluator.answer(
            make_adapter(recipe),
            QuestionSet((Question(case, "right", "loose_20", None, texts.pick(case.text_fields)),), texts.embeddings),
        )
        assert one.select("dice")[0] == pytest.approx(dice[case.case_id, "right", "loose_20"], abs=1e-3)
    hd95 = dict(
        zip(((q.case.case_id, q.condition, q.box) for q in question_set.questions), answers.select("hd95"), strict=True)
    )
    measured = {key[1:] for key, value in hd95.items() if not np.isnan(value)}
    assert measured == {("right", "tight"), ("wrong", "tight")}


def test_decoding_a_few_questions_at_a_time_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = make_cases(tmp_path)
    whole = answer_here(tmp_path, cases)
    monkeypatch.setattr("t2m_bench.models.segmenter.VALUES_AT_ONCE", 3 * 256 * 4 * 4)  # 16 questions: 3, 3, 3, 3, 3, 1
    parts = answer_here(tmp_path, cases)
    torch.testing.assert_close(parts["scores"], whole["scores"], atol=1e-3, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_answer_every_question_once(tmp_path: Path, world_size: int) -> None:
    cases = make_cases(tmp_path)
    alone = answer_here(tmp_path, cases)
    assert alone["scores"].shape == (21, len(list_measured()))
    ref_empty = alone["scores"][:, list_measured().index("ref_empty")].tolist()
    assert ref_empty == [1, 1] + [0] * 19
    assert alone["scores"][2:, list_measured().index("hd95")].isfinite().all()
    mp.spawn(_run, (world_size, find_port(), tmp_path, cases), nprocs=world_size)
    for rank in range(world_size):
        shared = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        torch.testing.assert_close(shared["scores"], alone["scores"], atol=1e-3, rtol=1e-3, equal_nan=True)
        for name in ("crops", "masks"):
            assert (shared[name] != alone[name]).float().mean() < 1e-3


def test_kept_masks_give_the_scores_of_the_results_again(tmp_path: Path) -> None:
    recipe, cases = make_recipe(), make_cases(tmp_path)
    question_set = build_questions(cases, make_batches(recipe).texts, make_asking(cases, ("tight", "loose_20")))
    answers = make_evaluator(tmp_path, cases).answer(make_adapter(recipe), question_set, keep_masks=True)
    write_predicted(tmp_path / PREDICTED_NAME, question_set.questions, answers.masks)
    table = load_predicted(tmp_path / PREDICTED_NAME)
    assert len(table) == len(question_set.questions) > 2 * len(cases)
    references = {case.case_id: load_mask(tmp_path, case) for case in cases}
    dice = [
        compute_dice(decode_mask(row.counts, row.height, row.width), references[row.case]) for row in table.itertuples()
    ]
    assert dice == answers.select("dice").tolist()
    assert len(set(table["counts"])) > len(cases), "masks differ by text and box"


def test_no_mask_is_kept_unasked_and_a_lost_table_is_named(tmp_path: Path) -> None:
    recipe, cases = make_recipe(), make_cases(tmp_path)
    question_set = build_questions(cases, make_batches(recipe).texts, make_asking(cases))
    assert make_evaluator(tmp_path, cases).answer(make_adapter(recipe), question_set).masks == ()
    path = tmp_path / PREDICTED_NAME
    with raises_naming(RunFolderError, path, "bench.keep_masks"):
        load_predicted(path)
    path.write_bytes(b"PAR1 cut short")
    with raises_naming(RunFolderError, path, "Parquet"):
        load_predicted(path)
    pd.DataFrame({"case": ["a"]}).to_parquet(path)
    with raises_naming(RunFolderError, path, "condition"):
        load_predicted(path)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 1)])
def test_masks_are_encoded_as_counted_by_hand(shape: tuple[int, int]) -> None:
    """COCO counts down the columns, first of zeros, and writes five bits a character from 48 on."""
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    assert decode_mask(encode_mask(empty).decode(), *shape).tolist() == empty.tolist()
    assert decode_mask(encode_mask(full).decode(), *shape).tolist() == full.tolist()
    hand = np.array([[0, 1, 0], [1, 1, 0]], bool)  # 0 1 | 1 1 | 0 0: one zero, three ones, two zeros
    assert encode_mask(hand) == bytes([48 + 1, 48 + 3, 48 + 2])


def test_a_crop_shows_the_box_in_the_middle_with_its_margin() -> None:
    mask = np.zeros((100, 120), bool)
    mask[30:50, 10:50] = True  # 40 wide: the square is 60 pixels, from x = 0 and y = 10
    crop = cut_out(mask, (10, 30, 50, 50))
    assert crop.shape == (CROP_SIDE, CROP_SIDE)
    rows, columns = np.nonzero(crop)
    scale = CROP_SIDE / 60
    assert (rows.min(), rows.max() + 1) == pytest.approx((20 * scale, 40 * scale), abs=1)
    assert (columns.min(), columns.max() + 1) == pytest.approx((10 * scale, 50 * scale), abs=1)
    outside = cut_out(np.full((10, 10), 200, np.uint8), (0, 0, 10, 10))
    assert outside[0, 0] == 0
    assert outside[CROP_SIDE // 2, CROP_SIDE // 2] == 200
