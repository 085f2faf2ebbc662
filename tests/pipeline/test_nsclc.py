"""NSCLC-Radiogenomics from DICOM to a trained adapter, on phantoms."""

import json
import re
import shutil
from pathlib import Path

import pytest
from messages import check_names, raises_naming

from t2m_bench.data.datasets import registry as datasets
from t2m_bench.data.datasets.registry import open_dataset
from t2m_bench.data.exclusions import Reason
from t2m_bench.data.manifest import load_manifest
from t2m_bench.data.phantoms.nsclc import write_nsclc_phantom
from t2m_bench.errors import DatasetError, RecipeError
from t2m_bench.metrics.results import load_results
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.train import Experiment, open_experiment, train
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal

NUM_PATIENTS = 12


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("nsclc") / "data"
    return {
        "name": "lungs",
        "dataset": {
            "kind": "nsclc",
            "root": str(root),
            "phantom": {"cases": NUM_PATIENTS, "seed": 2},
            "ct": {"slices_per_patient": 3},
        },
        "prompts": {"file": "nsclc"},
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": 1, "warmup_steps": 1},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def experiment(raw: dict, runs: Path) -> Experiment:
    return open_experiment(parse_recipe(raw, "test"), runs, Terminal())


def change(raw: dict, **values: object) -> Recipe:
    return parse_recipe(raw | {"dataset": raw["dataset"] | values}, "test")


def test_an_adapter_trains_on_slices_and_is_asked_wrong_texts(experiment: Experiment) -> None:
    summary = train(experiment, "hierarchical", 0, Terminal(), StopRequest())
    table = load_results(experiment.folder / summary["run"] / "cases.parquet")
    right = table[(table["condition"] == "right") & (table["box"] == "tight")]
    assert set(right["case"]) == set(experiment.prepared.splits.test)
    frozen = load_results(experiment.folder / "reference-fold1" / "cases.parquet")
    baseline = frozen[(frozen["arm"] == "baseline") & (frozen["box"] == "tight")]
    assert right["dice"].mean() > baseline["dice"].mean(), "mini never saw a bright lesion; one epoch teaches some"
    assert {"wrong", "wrong:t_stage", "wrong:histology", "swap:histology=NSCLC NOS"} <= set(table["condition"])
    assert table["text_class"].str.contains(r"^\w+ \+ ", regex=True).all(), "both fields, joined"
    noted = json.loads((experiment.folder / "experiment.json").read_text())
    assert noted["dataset"]["kind"] == "nsclc"
    assert noted["dataset"]["num_cases"] == 3 * NUM_PATIENTS
    assert noted["audit"]["exclusions"] == {Reason.NO_IMAGES: 2}
    assert "W1500 L-600" in noted["audit"]["selection"]
    assert set(noted["audit"]["classes_by_field"]) == {"t_stage", "histology"}
    assert 0.0 <= noted["audit"]["size_auc"] <= 1.0


def test_no_identifier_of_the_source_leaves_the_manifest(experiment: Experiment, runs: Path) -> None:
    private = {path.resolve() for path in experiment.prepared.folder.glob("*.json*")}
    assert {path.name for path in private} >= {"manifest.jsonl", "exclusions.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)
    for path in runs.rglob("*"):
        if path.is_file() and path.resolve() not in private:
            content = path.read_bytes()
            assert not re.search(rb"(R01|AMC)-\d", content + str(path.relative_to(runs)).encode()), path
            assert b"1.2.826.0.1.3680043" not in content, path
    assert all(case.source == "" for case in experiment.prepared.cases)
    assert all("CT series" in case.source for case in load_manifest(experiment.prepared.folder / "manifest.jsonl"))


def test_five_folds_are_derived_that_share_no_patient(raw: dict, runs: Path) -> None:
    patients = []
    for fold in range(1, 6):
        prepared = prepare(change(raw, test_fold=fold), runs, Terminal())
        assert prepared.reused or fold == 1
        patient_of = {case.case_id: case.patient_id for case in prepared.cases}
        patients += {patient_of[case_id] for case_id in prepared.splits.test}
    assert len(patients) == len(set(patients)) == NUM_PATIENTS
    with raises_naming(DatasetError, "dataset.test_fold", "1, 2, 3, 4, 5"):
        prepare(change(raw, test_fold=6), runs, Terminal())


def test_another_window_makes_other_images(raw: dict, runs: Path, experiment: Experiment) -> None:
    ct = raw["dataset"]["ct"] | {"window": [400, 40]}
    other = prepare(change(raw, ct=ct), runs, Terminal())
    assert other.folder != experiment.prepared.folder
    assert other.manifest_sha256 != experiment.prepared.manifest_sha256
    before = {case.case_id: case.image_sha256 for case in experiment.prepared.cases}
    assert all(before[case.case_id] != case.image_sha256 for case in other.cases)


def test_strict_refuses_what_is_left_out(raw: dict, runs: Path, tmp_path: Path) -> None:
    strict = change(raw, strict=True)
    for _ in range(2):  # a reused manifest too
        with raises_naming(DatasetError, f"2 {Reason.NO_IMAGES}") as caught:
            prepare(strict, runs, Terminal())
        assert "R01-" not in str(caught.value)
        (path,) = (word for word in str(caught.value).split() if word.endswith("exclusions.json"))
        assert "R01-901" in Path(path).read_text()
    shutil.copytree(raw["dataset"]["root"], tmp_path / "data")
    table = tmp_path / "data" / "clinical_labels.csv"
    table.write_text("".join(line for line in table.open() if not line.startswith("R01-9")))
    whole = change(raw, strict=True, root=str(tmp_path / "data"), phantom=None)
    assert prepare(whole, runs, Terminal()).audit.exclusions == {}


def test_the_clinical_table_may_lie_elsewhere(raw: dict, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(raw["dataset"]["root"], tmp_path / "data")
    table = shutil.move(tmp_path / "data" / "clinical_labels.csv", tmp_path / "table.csv")
    recipe = change(raw, root=str(tmp_path / "data"), phantom=None)
    with raises_naming(DatasetError, tmp_path / "data", "dataset.clinical"):
        prepare(recipe, runs, Terminal())
    named = change(raw, root=str(tmp_path / "data"), phantom=None, clinical=str(table))
    assert len(prepare(named, runs, Terminal()).cases) == 3 * NUM_PATIENTS


def test_a_folder_without_any_case_is_refused_and_what_was_left_out_is_noted(raw: dict, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(Path(raw["dataset"]["root"], "clinical_labels.csv"), tmp_path / "data")
    recipe = change(raw, root=str(tmp_path / "data"), phantom=None)
    with raises_naming(DatasetError, tmp_path / "data", f"14 {Reason.NO_IMAGES}", "dataset.root") as caught:
        prepare(recipe, tmp_path / "runs", Terminal())
    assert "R01-" not in str(caught.value)
    (noted,) = tmp_path.glob("runs/prepared/*/exclusions.json")
    assert str(noted) in str(caught.value)
    assert len(json.loads(noted.read_text())) == 14
    assert not noted.with_name("manifest.jsonl").exists()


def test_a_manifest_is_made_anew_where_reading_or_codecs_changed(raw: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = change(raw)
    stamp = open_dataset(recipe, Terminal()).stamp
    assert open_dataset(recipe, Terminal()).stamp == stamp
    from pydicom.pixels.decoders import RLELosslessDecoder

    with monkeypatch.context() as patch:
        patch.setattr(RLELosslessDecoder, "_available", {})  # as where its codec is not installed
        assert open_dataset(recipe, Terminal()).stamp != stamp
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "READER_VERSION", datasets.READER_VERSION + 1)
        assert open_dataset(recipe, Terminal()).stamp != stamp
    assert open_dataset(recipe, Terminal()).stamp == stamp


@pytest.fixture
def without_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no codec of JPEG and JPEG 2000, whichever are installed."""
    import pydicom

    for syntax in (pydicom.uid.JPEGLosslessSV1, pydicom.uid.JPEG2000Lossless):
        monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})


def store_as(syntax: str, paths: list[Path]) -> None:
    """Have DICOM files of compressed pixels in a transfer syntax, the pixels themselves being of no use."""
    import pydicom

    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([b"\x07" * 90])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)


def find_files(folder: Path, patient: str, modality: str = "CT") -> list[Path]:
    import pydicom

    paths = [path for path in folder.rglob("*.dcm") if patient in path.parts]
    return [path for path in paths if pydicom.dcmread(path, stop_before_pixels=True).Modality == modality]


NUM_READ = 14


@pytest.mark.usefixtures("without_codecs")
def test_images_that_no_codec_decodes_are_counted_before_anything_is_embedded(
    raw: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pydicom import uid

    write_nsclc_phantom(tmp_path / "data", num_cases=NUM_READ, seed=1, text_effect=1.0)
    recipe = change(raw, root=str(tmp_path / "data"), phantom=None)
    whole = len(prepare(recipe, tmp_path / "runs", Terminal()).cases)
    assert Reason.NO_JPEG not in capsys.readouterr().out
    store_as(uid.JPEGLosslessSV1, find_files(tmp_path, "R01-001"))
    store_as(uid.JPEG2000Lossless, find_files(tmp_path, "R01-003"))
    segs = find_files(tmp_path, "R01-004", "SEG")
    store_as(uid.JPEG2000Lossless, segs)
    for _ in range(2):  # a reused manifest too
        prepared = prepare(recipe, tmp_path / "runs", Terminal())
        assert len(prepared.cases) == whole - 3 * 3
        lines = [line for line in capsys.readouterr().out.splitlines() if "pip install" in line]
        counts = prepared.audit.exclusions
        for reason, package in ((Reason.NO_JPEG, "pylibjpeg-libjpeg"), (Reason.NO_JPEG_2000, "pylibjpeg-openjpeg")):
            (line,) = (line for line in lines if reason in line)
            check_names(line, counts[reason], "pip", "pylibjpeg", package)
        assert counts[Reason.NO_PIXELS] == 2
        noted = json.loads((prepared.folder / "exclusions.json").read_text())
        assert {"reason": Reason.NO_JPEG_2000, "what": str(segs[0])} in noted
    strict = change(raw, root=str(tmp_path / "data"), phantom=None, strict=True)
    with raises_naming(DatasetError, "pip", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg"):
        prepare(strict, tmp_path / "runs", Terminal())


@pytest.mark.usefixtures("without_codecs")
def test_a_folder_that_no_codec_decodes_is_refused_before_a_patient_is_read(
    raw: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom import uid

    write_nsclc_phantom(tmp_path / "data", num_cases=NUM_READ, seed=1, text_effect=1.0)
    patients = sorted(path.name for path in (tmp_path / "data" / "NSCLC-Radiogenomics").iterdir())
    for number, patient in enumerate(patients):
        store_as((uid.JPEGLosslessSV1, uid.JPEG2000Lossless)[number % 2], find_files(tmp_path, patient))
    recipe = change(raw, root=str(tmp_path / "data"), phantom=None)
    names = (uid.JPEGLosslessSV1.name, uid.JPEG2000Lossless.name)
    packages = ("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg")
    with monkeypatch.context() as patch:
        patch.setattr("t2m_bench.data.datasets.nsclc.reader.make_cases", None)
        with raises_naming(DatasetError, tmp_path / "data", "pip", *packages, *names) as caught:
            prepare(recipe, tmp_path / "runs", Terminal())
    assert "R01-" not in str(caught.value)
    monkeypatch.setattr("t2m_bench.data.datasets.nsclc.reader._check_codecs", lambda root, patients: None)
    with raises_naming(DatasetError, tmp_path / "data", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg") as caught:
        prepare(recipe, tmp_path / "runs", Terminal())
    assert "dataset.root" not in str(caught.value)


def test_prompts_of_another_data_set_are_refused(raw: dict, runs: Path) -> None:
    recipe = parse_recipe(raw | {"prompts": {"file": "birads"}}, "test")
    with raises_naming(RecipeError, "prompts.file", "field birads", "t_stage", "histology"):
        prepare(recipe, runs, Terminal())


def test_a_changed_file_is_read_again(raw: dict, tmp_path: Path) -> None:
    write_nsclc_phantom(tmp_path / "data", num_cases=6, seed=1, text_effect=1.0)
    recipe = change(raw, root=str(tmp_path / "data"), phantom=None)
    first = prepare(recipe, tmp_path / "runs", Terminal())
    assert prepare(recipe, tmp_path / "runs", Terminal()).reused
    seg = next(path for path in (tmp_path / "data").rglob("1-1.dcm") if "R01-001" in str(path))
    seg.unlink()
    again = prepare(recipe, tmp_path / "runs", Terminal())
    assert not again.reused
    assert len(again.cases) == len(first.cases) - 3
    assert again.audit.exclusions[Reason.NO_SEG] == 1
