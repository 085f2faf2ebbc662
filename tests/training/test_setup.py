from pathlib import Path

import torch

from t2m_bench.config import parse_recipe
from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.shards.schema import Signature
from t2m_bench.training.batches import TextTable
from t2m_bench.training.conditions import Asking
from t2m_bench.training.setup import Job


def test_shuffled_texts_are_drawn_among_cases_outside_the_test_even_where_the_best_epoch_is_chosen_there() -> None:
    texts = {f"case-{number}": {"birads": str(number)} for number in range(12)}
    cases = tuple(
        Case(name, f"p{name}", Path("x"), Path("x"), 50, 50, (1, 1, 9, 9), fields, 1, None, (), "", "")
        for name, fields in texts.items()
    )
    train, test = tuple(texts)[:8], tuple(texts)[8:]
    raw = {"name": "x", "dataset": {"root": "x", "validation": "test"}, "adapter": {"kind": "shuffled"}}
    recipe, path = parse_recipe(raw, "test"), Path("x")
    table = TextTable(torch.zeros(1, 4), {}, texts, {})
    asking = Asking(("right",), ("tight",), {}, {}, {}, {})
    splits = Splits(train, test, test)
    signature = Signature("mini", "", "", "")  # of shards that are not opened
    job = Job(
        "shuffled", recipe, recipe, path, None, cases, splits, path, signature, table, ("birads",), asking, path, path
    )
    found = job.make_texts().fields_of
    assert all(found[name] == texts[name] for name in test)
    given = [found[name]["birads"] for name in train]
    assert sorted(given) == [texts[name]["birads"] for name in train], "no test case's text is trained with"
    assert given != sorted(given)
