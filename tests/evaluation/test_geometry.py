from pathlib import Path

import numpy as np
import pytest
import torch

from t2m_bench.data.case import Case
from t2m_bench.data.images import compute_tight_box, write_png
from t2m_bench.embedding.text_table import FreeTexts, TextTable
from t2m_bench.evaluation.geometry import TARGETS, audit_geometry

SIDE, CASES, WIDTH = 64, 160, 24


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    """Ellipses of two classes, the one twice as large on average; two images of each patient."""
    root, rng, found = tmp_path_factory.mktemp("masks"), np.random.default_rng(0), []
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(CASES):
        name = "ab"[number // 2 % 2]
        radius = rng.uniform(5, 12) * (1.5 if name == "b" else 1.0)
        y, x = rng.uniform(20, 44, size=2)
        mask = ((rows - y) / radius) ** 2 + ((columns - x) / radius / rng.uniform(0.8, 1.2)) ** 2 <= 1
        write_png(root / f"{number}.png", mask)
        values = {"text": f"t{number}", "kind": name}
        path, patient = Path(f"{number}.png"), f"p{number // 2}"
        box = compute_tight_box(mask)
        found.append(Case(f"c{number}", patient, path, path, SIDE, SIDE, box, values, 1, None, (), "", ""))
    return root, found


def make_texts(cases: list[Case], embeddings: np.ndarray, class_field: str) -> TextTable:
    rows = {case.text_fields["text"]: (row,) for row, case in enumerate(cases)}
    free = FreeTexts("text", class_field, ("a", "b") if class_field else ())
    fields_of = {case.case_id: case.text_fields for case in cases}
    return TextTable(torch.from_numpy(embeddings.astype(np.float32)), {"text": rows}, fields_of, {}, free)


def embed(cases: list[Case], tells_size: bool) -> np.ndarray:
    """Sentences that name the class, and the size where asked, mixed over all dimensions and in varied words."""
    rng = np.random.default_rng(1)
    sizes = np.log([case.box_xyxy[2] - case.box_xyxy[0] for case in cases])
    said = [np.array([case.text_fields["kind"] == "b" for case in cases], float)]
    said += [sizes - sizes.mean()] if tells_size else []
    mixed = np.stack(said, axis=1) @ rng.normal(size=(len(said), WIDTH))
    return mixed + 0.2 * rng.normal(size=(len(cases), WIDTH))


def test_a_text_that_states_the_size_is_told_from_one_that_states_the_class(cases: tuple[Path, list[Case]]) -> None:
    root, found = cases
    with_size = audit_geometry(root, found, make_texts(found, embed(found, True), "kind"))
    without = audit_geometry(root, found, make_texts(found, embed(found, False), "kind"))
    assert with_size.keys() == without.keys() == set(TARGETS)
    assert with_size["log_area"].low > 0.3
    assert without["log_area"].low < 0.05
    assert without["log_area"].r2["class"] > 0.1
    assert all(fit.low < 0.05 for name, fit in with_size.items() if name.startswith("centre"))
    assert all(fit.low_given_box < 0.05 for name, fit in with_size.items() if name != "log_fill")
    assert with_size["log_area"].r2["box"] > 0.8


def test_without_a_class_what_the_text_says_of_it_counts(cases: tuple[Path, list[Case]]) -> None:
    root, found = cases
    fits = audit_geometry(root, found, make_texts(found, embed(found, False), ""))
    assert fits["log_area"].low > 0.05
    assert "class" not in fits["log_area"].r2


def test_few_patients_give_no_figure(cases: tuple[Path, list[Case]]) -> None:
    root, found = cases
    assert audit_geometry(root, found[:20], make_texts(found, embed(found, True), "kind")) == {}
