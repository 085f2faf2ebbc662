"""What every table shows beside the adapters: image-free floors, and the frozen model without an adapter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from t2m_bench.data.case import Case
from t2m_bench.data.images import load_annotated, load_mask
from t2m_bench.metrics.floors import fit_class_mean_masks, fit_mean_mask, predict_box, predict_ellipse
from t2m_bench.metrics.measures import measure_mask
from t2m_bench.metrics.results import RESULTS_NAME, write_results
from t2m_bench.training.evaluate import ask, make_row_head, make_row_scores, untrained
from t2m_bench.training.job import MASKS_NAME, Job, find_shown, set_up
from t2m_bench.training.overlays import cut_out, write_crops
from t2m_bench.training.ranks import Ranks

CROPS_NAME = "crops.npz"


def write_reference(job: Job, folder: Path) -> None:
    """Score the floors and the baseline on the test cases, once a fold.

    Mean masks are fitted on all cases outside the test fold, so that they do not depend on a training seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    test_cases = job.select(job.splits.test)
    dataset = job.recipe.dataset
    rows = score_floors(job, test_cases, [*job.splits.train, *job.splits.val])
    questions = ask(test_cases, False, job.wrong)
    shown = find_shown(questions)
    use_gpu = job.recipe.cluster.use_gpu and torch.cuda.is_available()  # the workers may lie elsewhere
    answers = set_up(job, Ranks("no", use_gpu)).evaluator.answer(None, questions, list(shown.values()))
    rows += answers.to_rows(questions, untrained("baseline", dataset.kind, dataset.test_fold), job.field)
    crops = {}
    for case_id in shown:
        (case,) = job.select([case_id])
        crops[f"{case_id}/image"] = cut_out(load_annotated(job.root, case), case.box_xyxy)
        crops[f"{case_id}/mask"] = cut_out(load_mask(job.root, case), case.box_xyxy)
    write_crops(folder / CROPS_NAME, crops)
    write_crops(folder / MASKS_NAME, dict(zip(shown, answers.crops, strict=True)))
    write_results(folder / RESULTS_NAME, rows)  # last: its presence says that the folder is whole


def score_floors(job: Job, test_cases: Sequence[Case], training_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return result rows of the box, the ellipse, the mean mask, and the mean mask of the right and the wrong class."""
    training = job.select(training_ids)
    crops = [crop_to_box(job.root, case) for case in training]
    classes = [case.text_fields[job.field] for case in training]
    known = sorted({*classes, *(case.text_fields[job.field] for case in test_cases), *job.wrong[job.field].values()})
    mean_mask = fit_mean_mask(crops)
    by_class = fit_class_mean_masks(crops, classes, known)
    dataset = job.recipe.dataset
    rows = []
    for case in test_cases:
        text_class = case.text_fields[job.field]
        frame = (case.height, case.width, case.box_xyxy)
        wrong = job.wrong[job.field].get(text_class)
        predictions = [
            ("floor_box", "none", "", predict_box(*frame)),
            ("floor_ellipse", "none", "", predict_ellipse(*frame)),
            ("floor_mean_mask", "none", "", mean_mask.predict(*frame)),
            ("floor_class_mask", "right", text_class, by_class[text_class].predict(*frame)),
        ]
        if wrong is not None:
            predictions.append(("floor_class_mask", "wrong", wrong, by_class[wrong].predict(*frame)))
        reference = load_mask(job.root, case)
        for arm, condition, given, mask in predictions:
            constant = untrained(arm, dataset.kind, dataset.test_fold)
            head = make_row_head(case, job.field, constant)
            scores = make_row_scores(measure_mask(mask, reference, case.box_xyxy, case.spacing_mm))
            rows.append({**head, "given_class": given, "condition": condition, **scores})
    return rows


def crop_to_box(root: Path, case: Case) -> Any:
    """Return the case's reference mask inside its tight box."""
    x0, y0, x1, y1 = case.box_xyxy
    return load_mask(root, case)[y0:y1, x0:x1]
