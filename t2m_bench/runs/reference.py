"""Makes the evaluation reference of a fold, which all arms share: floors, the frozen model, boxes, and the probe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from t2m_bench.data.boxes import Boxes, FloatBox, draw_boxes, round_box
from t2m_bench.data.case import Case
from t2m_bench.data.images import load_annotated, load_mask
from t2m_bench.errors import RunFolderError
from t2m_bench.evaluation.conditions import ask_without_text, compute_same_class_share
from t2m_bench.evaluation.crops import cut_out, find_shown, write_crops
from t2m_bench.evaluation.evaluate import Evaluator, join_values, make_row_head, make_row_scores, untrained
from t2m_bench.evaluation.free_donors import FreeDonors
from t2m_bench.evaluation.geometry import audit_geometry
from t2m_bench.evaluation.predicted_masks import PREDICTED_NAME, write_predicted
from t2m_bench.evaluation.probe import FieldProbe, find_box_unit, run_probe
from t2m_bench.files import write_json
from t2m_bench.metrics.floors import MeanMask, fit_class_mean_masks, fit_mean_mask, predict_box, predict_ellipse
from t2m_bench.metrics.measures import is_measured_in_full, measure_mask
from t2m_bench.metrics.results import RESULTS_NAME, load_results, write_results
from t2m_bench.recipe.conditions import RIGHT, WRONG
from t2m_bench.recipe.schema import TIGHT
from t2m_bench.runs.job import MASKS_NAME
from t2m_bench.runs.setup import BOXES_NAME, PROBE_NAME, Job, load_frozen
from t2m_bench.training.process_group import ProcessGroup

CROPS_NAME = "crops.npz"


def write_reference(job: Job, boxes: Sequence[str]) -> None:
    """Draw the boxes, run the probe, and score the floors and the baseline on the test cases, once a fold.

    Mean masks and the probe are fitted on all cases outside the test fold, so that they do not depend on a training
    seed.
    """
    folder = job.data.reference
    folder.mkdir(parents=True, exist_ok=True)
    training, test_cases = job.data.select(job.data.splits.outside_test), job.data.select(job.data.splits.test)
    drawn = _draw_for(job, test_cases, [name for name in boxes if name != TIGHT])
    write_json(folder / BOXES_NAME, drawn)
    use_gpu = job.recipe.cluster.use_gpu and torch.cuda.is_available()  # the workers may lie elsewhere
    ranks = ProcessGroup("no", use_gpu)
    frozen = load_frozen(job, ranks)
    frame = frozen.sam.frame
    probes = run_probe(training, test_cases, job.data.fields, frozen.source, frame.input_size)
    same_class = compute_same_class_share(test_cases, job.data.fields) if job.data.fields else None
    found = describe_probe(probes, same_class)
    free = job.data.texts.free
    if free is not None:
        found["near_donors"] = FreeDonors(test_cases, free).compute_near_share()
        fits = audit_geometry(job.data.root, training, job.data.texts)
        found["geometry"] = {target: asdict(fit) for target, fit in fits.items()}
    found["wordings_nearest_in_class"] = job.data.texts.count_nearest_in_class()
    write_json(folder / PROBE_NAME, {**found, "box_unit": find_box_unit([*training, *test_cases])})
    dataset = job.recipe.dataset
    rows = score_floors(job, training, test_cases, drawn)
    question_set = ask_without_text(test_cases, [TIGHT, *drawn])
    shown = find_shown(question_set.questions)
    evaluator = Evaluator(job.data.root, frozen.source, frozen.segmenter, frame, drawn, ranks)
    keep_masks = job.suite.bench.keep_masks
    answers = evaluator.answer(None, question_set, list(shown.values()), keep_masks=keep_masks)
    rows += answers.to_rows(
        question_set.questions, untrained("baseline", dataset.kind, dataset.test_fold), job.data.fields
    )
    crops = {}
    for case in job.data.select(list(shown)):
        crops[f"{case.case_id}/image"] = cut_out(load_annotated(job.data.root, case), case.box_xyxy)
        crops[f"{case.case_id}/mask"] = cut_out(load_mask(job.data.root, case), case.box_xyxy)
    write_crops(folder / CROPS_NAME, crops)
    write_crops(folder / MASKS_NAME, dict(zip(shown, answers.crops, strict=True)))
    (folder / PREDICTED_NAME).unlink(missing_ok=True)  # of an earlier evaluation, which was asked less
    if keep_masks:
        write_predicted(folder / PREDICTED_NAME, question_set.questions, answers.masks)
    write_results(folder / RESULTS_NAME, rows)  # last: its presence says that the folder is whole


def find_scored_boxes(folder: Path) -> set[str]:
    """Return the boxes that the floors of a reference folder are scored with; none where its table is damaged."""
    path = folder / RESULTS_NAME
    try:
        return set(load_results(path)["box"].unique())
    except RunFolderError:  # absent, or to be written anew: nothing in it was trained
        return set()


def _draw_for(job: Job, test_cases: Sequence[Case], names: Sequence[str]) -> dict[str, dict[str, FloatBox]]:
    """Draw the test cases' boxes; each belongs to the case's place in the whole data set."""
    wanted = {case.case_id for case in test_cases}
    drawn = draw_boxes(job.data.cases, names)
    return {name: {case_id: box for case_id, box in of.items() if case_id in wanted} for name, of in drawn.items()}


def describe_probe(probes: Mapping[str, FieldProbe], same_class_donors: float | None) -> dict[str, Any]:
    """Return the content of probe.json; what is not defined is null."""
    fields: dict[str, Any] = {}
    for field, probe in probes.items():
        described = asdict(probe)
        for name in ("auc", "auc_cross_validated"):
            described[name] = {key: None if math.isnan(value) else value for key, value in described[name].items()}
        fields[field] = described
    return {"fields": fields, "same_class_donors": same_class_donors}


def score_floors(job: Job, training: Sequence[Case], test_cases: Sequence[Case], boxes: Boxes) -> list[dict[str, Any]]:
    """Return result rows of the box, the ellipse, the mean mask, and the mean mask of the right and the wrong class.

    Classes are those of the first text field: those of all fields together have too few masks each. Where there are
    several, the wrong class is of that field alone, and the condition says so. Free texts without classes have none.
    """
    field, constant = next(iter(job.data.fields), ""), job.recipe.dataset
    mistaken = WRONG if len(job.data.fields) == 1 else f"{WRONG}:{field}"
    wrong = job.data.asking.wrong.get(field, {})
    crops = [crop_to_box(job.data.root, case) for case in training]
    mean_mask = fit_mean_mask(crops)
    by_class: Mapping[str, MeanMask] = {}
    if field:
        classes = [case.text_fields[field] for case in training]
        known = sorted({*classes, *(case.text_fields[field] for case in test_cases), *wrong.values()})
        by_class = fit_class_mean_masks(crops, classes, known)
    rows = []
    for case in test_cases:
        reference, own = load_mask(job.data.root, case), case.text_fields
        given = {RIGHT: dict(own)} if field else {}
        if field and own[field] in wrong:
            given[mistaken] = {**own, field: wrong[own[field]]}
        for box in (TIGHT, *boxes):
            drawn = case.box_xyxy if box == TIGHT else round_box(boxes[box][case.case_id])
            frame = (case.height, case.width, drawn)
            predictions = [
                ("floor_box", "none", "", predict_box(*frame)),
                ("floor_ellipse", "none", "", predict_ellipse(*frame)),
                ("floor_mean_mask", "none", "", mean_mask.predict(*frame)),
            ]
            for condition, values in given.items():
                mask = by_class[values[field]].predict(*frame)
                predictions.append(("floor_class_mask", condition, join_values(values, job.data.fields), mask))
            for arm, condition, said, mask in predictions:
                head = make_row_head(case, job.data.fields, untrained(arm, constant.kind, constant.test_fold))
                in_full = is_measured_in_full(condition, box)
                scores = measure_mask(mask, reference, case.box_xyxy, case.spacing_mm, in_full)
                row = {**head, "given_class": said, "condition": condition, "box": box}
                rows.append({**row, **make_row_scores(scores)})
    return rows


def crop_to_box(root: Path, case: Case) -> Any:
    """Return the case's reference mask inside its tight box."""
    x0, y0, x1, y1 = case.box_xyxy
    return load_mask(root, case)[y0:y1, x0:x1]
