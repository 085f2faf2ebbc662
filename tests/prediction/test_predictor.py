"""A trained adapter from Python: masks equal to the benchmark's, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from benched import ARMS, Benched
from messages import raises_naming

from t2m_bench import Predictor
from t2m_bench.data import prompts
from t2m_bench.data.images import load_mask, write_png
from t2m_bench.data.prompts import load_prompts
from t2m_bench.errors import DatasetError, RecipeError, RunFolderError, UserError, WeightsError
from t2m_bench.evaluation.crops import cut_out
from t2m_bench.metrics.measures import list_measured, measure_mask
from t2m_bench.metrics.results import load_results
from t2m_bench.recipe.arms import ARMS as ARM_TABLE
from t2m_bench.reporting.results import load_crops

BOX = (40.0, 40.0, 120.0, 110.0)


@pytest.fixture(scope="module")
def image(benched: Benched) -> np.ndarray:
    return benched.load_image(benched.list_test_cases()[0])


@pytest.fixture(scope="module")
def hierarchical(benched: Benched) -> Predictor:
    return Predictor.load(benched.find_run("hierarchical"))


@pytest.fixture
def copy(benched: Benched, tmp_path: Path) -> Path:
    """A copy of a run inside a copy of its experiment, to spoil."""
    run = benched.find_run("hierarchical")
    shutil.copytree(benched.runs / "prompt_banks", tmp_path / "prompt_banks")
    shutil.copytree(run, tmp_path / run.parent.name / run.name)
    shutil.copy(run.parent / "experiment.json", tmp_path / run.parent.name)
    return tmp_path / run.parent.name / run.name


@pytest.mark.parametrize("arm", ARMS)
def test_masks_equal_those_of_the_benchmark(benched: Benched, arm: str) -> None:
    run, cases = benched.find_run(arm), benched.list_test_cases()
    reads_text = ARM_TABLE.find(benched.recipe.with_arm(arm, 0).adapter.kind).reads_text
    predictor = Predictor.load(run, device="cpu")
    answers = predictor.predict_batch(
        [benched.load_image(case) for case in cases],
        [case.box_xyxy for case in cases],
        fields=[case.text_fields if reads_text else None for case in cases],
    )
    table = load_results(run / "cases.parquet")
    rows = table[table["condition"] == ("right" if reads_text else "none")].set_index("case")
    crops = load_crops(run / "masks.npz")
    for case, answer in zip(cases, answers, strict=True):
        reference = load_mask(benched.prepared.root, case)
        found = measure_mask(answer.mask, reference, case.box_xyxy, case.spacing_mm)
        want = rows.loc[case.case_id]
        np.testing.assert_array_equal([found[name] for name in list_measured()], want[list(list_measured())].to_list())
        np.testing.assert_array_equal(cut_out(answer.mask, case.box_xyxy) > 0, crops[case.case_id])
    assert any(answer.mask.any() for answer in answers)


def test_a_sentence_of_the_prompt_file_equals_its_class_and_another_is_encoded(
    benched: Benched, hierarchical: Predictor, image: np.ndarray
) -> None:
    book = load_prompts("birads", "category")
    by_class = hierarchical.predict(image, BOX, fields={"birads": "4"})
    by_sentence = hierarchical.predict(image, BOX, text=book.sentences("birads", "4", "training")[0])
    np.testing.assert_array_equal(by_class.logits, by_sentence.logits)
    other = hierarchical.predict(image, BOX, text="A suspicious lesion with an irregular margin.")
    assert not np.array_equal(other.logits, by_class.logits)
    assert hierarchical.predict(image, BOX, fields={}).logits.shape == (64, 64)


def test_a_file_gives_what_its_pixels_give_and_a_batch_what_single_calls_give(
    hierarchical: Predictor, image: np.ndarray, tmp_path: Path
) -> None:
    write_png(tmp_path / "image.png", image)
    one = hierarchical.predict(tmp_path / "image.png", BOX, fields={"birads": "3"})
    other = hierarchical.predict(image, (30, 30, 90, 90), fields={"birads": "3"})
    both = hierarchical.predict_batch([image, image], [BOX, (30, 30, 90, 90)], fields=[{"birads": "3"}] * 2)
    for single, batched in zip((one, other), both, strict=True):
        np.testing.assert_array_equal(single.mask, batched.mask)
    assert one.mask.shape == image.shape
    assert one.box == BOX
    assert one.seconds > 0


def test_several_runs_average_their_logits(benched: Benched, image: np.ndarray) -> None:
    runs = [benched.find_run(arm) for arm in ("hierarchical", "tuned_hierarchical")]
    alone = [Predictor.load(run, device="cpu").predict(image, BOX, fields={"birads": "2"}).logits for run in runs]
    together = Predictor.load(*runs, device="cpu").predict(image, BOX, fields={"birads": "2"})
    np.testing.assert_allclose(together.logits, (alone[0] + alone[1]) / 2, rtol=0, atol=1e-5)
    with raises_naming(UserError, "text_free"):
        Predictor.load(runs[0], benched.find_run("text_free")).predict(image, BOX, fields={"birads": "2"})
    with pytest.raises(UserError):
        Predictor.load(benched.find_run("text_free"), benched.find_run("unet"))


@pytest.mark.parametrize(
    ("arm", "given", "named"),
    [
        ("text_free", {"text": "a lesion"}, ["text_free"]),
        ("text_free", {"fields": {"birads": "4"}}, ["text_free"]),
        ("hierarchical", {}, ["birads"]),
        ("hierarchical", {"text": "a lesion", "fields": {"birads": "4"}}, ["birads"]),
        ("hierarchical", {"fields": {"birads": "9"}}, ["birads", "9", "5"]),
        ("hierarchical", {"fields": {"stage": "1"}}, ["stage", "birads"]),
        ("hierarchical", {"text": "  "}, ["empty"]),
        ("label", {"text": "a lesion"}, ["label", "birads"]),
    ],
)
def test_texts_that_do_not_fit_the_arm_are_refused(
    benched: Benched, image: np.ndarray, arm: str, given: dict[str, object], named: list[str]
) -> None:
    predictor = Predictor.load(benched.find_run(arm))
    with raises_naming(UserError, *named):
        predictor.predict(image, BOX, **given)


@pytest.mark.parametrize(
    "box", [(10, 10, 10, 20), (0, 0, 5000, 20), (-1, 0, 5, 5), (1, 2, 3), (0, 0, float("nan"), 4), (9, 9, 4, 4)]
)
def test_boxes_outside_the_image_are_refused(hierarchical: Predictor, image: np.ndarray, box: tuple[float]) -> None:
    with raises_naming(UserError, "box"):
        hierarchical.predict(image, box, fields={"birads": "4"})


def test_images_that_are_none_are_refused(hierarchical: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    with raises_naming(UserError, "float32"):
        hierarchical.predict(image.astype(np.float32), BOX, fields={"birads": "4"})
    with raises_naming(DatasetError, tmp_path / "none.png"):
        hierarchical.predict(tmp_path / "none.png", BOX, fields={"birads": "4"})
    with raises_naming(UserError, 2, 1):
        hierarchical.predict_batch([image, image], [BOX], fields=[{"birads": "4"}] * 2)


def test_an_altered_adapter_is_refused(copy: Path) -> None:
    path = copy / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with raises_naming(RunFolderError, path, "sha256"):
        Predictor.load(copy)


def test_an_adapter_of_another_run_is_refused(benched: Benched, copy: Path) -> None:
    shutil.copy(benched.find_run("text_free") / "adapter.safetensors", copy)
    with raises_naming(RunFolderError, copy / "adapter.safetensors"):
        Predictor.load(copy)


def change(path: Path, section: str, key: str, value: object) -> None:
    noted = json.loads(path.read_text())
    noted[section][key] = value
    path.write_text(json.dumps(noted))


def test_other_frozen_weights_are_refused(copy: Path, tmp_path: Path) -> None:
    change(copy.parent / "experiment.json", "hashes", "image_encoder", "0" * 64)
    with raises_naming(WeightsError, "mini", "0" * 64):
        Predictor.load(copy)


def test_another_text_encoder_is_refused_and_a_missing_one_only_where_it_is_needed(
    copy: Path, image: np.ndarray, tmp_path: Path
) -> None:
    predictor = Predictor.load(copy, text_encoder=str(tmp_path))  # a folder, which holds no such encoder
    assert predictor.predict(image, BOX, fields={"birads": "4"}).mask.shape == image.shape
    with raises_naming(RunFolderError, tmp_path):
        predictor.predict(image, BOX, text="A suspicious lesion with an irregular margin.")
    shutil.rmtree(copy.parents[1] / "prompt_banks")
    again = Predictor.load(copy).predict(image, BOX, fields={"birads": "4"})  # the shipped encoder makes them again
    np.testing.assert_array_equal(again.mask, predictor.predict(image, BOX, fields={"birads": "4"}).mask)


def test_a_run_of_another_version_is_refused(copy: Path) -> None:
    change(copy / "run.json", "suite", "novelty", 1)
    with raises_naming(RecipeError, copy / "run.json", "novelty"):
        Predictor.load(copy)


def test_a_folder_without_a_run_or_outside_its_experiment_is_refused(copy: Path, tmp_path: Path) -> None:
    with raises_naming(RunFolderError, tmp_path / "absent"):
        Predictor.load(tmp_path / "absent")
    with raises_naming(RunFolderError, tmp_path / "run.json"):
        Predictor.load(tmp_path)
    (copy.parent / "experiment.json").unlink()
    with pytest.raises(RunFolderError):
        Predictor.load(copy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(benched: Benched) -> None:
    with raises_naming(UserError, "cuda"):
        Predictor.load(benched.find_run("text_free"), device="cuda")


def test_runs_that_read_files_otherwise_are_not_averaged(benched: Benched, copy: Path) -> None:
    """The second run's images were made of other values, so that the first one's reading is none for it."""
    note = json.loads((copy / "run.json").read_text())
    for recipe in (note["recipe"], note["suite"]):
        recipe["dataset"]["intensity"] = [40, 400]
    (copy / "run.json").write_text(json.dumps(note))
    with raises_naming(UserError, copy.name, 400.0):
        Predictor.load(benched.find_run("hierarchical"), copy)


def test_a_prompt_file_that_changed_is_taken_from_the_experiment(
    benched: Benched, copy: Path, image: np.ndarray, hierarchical: Predictor
) -> None:
    """As after an update that words shipped sentences otherwise; without the experiment's copy it is refused."""
    shutil.copy(benched.experiment / "prompts.yaml", copy.parent)
    shutil.rmtree(copy.parents[1] / "prompt_banks")
    other = copy.parents[1] / "birads.yaml"
    shipped = Path(prompts.__file__).parent / "prompt_files" / "birads.yaml"
    other.write_text(shipped.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    note = json.loads((copy / "run.json").read_text())
    note["suite"]["prompts"]["file"] = str(other)
    (copy / "run.json").write_text(json.dumps(note))
    wanted = hierarchical.predict(image, BOX, fields={"birads": "4"})
    found = Predictor.load(copy).predict(image, BOX, fields={"birads": "4"})
    np.testing.assert_array_equal(found.logits, wanted.logits)
    (copy.parent / "prompts.yaml").unlink()
    with raises_naming(RecipeError, "prompts.file", other):
        Predictor.load(copy)
