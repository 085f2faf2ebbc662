import json
from pathlib import Path

import torch

from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.evaluation.conditions import Asking
from t2m_bench.recipe.schema import parse_recipe
from t2m_bench.runs.setup import FoldData, Job


def make_job(folder: Path) -> Job:
    texts = {f"case-{number}": {"birads": str(number)} for number in range(12)}
    cases = tuple(
        Case(name, f"p{name}", Path("x"), Path("x"), 50, 50, (1, 1, 9, 9), fields, 1, None, (), "", "")
        for name, fields in texts.items()
    )
    train, test = tuple(texts)[:8], tuple(texts)[8:]
    raw = {"name": "x", "dataset": {"root": "x", "validation": "test"}, "adapter": {"kind": "shuffled"}}
    recipe, path = parse_recipe(raw, "test"), folder
    table = TextTable(torch.zeros(1, 4), {}, texts, {})
    asking = Asking(("right",), ("tight",), {}, {}, {}, {})
    splits = Splits(train, test, test)
    signature = Signature("mini", "", "", "")  # of shards that are not opened
    data = FoldData(
        root=path,
        checkpoint=None,
        cases=cases,
        splits=splits,
        shards=path,
        signature=signature,
        texts=table,
        fields=("birads",),
        asking=asking,
        reference=path,
    )
    return Job("shuffled", recipe, recipe, data, run_folder=path)


def test_shuffled_texts_are_drawn_among_cases_outside_the_test_even_where_the_best_epoch_is_chosen_there(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path)
    texts = {case.case_id: case.text_fields for case in job.data.cases}
    train, test = job.data.splits.train, job.data.splits.test
    found = job.make_texts().fields_of
    assert all(found[name] == texts[name] for name in test)
    given = [found[name]["birads"] for name in train]
    assert sorted(given) == [texts[name]["birads"] for name in train], "no test case's text is trained with"
    assert given != sorted(given)


def test_what_the_image_does_not_predict_is_not_told_as_if_it_did(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    test = job.data.splits.test
    (tmp_path / "boxes.json").write_text("{}")
    (tmp_path / "probe.json").write_text('{"fields": {}}')
    assert job.data.load_asking()[0].predicted == {}, "of no field a class was predicted"
    (tmp_path / "probe.json").write_text(json.dumps({"fields": {"z": {"predicted": dict.fromkeys(test, "1")}}}))
    assert job.data.load_asking()[0].predicted[test[0]] == {"birads": "unknown", "z": "1"}
