"""All counterfactual conditions of some test cases: decoded the plain way one by one, ours, and the decoder alone."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from t2m_bench.data.case import Case
from t2m_bench.data.frame import Frame
from t2m_bench.data.images import load_mask, write_png
from t2m_bench.data.prompts import UNKNOWN, find_neighbours
from t2m_bench.embedding.shards.reader import ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.shards.writer import EmbeddedCase, finish_shards, plan_shards, write_shard
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.evaluation.conditions import EvaluationSpec, Question, QuestionSet, build_questions
from t2m_bench.evaluation.evaluate import Answers, Evaluator
from t2m_bench.metrics.floors import predict_ellipse
from t2m_bench.metrics.overlap import compute_dice
from t2m_bench.models.segmenter import restore_mask, split_for_cache
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, Seconds, measure
from t2m_bench.perf.metrics import HEIGHT, WIDTH
from t2m_bench.perf.plain import PlainSegmentation
from t2m_bench.perf.problem import FULL_GRID, MINI_GRID, TEXT_WIDTH, TOKEN_PX, Alone, Problem, make_problem
from t2m_bench.recipe.conditions import DEFAULT_CONDITIONS, RIGHT
from t2m_bench.recipe.measures import DICE
from t2m_bench.recipe.schema import IMAGE_WIDTH, TIGHT

NUM_CASES, MINI_NUM_CASES, REPEATS = 4, 16, 5
CLASSES = ("2", "3", "4", "5")
WRONG = {"birads": {"2": "5", "3": "5", "4": "2", "5": "2"}}
SIGNATURE = Signature("perf", "", "", "")
TOLERANCE = 2e-3
"""Tolerance of Dice: random weights leave many logits near 0, where rounding decides."""


def measure_eval(device: str) -> Measurement:
    """Measure every condition of a benchmark with tight boxes, fp32, on 64x64 tokens and on mini's 16x16.

    Beside each, `one by one` tells what is gained by asking together: there, the plain way is our own evaluation of one
    condition, as often as there are distinct prompts.

    Raises:
        AssertionError: the two ways do not give the same Dice; then no time means anything.
    """
    full, full_alone = measure_one(device, NUM_CASES, FULL_GRID, REPEATS)
    return full.with_others(full_alone, *measure_one(device, MINI_NUM_CASES, MINI_GRID, REPEATS))


def measure_one(device: str, num_cases: int, grid: int, repeats: int) -> tuple[Measurement, Measurement]:
    """Measure from shards and mask files to the Dice of every question, beside the plain way and one by one."""
    problem = make_problem(torch.device(device), 1, grid)
    with tempfile.TemporaryDirectory(prefix="t2m-perf-") as folder:
        cases, texts = _write_cases(Path(folder), num_cases, grid), _make_texts()
        source, group = ShardReader(Path(folder), SIGNATURE), Alone(torch.device(device))
        frame = Frame(grid * TOKEN_PX, grid)
        evaluator = Evaluator(Path(folder), source, problem.segmenter, frame, {}, group)
        asked = build_questions(cases, texts, _ask_everything(cases))
        right = QuestionSet(
            tuple(question for question in asked.questions if question.condition == RIGHT), asked.vectors
        )
        distinct = list({question.key: question for question in asked.questions}.values())
        plain = PlainSegmentation(problem.adapter, problem.segmenter).to(device).eval()

        def answer_all() -> Answers:
            return evaluator.answer(problem.adapter, asked, dice_alone=True)

        def answer_right() -> Answers:
            return evaluator.answer(problem.adapter, right, dice_alone=True)

        def answer_plainly(questions: Sequence[Question]) -> list[float]:
            return [_answer_plainly(question, asked, plain, evaluator) for question in questions]

        dice = dict(zip((question.key for question in asked.questions), answer_all().select(DICE), strict=True))
        np.testing.assert_allclose(
            [dice[question.key] for question in distinct], answer_plainly(distinct), rtol=0, atol=TOLERANCE
        )
        prompts = len(distinct) / len(cases)
        plain_row = (PLAIN, f"one condition, question by question, segment_anything's decoder; x {prompts:.2f}")
        alone_row = (PLAIN, f"one condition, our evaluation; x {prompts:.2f}")
        ours_row = (OURS, "each case, text and box once, as many as a cache holds, laid out once a case")
        limit_row = (LIMIT, "our decode alone, as often as there are distinct prompts, embeddings in memory")
        ways: dict[tuple[str, str], Callable[[], object]] = {
            plain_row: _scale(lambda: answer_plainly(right.questions), prompts),
            alone_row: _scale(answer_right, prompts),
            ours_row: answer_all,
            limit_row: _prepare_limit(problem, len(distinct)),
        }
        setting = (
            f"{num_cases} cases, {len(asked.questions)} questions, {prompts:.2f} distinct prompts a case, "
            f"{grid}x{grid}x{IMAGE_WIDTH}, fp32, {device}, {torch.get_num_threads()} threads"
        )
        rows = dict(zip(ways, measure("eval", setting, ways, repeats).rows, strict=True))
    beside_plain = tuple(rows[key] for key in (plain_row, ours_row, limit_row))
    beside_ours = tuple(rows[key] for key in (alone_row, ours_row, limit_row))
    name = f"eval {grid}x{grid}"
    return Measurement(name, setting, beside_plain), Measurement(f"{name}, one by one", setting, beside_ours)


def _scale(work: Callable[[], object], factor: float) -> Callable[[], Seconds]:
    """Return work that takes `factor` times its seconds."""

    def run() -> Seconds:
        start = time.perf_counter()
        work()
        return Seconds(factor * (time.perf_counter() - start))

    return run


@torch.no_grad()
def _answer_plainly(question: Question, question_set: QuestionSet, plain: PlainSegmentation, ours: Evaluator) -> float:
    """Return the Dice of one question, everything read and decoded for it."""
    stored = ours.source.read([question.case.case_id])
    assert question.prompt is not None
    text = question_set.vectors[list(question.prompt)].mean(dim=0)
    given = (torch.from_numpy(stored.image_embedding).float(), text[None], torch.from_numpy(stored.box_xyxy))
    low_res_logits, _, _ = plain(*(tensor.to(ours.ranks.device) for tensor in given))
    mask = restore_mask(low_res_logits[0], ours.frame, question.case.height, question.case.width)
    return compute_dice(mask.cpu().numpy(), load_mask(ours.root, question.case))


def _prepare_limit(problem: Problem, num_prompts: int) -> Callable[[], None]:
    part = problem.batch.image_embedding  # (1, D, h, w)
    sizes = [len(range(num_prompts)[rows]) for rows in split_for_cache(part, num_prompts)]
    parts = {size: part.expand(size, -1, -1, -1) for size in sizes}
    boxes = {size: problem.batch.box_xyxy.expand(size, -1) for size in sizes}

    @torch.no_grad()
    def run() -> None:
        for size in sizes:
            problem.segmenter(parts[size], boxes[size]).cpu()

    return run


def _ask_everything(cases: Sequence[Case]) -> EvaluationSpec:
    """Ask all conditions; half of the probe's predictions are right."""
    predicted = {case.case_id: {"birads": CLASSES[number % 2]} for number, case in enumerate(cases)}
    places = {case.case_id: place for place, case in enumerate(cases)}
    plausible = {"birads": find_neighbours(CLASSES)}
    return EvaluationSpec(DEFAULT_CONDITIONS, (TIGHT,), WRONG, {"birads": CLASSES}, predicted, places, plausible)


def _make_texts() -> TextTable:
    """Return a table of random vectors: a sentence and a held-out one for each class and for unknown."""
    values = (*CLASSES, UNKNOWN)
    vectors = torch.randn(2 * len(values), TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    rows = {value: (number,) for number, value in enumerate(values)}
    held_out = {value: (number + len(values),) for number, value in enumerate(values)}
    return TextTable(vectors, {"birads": rows}, {}, {"birads": held_out})


def _write_cases(folder: Path, num_cases: int, grid: int) -> list[Case]:
    """Write shards of random embeddings and reference masks as BUS-BRA's are in size; return the cases."""
    rng, cases, embedded = np.random.default_rng(0), [], []
    for number in range(num_cases):
        x0, y0 = (int(start) for start in rng.integers(20, 150, 2))
        box = (x0, y0, x0 + int(rng.integers(80, 220)), y0 + int(rng.integers(80, 220)))
        name = f"case-{number}"
        path = Path(f"{name}.png")
        write_png(folder / path, predict_ellipse(HEIGHT, WIDTH, box))
        fields = {"birads": CLASSES[number % len(CLASSES)]}
        cases.append(Case(name, f"p{number}", path, path, HEIGHT, WIDTH, box, fields, 1, None, (), "", ""))
        embedding = rng.standard_normal((IMAGE_WIDTH, grid, grid), dtype=np.float32).astype(np.float16)
        side = np.float32(grid * TOKEN_PX)
        scaled = np.array(box, np.float32) * np.array([side / WIDTH, side / HEIGHT] * 2, np.float32)
        embedded.append(EmbeddedCase(name, embedding, np.zeros((4 * grid, 4 * grid), np.uint8), scaled))
    (plan,) = plan_shards([case.case_id for case in cases], 1, 256)
    write_shard(folder, plan, SIGNATURE, embedded)
    finish_shards(folder, [plan], SIGNATURE)
    return cases
