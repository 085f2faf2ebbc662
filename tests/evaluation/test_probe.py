"""The probe on features whose information about the class is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from t2m_bench.data.case import Case
from t2m_bench.embedding.shards.reader import EmbeddedBatch
from t2m_bench.evaluation.probe import compute_macro_auc, describe_boxes, find_box_unit, pool_embeddings, probe_field


def make_cases(count: int) -> list[Case]:
    return [
        Case(
            f"case-{n}",
            f"p{n // 2}",
            Path("x"),
            Path("x"),
            64,
            64,
            (8, 16, 24, 48),
            {"z": "abc"[n % 3]},
            1,
            None,
            (),
            "",
            "",
        )
        for n in range(count)
    ]


def probe(noise: float) -> tuple[list[Case], object]:
    cases, rng = make_cases(180), np.random.default_rng(0)
    told = {
        case.case_id: np.eye(3)["abc".index(case.text_fields["z"])] + noise * rng.standard_normal(3) for case in cases
    }
    nothing = {case.case_id: rng.standard_normal(4) for case in cases}
    return cases, probe_field(cases[:120], cases[120:], "z", {"box": nothing, "embedding_and_box": told})


def test_what_tells_the_class_is_found_and_what_does_not_is_not() -> None:
    cases, found = probe(noise=0.1)
    assert found.auc["embedding_and_box"] == pytest.approx(1.0)
    assert found.auc_cross_validated["embedding_and_box"] == pytest.approx(1.0)
    assert found.auc["box"] == pytest.approx(0.5, abs=0.15)
    assert found.predicted == {case.case_id: case.text_fields["z"] for case in cases[120:]}


def test_unknown_classes_are_predicted_but_not_counted() -> None:
    cases = make_cases(90)
    cases = [replace(case, text_fields={"z": "unknown"}) if n % 10 == 0 else case for n, case in enumerate(cases)]
    rng = np.random.default_rng(1)
    features = {case.case_id: rng.standard_normal(2) for case in cases}
    found = probe_field(cases[:60], cases[60:], "z", {"box": features, "embedding_and_box": features})
    assert (found.num_train, found.num_test) == (54, 27)
    assert len(found.predicted) == 30
    assert set(found.predicted.values()) <= {"a", "b", "c"}


def test_many_images_of_few_patients_are_no_class_to_learn() -> None:
    cases = make_cases(90)
    rare = [replace(case, text_fields={"z": "rare"}, patient_id=f"r{n % 2}") for n, case in enumerate(make_cases(20))]
    rare = [replace(case, case_id=f"rare-{n}") for n, case in enumerate(rare)]
    rng = np.random.default_rng(1)
    features = {case.case_id: rng.standard_normal(2) for case in (*cases, *rare)}
    found = probe_field([*cases[:60], *rare], cases[60:], "z", {"box": features, "embedding_and_box": features})
    assert "rare" not in found.classes


def test_one_class_tells_nothing() -> None:
    cases = [replace(case, text_fields={"z": "a"}) for case in make_cases(40)]
    assert probe_field(cases[:30], cases[30:], "z", {"box": describe_boxes(cases)}) is None


def test_macro_auc_by_hand() -> None:
    truth = np.array(["a", "a", "b", "b"])
    chances = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]])
    assert compute_macro_auc(truth, chances, ("a", "b")) == 0.75  # 3 of 4 pairs in order, for either class
    assert np.isnan(compute_macro_auc(truth[:2], chances[:2], ("a", "b")))


def test_embeddings_are_pooled_over_the_box() -> None:
    class Source:
        def read(self, case_ids: object, into: EmbeddedBatch | None = None) -> EmbeddedBatch:
            embedding = np.zeros((1, 2, 8, 8), np.float16)
            embedding[0, 1, 2:6, 1:3] = 4.0
            embedding[0, 0, 0, 0] = 9.0
            return EmbeddedBatch(embedding, np.zeros((1, 32, 32), np.uint8), np.array([[8, 16, 24, 48]], np.float32))

    (case, *_) = make_cases(1)
    assert pool_embeddings([case], Source(), 64)[case.case_id].tolist() == [0.0, 4.0]


def test_boxes_are_measured_in_mm_where_the_spacing_of_all_is_known() -> None:
    case = make_cases(1)[0]  # 16 x 32 px in 64 x 64
    fine, coarse = (replace(case, spacing_mm=(2 * mm, mm)) for mm in (0.5, 1.0))
    assert find_box_unit([fine, coarse]) == "mm"
    for scan, mm in ((fine, 0.5), (coarse, 1.0)):
        (described,) = describe_boxes([scan]).values()
        sides = [16 * mm, 32 * 2 * mm]
        assert described.tolist() == pytest.approx(
            [*sides, np.sqrt(sides[0] * sides[1]), np.log(0.25), 0.25, 0.5, 0.25, 0.5]
        )
    assert find_box_unit([fine, case]) == "px"
    mixed = describe_boxes([replace(fine, case_id="fine"), case])
    assert mixed["fine"].tolist() == mixed[case.case_id].tolist()


def test_a_size_in_mm_tells_the_class_that_the_size_in_pixels_hides() -> None:
    """Scans of every field of view, so that a box of 16 px is anything from 8 to 16 mm."""
    rng, cases = np.random.default_rng(2), []
    for case in make_cases(180):
        mm = float(rng.uniform(0.5, 1.0))
        side = round((8 + 3 * "abc".index(case.text_fields["z"]) + rng.uniform(-1, 1)) / mm)
        cases.append(replace(case, spacing_mm=(mm, mm), box_xyxy=(8, 8, 8 + side, 8 + side)))
    auc = {}
    for unit, of in (("mm", cases), ("px", [replace(case, spacing_mm=None) for case in cases])):
        found = probe_field(of[:120], of[120:], "z", {"box": describe_boxes(of)})
        auc[unit] = found.auc["box"]
    assert auc["mm"] > 0.97
    assert auc["px"] < 0.9
