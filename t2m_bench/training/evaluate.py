"""Evaluation: each question, a case under a condition, is answered once, whatever the number of ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.data.images import load_mask
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.metrics.measures import MEASURES, is_measured_in_full, measure_mask, name_distance_unit
from t2m_bench.metrics.results import UNTRAINED_SEED
from t2m_bench.models.fusion import FusionAdapter
from t2m_bench.models.segmenter import BoxSegmenter, compute_mask_probability
from t2m_bench.training.batches import CaseSource, TextTable, share_positions
from t2m_bench.training.overlays import CROP_SIDE, cut_out
from t2m_bench.training.ranks import Ranks

AT_ONCE = 16

TIGHT = "tight"


@dataclass(frozen=True)
class Question:
    """One case under one condition; `given` is the text's field values, None where no text is given."""

    case: Case
    condition: str
    given: Mapping[str, str] | None


@dataclass(frozen=True)
class Answers:
    """Row for row with the questions.

    Attributes:
        scores: (Q, len(MEASURES)) float64, in the order of MEASURES.
        crops: (shown, CROP_SIDE, CROP_SIDE) bool, the predictions of the questions that are shown.
    """

    scores: NDArray[np.float64]
    crops: NDArray[np.bool_]

    def to_rows(self, questions: Sequence[Question], constant: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
        """Return rows of the results table; `constant` holds dataset, arm, seed and fold."""
        return [
            {
                **make_row_head(question.case, field, constant),
                "given_class": question.given[field] if question.given else "",
                "condition": question.condition,
                **make_row_scores(dict(zip(MEASURES, scores, strict=True))),
            }
            for question, scores in zip(questions, self.scores.tolist(), strict=True)
        ]

    def select(self, measure: str) -> NDArray[np.float64]:
        """Return (Q,): one of MEASURES of every answer."""
        column: NDArray[np.float64] = self.scores[:, MEASURES.index(measure)]
        return column


def make_row_head(case: Case, field: str, constant: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies the case in a row of results."""
    return {
        "case": case.case_id,
        "patient": case.patient_id,
        "text_class": case.text_fields[field],
        "box": TIGHT,
        "distance_unit": name_distance_unit(case.spacing_mm),
        **constant,
    }


def make_row_scores(measured: Mapping[str, float]) -> dict[str, Any]:
    """Return the measured part of a row of results."""
    emptiness = {name: bool(measured[name]) for name in ("pred_empty", "ref_empty")}
    return {**measured, **emptiness}


def ask(cases: Sequence[Case], uses_text: bool, wrong: Mapping[str, Mapping[str, str]]) -> list[Question]:
    """Return the questions for an arm: right and wrong text, or the one without text.

    Args:
        wrong: field -> class -> the wrong class given in its place; a case whose text is unknown has no wrong one.
    """
    if not uses_text:
        return [Question(case, "none", None) for case in cases]
    questions = []
    for case in cases:
        questions.append(Question(case, "right", case.text_fields))
        if all(case.text_fields[field] != UNKNOWN for field in wrong):
            replaced = {field: wrong[field][case.text_fields[field]] for field in wrong}
            questions.append(Question(case, "wrong", replaced))
    return questions


@dataclass(frozen=True)
class Evaluator:
    """Answers questions with the frozen parts and, where there is one, an adapter.

    Attributes:
        root: the dataset folder, for reference masks.
    """

    root: Path
    source: CaseSource
    texts: TextTable
    segmenter: BoxSegmenter
    ranks: Ranks

    def answer(
        self,
        adapter: FusionAdapter | None,
        questions: Sequence[Question],
        shown: Sequence[int] = (),
        dice_alone: bool = False,
    ) -> Answers:
        """Answer each question once; every rank returns all answers.

        Args:
            adapter: None for the frozen model alone.
            shown: positions of the questions whose predictions are returned as crops.
            dice_alone: leave the slower measures out, as for a validation in every epoch.
        """
        device = self.ranks.device
        scores = torch.zeros(len(questions), len(MEASURES), dtype=torch.float64, device=device)
        crops = torch.zeros(len(shown), CROP_SIDE, CROP_SIDE, device=device)
        share = share_positions(len(questions), self.ranks.rank, self.ranks.world_size)
        for start in range(share.start, share.stop, AT_ONCE):
            positions = range(start, min(start + AT_ONCE, share.stop))
            masks = self._predict(adapter, [questions[position] for position in positions])
            for position, mask in zip(positions, masks, strict=True):
                case, condition = questions[position].case, questions[position].condition
                in_full = not dice_alone and is_measured_in_full(condition, TIGHT)
                measured = measure_mask(mask, load_mask(self.root, case), case.box_xyxy, case.spacing_mm, in_full)
                scores[position] = torch.tensor(list(measured.values()), dtype=torch.float64, device=device)
                if position in shown:
                    crop = cut_out(mask, case.box_xyxy)
                    crops[shown.index(position)] = torch.from_numpy(crop).to(crops)
        return Answers(self.ranks.sum(scores).cpu().numpy(), self.ranks.sum(crops).cpu().numpy() > 0.5)

    @torch.no_grad()
    def _predict(self, adapter: FusionAdapter | None, questions: Sequence[Question]) -> list[NDArray[np.bool_]]:
        device = self.ranks.device
        stored = self.source.read([question.case.case_id for question in questions])
        image_embedding = torch.from_numpy(stored.image_embedding).float().to(device)
        with self.ranks.autocast():
            if adapter is not None:
                given = [question.given or question.case.text_fields for question in questions]
                text_embedding = torch.stack([self.texts.embed(values) for values in given]).to(device)
                image_embedding = adapter(image_embedding, text_embedding).image_embedding
            low_res_logits = self.segmenter(image_embedding, torch.from_numpy(stored.box_xyxy).to(device))
        return [
            (compute_mask_probability(logits, question.case.height, question.case.width) > 0.5).cpu().numpy()
            for logits, question in zip(low_res_logits, questions, strict=True)
        ]

    def compute_mean_dice(self, adapter: FusionAdapter, cases: Sequence[Case]) -> float:
        """Return the mean Dice of cases with their right text."""
        questions = [Question(case, "right", case.text_fields) for case in cases]
        return float(self.answer(adapter, questions, dice_alone=True).select("dice").mean())


def untrained(arm: str, dataset: str, fold: int) -> dict[str, Any]:
    """Return the constant columns of an arm without training."""
    return {"arm": arm, "dataset": dataset, "fold": fold, "seed": UNTRAINED_SEED}
