"""The probe on features whose information about the class is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from t2m_bench.data.case import Case
from t2m_bench.shards.reader import EmbeddedBatch
from t2m_bench.training.probe import compute_macro_auc, describe_boxes, pool_embeddings, probe_field


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
        def read(self, case_ids: object) -> EmbeddedBatch:
            embedding = np.zeros((1, 2, 8, 8), np.float16)
            embedding[0, 1, 2:6, 1:3] = 4.0
            embedding[0, 0, 0, 0] = 9.0
            return EmbeddedBatch(embedding, np.zeros((1, 32, 32), np.uint8), np.array([[8, 16, 24, 48]], np.float32))

    (case, *_) = make_cases(1)
    assert pool_embeddings([case], Source(), 64)[case.case_id].tolist() == [0.0, 4.0]
