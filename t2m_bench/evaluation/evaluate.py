"""Evaluation: each distinct case, text and box is decoded once, whatever the number of conditions and of ranks."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2m_bench.data.boxes import Boxes
from t2m_bench.data.case import Case
from t2m_bench.data.frame import Frame
from t2m_bench.data.images import load_mask
from t2m_bench.embedding.shards.reader import CaseSource
from t2m_bench.evaluation.conditions import Question, QuestionSet
from t2m_bench.evaluation.crops import CROP_SIDE, cut_out
from t2m_bench.evaluation.predicted_masks import encode_mask, gather_masks
from t2m_bench.metrics.measures import (
    is_measured_in_full,
    list_always_measured,
    list_measured,
    measure_mask,
    name_distance_unit,
)
from t2m_bench.metrics.results import UNTRAINED_SEED
from t2m_bench.models.arm import Arm, ArmOutput, Segmenter
from t2m_bench.models.segmenter import restore_mask, split_for_cache
from t2m_bench.recipe.measures import DICE
from t2m_bench.recipe.schema import TIGHT
from t2m_bench.training.shares import share_positions

BATCH_SIZE = 16
"""Questions whose cases are read together."""


class EvaluationGroup(Protocol):
    """Interface that a question set needs of the processes that share it.

    `ProcessGroup` implements it; a single process needs no Accelerate.
    """

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def autocast(self) -> AbstractContextManager[None]: ...

    def sum(self, tensor: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Cost:
    """Cost of a question set on the first rank.

    That of all questions, and of those that an evaluation without conditions would include.
    """

    questions: int
    decodes: int
    seconds: float
    decodes_one: int
    seconds_one: float


@dataclass(frozen=True)
class Answers:
    """Row for row with the questions.

    Attributes:
        scores: (Q, M) float64, in the order of `list_measured`.
        crops: (shown, CROP_SIDE, CROP_SIDE) bool, the predictions of the questions that are shown.
        masks: each question's prediction as `encode_mask` makes it; empty where they were not to be kept.
    """

    scores: NDArray[np.float64]
    crops: NDArray[np.bool_]
    cost: Cost
    masks: tuple[bytes, ...] = ()

    def to_rows(
        self, questions: Sequence[Question], constant: Mapping[str, Any], fields: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return rows of the results table; `constant` holds dataset, arm, seed and fold."""
        names = list_measured()
        return [
            {
                **make_row_head(question.case, fields, constant),
                "given_class": join_values(question.given, fields) if question.given else "",
                "condition": question.condition,
                "box": question.box,
                **make_row_scores(dict(zip(names, scores, strict=True))),
            }
            for question, scores in zip(questions, self.scores.tolist(), strict=True)
        ]

    def select(self, measure: str) -> NDArray[np.float64]:
        """Return (Q,): one measure of every answer."""
        column: NDArray[np.float64] = self.scores[:, list_measured().index(measure)]
        return column


def join_values(values: Mapping[str, str], fields: Sequence[str]) -> str:
    """Return the classes of all text fields as tables show them."""
    return " + ".join(values[name] for name in fields)


def make_row_head(case: Case, fields: Sequence[str], constant: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies the case in a row of results."""
    return {
        "case": case.case_id,
        "patient": case.patient_id,
        "text_class": join_values(case.text_fields, fields),
        "box": TIGHT,
        "distance_unit": name_distance_unit(case.spacing_mm),
        **constant,
    }


def make_row_scores(measured: Mapping[str, float]) -> dict[str, Any]:
    """Return the measured part of a row of results."""
    emptiness = {name: bool(measured[name]) for name in ("pred_empty", "ref_empty")}
    return {**measured, **emptiness}


@dataclass(frozen=True)
class Evaluator:
    """Answers questions with the frozen parts and, where there is one, an arm.

    Attributes:
        root: the dataset folder, for reference masks.
        frame: of the boxes that the segmenter takes and of its logits.
        boxes: those other than the tight ones, in original pixels.
    """

    root: Path
    source: CaseSource
    segmenter: Segmenter
    frame: Frame
    boxes: Boxes
    ranks: EvaluationGroup

    def answer(
        self,
        arm: Arm | None,
        question_set: QuestionSet,
        shown: Sequence[int] = (),
        dice_alone: bool = False,
        keep_masks: bool = False,
    ) -> Answers:
        """Answer each question; every rank returns all answers.

        Args:
            arm: None for the frozen model alone.
            shown: positions of the questions whose predictions are returned as crops.
            dice_alone: leave the slower measures out, as for a validation in every epoch.
            keep_masks: return every prediction.
        """
        start, device = time.monotonic(), self.ranks.device
        main, rest, number_of = _find_distinct(question_set.questions)
        in_full = {
            number_of[question.key]
            for question in question_set.questions
            if not dice_alone and is_measured_in_full(question.condition, question.box)
        }
        pictured = {number_of[question_set.questions[position].key]: place for place, position in enumerate(shown)}
        scores = torch.zeros(len(main) + len(rest), len(list_measured()), dtype=torch.float64, device=device)
        crops = torch.zeros(len(shown), CROP_SIDE, CROP_SIDE, dtype=torch.uint8, device=device)
        kept: dict[int, bytes] = {}
        finished = []
        for part in (main, rest):
            share = share_positions(len(part), self.ranks.rank, self.ranks.world_size)
            mine = part[share.start : share.stop]
            for first in range(0, len(mine), BATCH_SIZE):
                batch = mine[first : first + BATCH_SIZE]
                for question, mask, reference in self._predict(arm, batch, question_set):
                    number, case = number_of[question.key], question.case
                    measured = measure_mask(mask, reference, case.box_xyxy, case.spacing_mm, number in in_full)
                    scores[number] = torch.tensor(list(measured.values()), dtype=torch.float64, device=device)
                    if keep_masks:
                        kept[number] = encode_mask(mask)
                    if number in pictured:
                        crops[pictured[number]] = torch.from_numpy(cut_out(mask, case.box_xyxy)).to(crops)
            finished.append(time.monotonic() - start)
        cost = Cost(len(question_set.questions), len(number_of), finished[1], len(main), finished[0])
        every = gather_masks(kept, len(number_of), self.ranks) if keep_masks else []
        return Answers(
            self._spread(scores, question_set.questions, number_of),
            self.ranks.sum(crops).cpu().numpy() > 0,
            cost,
            tuple(every[number_of[question.key]] for question in question_set.questions if keep_masks),
        )

    def _spread(
        self, scores: Tensor, questions: Sequence[Question], number_of: Mapping[Any, int]
    ) -> NDArray[np.float64]:
        """Return a row of scores a question from a row a distinct question on each rank."""
        gathered = self.ranks.sum(scores).cpu().numpy()
        spread: NDArray[np.float64] = gathered[[number_of[question.key] for question in questions]]
        brief = [not is_measured_in_full(question.condition, question.box) for question in questions]
        always = list_always_measured()
        slow = [name not in always for name in list_measured()]
        spread[np.ix_(brief, slow)] = np.nan  # whatever another question with the same answer had measured
        return spread

    @torch.no_grad()
    def _predict(
        self, arm: Arm | None, questions: Sequence[Question], question_set: QuestionSet
    ) -> list[tuple[Question, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Return each question with its predicted and its reference mask."""
        device = self.ranks.device
        cases = {question.case.case_id: question.case for question in questions}
        stored = self.source.read(list(cases))
        rows = [list(cases).index(question.case.case_id) for question in questions]
        # laid out once a case, as adapter and decoder want it, however many questions there are about it
        image_embedding = torch.from_numpy(stored.image_embedding).to(device)
        image_embedding = image_embedding.to(torch.float32, memory_format=torch.channels_last)
        boxes = [self._find_box(question, stored.box_xyxy[row]) for question, row in zip(questions, rows, strict=True)]
        box_xyxy = torch.from_numpy(np.stack(boxes)).to(device)
        given = torch.stack([_give_text(question, question_set) for question in questions]).to(device)
        low_res_logits = [
            self._decode(arm, image_embedding[rows[part]], given[part], box_xyxy[part])
            for part in split_for_cache(image_embedding, len(questions))
        ]
        references = {case_id: load_mask(self.root, case) for case_id, case in cases.items()}
        answered = []
        for question, logits in zip(questions, torch.cat(low_res_logits), strict=True):
            mask = restore_mask(logits, self.frame, question.case.height, question.case.width)
            answered.append((question, mask.cpu().numpy(), references[question.case.case_id]))
        return answered

    def _decode(self, arm: Arm | None, image_embedding: Tensor, text_embedding: Tensor, box_xyxy: Tensor) -> Tensor:
        """Return low_res_logits (B, 4h, 4w) of image_embedding (B, D, h, w), text_embedding (B, E) and boxes (B, 4)."""
        with self.ranks.autocast():
            if arm is None:
                return self.segmenter(image_embedding, box_xyxy)
            output: ArmOutput = arm(image_embedding, text_embedding)
            return output.decode(self.segmenter, box_xyxy)

    def _find_box(self, question: Question, tight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the question's box (4,) in pixels of the encoder's square input."""
        if question.box == TIGHT:
            return tight
        case = question.case
        return self.frame.scale_box(self.boxes[question.box][case.case_id], case.height, case.width)

    def compute_mean_dice(self, arm: Arm, question_set: QuestionSet) -> float:
        """Return the mean Dice over a question set's questions."""
        return float(self.answer(arm, question_set, dice_alone=True).select(DICE).mean())


def _give_text(question: Question, question_set: QuestionSet) -> Tensor:
    """Return the vector (E,) that a question gives as text; zeros where no text is read."""
    if question.prompt is None:
        return torch.zeros(question_set.vectors.shape[1])
    return question_set.vectors[list(question.prompt)].mean(dim=0)


def _find_distinct(questions: Sequence[Question]) -> tuple[list[Question], list[Question], dict[Any, int]]:
    """Return one question of each key, the main ones apart, and the number of each key in that order."""
    main = list({question.key: question for question in questions if question.is_main}.values())
    taken = {question.key for question in main}
    rest = list({question.key: question for question in questions if question.key not in taken}.values())
    return main, rest, {question.key: number for number, question in enumerate([*main, *rest])}


def untrained(arm: str, dataset: str, fold: int) -> dict[str, Any]:
    """Return the constant columns of an arm without training."""
    return {"arm": arm, "dataset": dataset, "fold": fold, "seed": UNTRAINED_SEED}
