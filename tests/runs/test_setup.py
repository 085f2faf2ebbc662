import json
from dataclasses import replace
from pathlib import Path

import pytest
from fold_data import make_fold_data
from messages import raises_naming
from plugins import install
from torch import nn

from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.errors import RecipeError
from t2m_bench.evaluation.conditions import Asking
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.schema import AdapterSection, parse_recipe
from t2m_bench.runs import job as run_job
from t2m_bench.runs.setup import Bench, Frozen, Job, set_up
from t2m_bench.training.process_group import Ranks


def make_job(folder: Path) -> Job:
    texts = {f"case-{number}": {"birads": str(number)} for number in range(12)}
    cases = tuple(
        Case(name, f"p{name}", Path("x"), Path("x"), 50, 50, (1, 1, 9, 9), fields, 1, None, (), "", "")
        for name, fields in texts.items()
    )
    train, test = tuple(texts)[:8], tuple(texts)[8:]
    raw = {"name": "x", "dataset": {"root": "x", "validation": "test"}, "adapter": {"kind": "shuffled"}}
    recipe = parse_recipe(raw, "test")
    asking = Asking(("right",), ("tight",), {}, {}, {}, {})
    data = make_fold_data(folder, cases, Splits(train, test, test), asking)
    return Job("shuffled", recipe, recipe, data, run_folder=folder)


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


ARM = """
from t2m_bench.models.arm import Arm, Built
from t2m_bench.recipe.arms import ArmEntry

class Mute(Arm):
    pass

def build(context):
    return Built(Mute(), context.segmenter)

MUTE = ArmEntry("mute", "mute", build="mute_arm:build", levels=(), SAID)
"""


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("has_text_loss=False", {"mute", "reads_text", "True", "Mute", "uses_text", "False"}),
        ("reads_text=False", {"mute", "has_text_loss", "True", "Mute", "False"}),
    ],
)
def test_an_arm_that_is_not_what_its_entry_says_is_refused(tmp_path: Path, said: str, named: set[str]) -> None:
    installed = install(tmp_path, "mute_arm", ARM.replace("SAID", said), {"t2m_bench.arms": "mute = mute_arm:MUTE"})
    with installed, raises_naming(RecipeError, *named):
        set_up(make_job_of("mute", tmp_path), Ranks("no", False), make_frozen())


@pytest.mark.parametrize("arm", [name for name in ARMS.names if name not in ("unet", "tuned_decoder")])
def test_our_arms_are_what_their_entries_say(tmp_path: Path, arm: str) -> None:
    bench = set_up(make_job_of(arm, tmp_path), Ranks("no", False), make_frozen())
    entry = ARMS.find(arm)
    assert (bench.arm.uses_text, bench.arm.has_text_loss) == (entry.reads_text, entry.has_text_loss)


def make_job_of(arm: str, folder: Path) -> Job:
    job = make_job(folder)
    return replace(job, recipe=job.recipe.model_copy(update={"adapter": AdapterSection(kind=arm)}))


def make_frozen() -> Frozen:
    sam = type("Sam", (), {"frame": None})()
    return Frozen(sam, nn.Identity(), None)  # type: ignore[arg-type]  # nothing is decoded


def test_what_cannot_be_asked_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(bench: Bench) -> None:
        raise RecipeError("a name that is none of the condition's own")

    def train(*_: object, **__: object) -> None:
        pytest.fail("training began")

    job = make_job(tmp_path)
    monkeypatch.setattr(run_job, "set_up", lambda job, ranks: type("Bench", (), {"job": job}))
    monkeypatch.setattr(run_job, "ask_to_validate", lambda bench: None)
    monkeypatch.setattr(run_job, "ask_to_test", refuse)
    monkeypatch.setattr(run_job, "make_trainer", train)
    with pytest.raises(RecipeError):
        run_job.train(job, Ranks("no", False))
