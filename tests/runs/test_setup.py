import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fold_data import make_fold_data
from messages import raises_naming
from plugins import install
from torch import nn

from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.embedding.shards.reader import EmbeddedBatch
from t2m_bench.embedding.spread import measure_scale
from t2m_bench.errors import RecipeError
from t2m_bench.evaluation.conditions import EvaluationSpec
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.schema import AdapterSection, parse_recipe
from t2m_bench.runs import job as run_job
from t2m_bench.runs.setup import Frozen, Job, RunContext, set_up
from t2m_bench.training.checkpoint import load_adapter, save_adapter
from t2m_bench.training.process_group import ProcessGroup


def make_job(folder: Path) -> Job:
    texts = {f"case-{number}": {"birads": str(number)} for number in range(12)}
    cases = tuple(
        Case(name, f"p{name}", Path("x"), Path("x"), 50, 50, (1, 1, 9, 9), fields, 1, None, (), "", "")
        for name, fields in texts.items()
    )
    train, test = tuple(texts)[:8], tuple(texts)[8:]
    raw = {"name": "x", "dataset": {"root": "x", "validation": "test"}, "adapter": {"kind": "shuffled"}}
    recipe = parse_recipe(raw, "test")
    asking = EvaluationSpec(("right",), ("tight",), {}, {}, {}, {})
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
        set_up(make_job_of("mute", tmp_path), ProcessGroup("no", False), make_frozen())


NEED_A_DECODER = ("unet", "tuned_decoder", "tuned_text_free", "tuned_hierarchical")


@pytest.mark.parametrize("arm", [name for name in ARMS.names if name not in NEED_A_DECODER])
def test_our_arms_are_what_their_entries_say(tmp_path: Path, arm: str) -> None:
    bench = set_up(make_job_of(arm, tmp_path), ProcessGroup("no", False), make_frozen())
    entry = ARMS.find(arm)
    assert (bench.arm.uses_text, bench.arm.has_text_loss) == (entry.reads_text, entry.has_text_loss)


def make_job_of(arm: str, folder: Path) -> Job:
    job = make_job(folder)
    return replace(job, recipe=job.recipe.model_copy(update={"adapter": AdapterSection(kind=arm)}))


class Embeddings:
    """Embeddings of cases, each all of one value, which is the number in its name."""

    def read(self, case_ids: Sequence[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch:
        values = np.array([float(name.rpartition("-")[2]) for name in case_ids], np.float16)
        embedding = np.broadcast_to(values[:, None, None, None], (len(values), 256, 2, 2))
        return EmbeddedBatch(embedding, np.zeros((len(values), 8, 8), np.uint8), np.zeros((len(values), 4), np.float32))


def make_frozen() -> Frozen:
    sam = type("Sam", (), {"frame": None})()
    return Frozen(sam, nn.Identity(), Embeddings())  # type: ignore[arg-type]  # nothing is decoded


def test_an_adapter_is_scaled_by_the_training_cases_alone(tmp_path: Path) -> None:
    job = make_job_of("hierarchical", tmp_path)
    arm = set_up(job, ProcessGroup("no", False), make_frozen()).arm
    wanted = np.arange(8).std()  # the training cases
    for level in ("coarse", "fine"):
        assert float(arm.get_buffer(f"levels.{level}.scale")) == pytest.approx(wanted, rel=1e-6)
    save_adapter(tmp_path, arm, {})
    arm.get_buffer("levels.fine.scale").fill_(9.0)
    load_adapter(tmp_path, arm)
    assert float(arm.get_buffer("levels.fine.scale")) == pytest.approx(wanted, rel=1e-6), "the file holds it"


def test_the_spread_of_many_cases_is_that_of_some_whatever_their_order() -> None:
    names = [f"case-{number:03}" for number in range(500)]
    found = measure_scale(Embeddings(), names)
    assert found == measure_scale(Embeddings(), names[::-1]) == pytest.approx(np.arange(500).std(), rel=0.03)


@pytest.mark.parametrize("first_weights", ["seed", "seed_and_fold"])
def test_folds_start_from_weights_of_their_own(tmp_path: Path, first_weights: str) -> None:
    job = make_job_of("hierarchical", tmp_path)
    found = {}
    for seed in (0, 1):
        for fold in (1, 2):
            update = {"seed": seed, "first_weights": first_weights}
            recipe = job.recipe.with_fold(fold).model_copy(update=update)
            arm = set_up(replace(job, recipe=recipe), ProcessGroup("no", False), make_frozen()).arm
            again = set_up(replace(job, recipe=recipe), ProcessGroup("no", False), make_frozen()).arm
            weight = arm.get_parameter("levels.fine.attention.out.weight")
            assert torch.equal(weight, again.get_parameter("levels.fine.attention.out.weight"))
            found[seed, fold] = float(weight.detach().sum())
    assert len(set(found.values())) == (2 if first_weights == "seed" else 4)


def test_what_cannot_be_asked_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(bench: RunContext) -> None:
        raise RecipeError("a name that is none of the condition's own")

    def train(*_: object, **__: object) -> None:
        pytest.fail("training began")

    job = make_job(tmp_path)
    monkeypatch.setattr(run_job, "set_up", lambda job, ranks: type("RunContext", (), {"job": job}))
    monkeypatch.setattr(run_job, "ask_to_validate", lambda bench: None)
    monkeypatch.setattr(run_job, "ask_to_test", refuse)
    monkeypatch.setattr(run_job, "make_trainer", train)
    with pytest.raises(RecipeError):
        run_job.train(job, ProcessGroup("no", False))
