"""A run whose cases each have a text of their own: applied to new ones, exported without any of them."""

from pathlib import Path

import pandas as pd
import pytest
from text_phantoms import make_text_recipe, write_text_phantoms

from t2m_bench import Predictor
from t2m_bench.data.images import load_image, load_mask
from t2m_bench.data.manifest import load_manifest
from t2m_bench.metrics.measures import measure_mask
from t2m_bench.metrics.results import load_results
from t2m_bench.pipeline.bench import bench
from t2m_bench.pipeline.export import export
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.terminal import Terminal


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("free")
    table = write_text_phantoms(folder / "data", cases=40, text_effect=1.0)
    recipe = make_text_recipe(
        table,
        {"column": "report"},
        bench={"arms": ["text_free", "hierarchical"], "conditions": ["right"], "boxes": ["tight"]},
    )
    suite = bench(recipe, folder / "runs", Terminal(), StopRequest())
    assert not suite.failures
    (run,) = suite.experiment.folder.glob("hierarchical-*")
    return {"run": run, "prepared": prepare(recipe, folder / "runs", Terminal()), "table": table}


def test_the_text_of_a_case_gives_the_mask_of_the_benchmark(trained: dict[str, object], tmp_path: Path) -> None:
    run, prepared = trained["run"], trained["prepared"]
    named = load_manifest(prepared.folder / "manifest.jsonl")
    text_of = {case.case_id: source.text for case, source in zip(prepared.cases, named, strict=True)}
    cases = [case for case in prepared.cases if case.case_id in set(prepared.splits.test)]
    results = load_results(run / "cases.parquet")
    dice = results[results["condition"] == "right"].set_index("case")["dice"]
    export(run, tmp_path / "adapter")
    for place in (run, tmp_path / "adapter"):
        predictor = Predictor.load(place, device="cpu")
        answers = predictor.predict_batch(
            [load_image(prepared.root, case) for case in cases],
            [case.box_xyxy for case in cases],
            texts=[text_of[case.case_id] or None for case in cases],
            fields=[None if text_of[case.case_id] else {} for case in cases],
        )
        for case, answer in zip(cases, answers, strict=True):
            found = measure_mask(answer.mask, load_mask(prepared.root, case), case.box_xyxy, case.spacing_mm)
            assert found["dice"] == dice[case.case_id]


def test_an_export_holds_no_text_of_a_case(trained: dict[str, object], tmp_path: Path) -> None:
    export(trained["run"], tmp_path / "adapter")
    texts = set(pd.read_csv(trained["table"], dtype=str)["report"].dropna())
    assert texts
    for path in (tmp_path / "adapter").iterdir():
        content = path.read_bytes()
        assert [text for text in texts if text.encode() in content] == []
