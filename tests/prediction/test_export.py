"""A run exported as a folder: it predicts without its experiment, says what it is, and names no patient."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from benched import Benched
from messages import raises_naming

from t2m_bench import Predictor
from t2m_bench.cli import main
from t2m_bench.data.manifest import load_manifest
from t2m_bench.errors import RecipeError, RunFolderError, UserError
from t2m_bench.pipeline.export import export
from t2m_bench.prediction.export import name_encoder

BOX = (40, 40, 120, 110)


@pytest.fixture(scope="module")
def exported(benched: Benched, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    export(benched.find_run("hierarchical"), folder)
    return folder


@pytest.mark.parametrize("arm", ["hierarchical", "label", "text_free", "unet"])
def test_an_export_gives_the_masks_of_its_run_without_the_experiment(
    benched: Benched, arm: str, tmp_path: Path
) -> None:
    run = benched.find_run(arm)
    moved = tmp_path / "runs"
    shutil.copytree(run, moved / run.parent.name / run.name)
    for part in (*run.parent.glob("reference-*"), run.parent / "experiment.json"):
        copy = shutil.copytree if part.is_dir() else shutil.copy
        copy(part, moved / run.parent.name / part.name)
    shutil.copytree(benched.runs / "prompt_banks", moved / "prompt_banks")
    export(moved / run.parent.name / run.name, tmp_path / "adapter")
    shutil.rmtree(moved)
    cases = benched.list_test_cases()
    images, boxes = [benched.load_image(case) for case in cases], [case.box_xyxy for case in cases]
    one, other = Predictor.load(run, device="cpu"), Predictor.load(tmp_path / "adapter", device="cpu")
    assert one.fields == other.fields
    fields = [case.text_fields if one.fields else None for case in cases]
    for mine, its in zip(
        one.predict_batch(images, boxes, fields=fields), other.predict_batch(images, boxes, fields=fields), strict=True
    ):
        np.testing.assert_array_equal(mine.logits, its.logits)


def test_a_sentence_of_its_own_is_encoded_where_the_encoder_is_there(benched: Benched, exported: Path) -> None:
    image = benched.load_image(benched.list_test_cases()[0])
    text = "A suspicious lesion with an irregular margin."
    one = Predictor.load(benched.find_run("hierarchical"), device="cpu").predict(image, BOX, text=text)
    other = Predictor.load(exported, device="cpu").predict(image, BOX, text=text)
    np.testing.assert_array_equal(one.logits, other.logits)


def test_it_names_no_case_no_patient_and_no_folder(benched: Benched, exported: Path) -> None:
    named = [manifest for path in benched.runs.glob("prepared/*/manifest.jsonl") for manifest in load_manifest(path)]
    private = {str(benched.runs), str(benched.recipe.dataset.root), str(benched.prepared.root)}
    for case in (*named, *benched.prepared.cases):
        private |= {case.case_id, case.image_path.name, case.mask_path.name}
        private |= {case.patient_id} if not case.patient_id.isdigit() else set()  # a number stands in any table
    assert len(private) > 2 * len(named)
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"README.md", "config.json", "adapter.safetensors", "prompts.safetensors"}
    for path in files:
        content = path.read_bytes()
        assert [name for name in private if name.encode() in content] == []


def test_the_card_is_filled_from_the_run(benched: Benched, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "other"
    noted = json.loads((benched.find_run("hierarchical") / "run.json").read_text())
    verdicts = json.loads((exported / "config.json").read_text())["verdicts"]
    for part in (
        f"{noted['test_dice']:.4f}",
        f"{noted['trainable_parameters']:,}",
        verdicts[0]["headline"],
        "40 cases",
        "text_free",
        "birads",
    ):
        assert part in body
    table = [line for line in body.splitlines() if line.startswith("| text_free")]
    assert table, "results of the other arms stand beside it"


@pytest.mark.parametrize("name", ["adapter.safetensors", "prompts.safetensors"])
def test_altered_files_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with raises_naming(RunFolderError, copy / name, "sha256"):
        Predictor.load(copy)
    (copy / name).unlink()
    with raises_naming(RunFolderError, copy / name):
        Predictor.load(copy)


def test_a_config_of_another_version_is_refused(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"format": 2}))
    with raises_naming(RecipeError, copy / "config.json", "format"):
        Predictor.load(copy)
    config["image_encoder"]["frame"]["grid"] = 64
    (copy / "config.json").write_text(json.dumps(config))
    with raises_naming(UserError, "mini", 64, 16):
        Predictor.load(copy)


def test_a_folder_that_holds_something_is_left_alone(benched: Benched, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with raises_naming(RunFolderError, tmp_path):
        export(benched.find_run("text_free"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_verb_writes_the_folder_and_predict_reads_it(
    benched: Benched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(benched.find_run("hierarchical")), str(tmp_path / "adapter"), "--json"]
    monkeypatch.setattr(sys, "argv", ["t2m-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["run"] == benched.find_run("hierarchical").name
    case = benched.list_test_cases()[0]
    image = str(benched.prepared.root / case.image_path)
    arguments = ["predict", str(tmp_path / "adapter"), "--image", image, "--box", "40,40,120,110"]
    arguments += ["--field", "birads=4", "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr(sys, "argv", ["t2m-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["warnings"]) == 1, "verdicts travel with it"


def test_a_folder_of_an_encoder_is_named_without_its_place(tmp_path: Path) -> None:
    assert name_encoder(str(tmp_path)) == tmp_path.name
    assert name_encoder("microsoft/some-bert") == "microsoft/some-bert"
