from pathlib import Path

import pytest
from fold_data import make_fold_data
from PIL import Image

from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.evaluation.conditions import EvaluationSpec
from t2m_bench.recipe.schema import parse_recipe
from t2m_bench.runs.reference import score_floors
from t2m_bench.runs.setup import Job


@pytest.mark.parametrize(("fields", "mistaken"), [(("t_stage",), "wrong"), (("t_stage", "histology"), "wrong:t_stage")])
def test_the_class_floor_s_wrong_text_is_of_the_first_field_and_says_so(
    tmp_path: Path, fields: tuple[str, ...], mistaken: str
) -> None:
    picture = Image.new("1", (20, 20))
    picture.paste(1, (4, 4, 12, 12))
    picture.save(tmp_path / "mask.png")
    place, mask = Path("mask.png"), Path("mask.png")
    texts = {f"case-{number}": dict.fromkeys(fields, "A") for number in range(3)}
    cases = tuple(
        Case(name, f"patient-{name}", place, mask, 20, 20, (4, 4, 12, 12), values, 1, None, (), "", "")
        for name, values in texts.items()
    )
    recipe = parse_recipe({"name": "x", "dataset": {"root": "x"}}, "test")
    asking = EvaluationSpec(("right", "wrong"), ("tight",), {name: {"A": "B"} for name in fields}, {}, {}, {})
    splits = Splits(tuple(texts)[:2], (), tuple(texts)[2:])
    data = make_fold_data(tmp_path, cases, splits, asking)
    job = Job("gated", recipe, recipe, data, run_folder=tmp_path)
    rows = [row for row in score_floors(job, cases[:2], cases[2:], {}) if row["arm"] == "floor_class_mask"]
    given = {row["condition"]: row["given_class"] for row in rows}
    assert given == {"right": " + ".join("A" * len(fields)), mistaken: " + ".join("BA"[: len(fields)])}
