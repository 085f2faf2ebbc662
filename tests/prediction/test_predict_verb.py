"""`t2m-bench predict` on images, volumes, DICOM and tables: what it writes, flags and refuses."""

import csv
import gzip
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from benched import Benched
from messages import check_names, raises_naming
from PIL import Image
from scans import make_scan

from t2m_bench import Predictor
from t2m_bench.cli import main
from t2m_bench.data.images import load_mask, write_png
from t2m_bench.data.phantoms.nsclc_dicom import Style, write_ct
from t2m_bench.errors import DatasetError, RunFolderError, UserError
from t2m_bench.metrics.results import load_results
from t2m_bench.pipeline.predict import load_predictors, predict
from t2m_bench.prediction.cautions import flag_image
from t2m_bench.prediction.image_input import read_image
from t2m_bench.prediction.lesions import choose_lesions, make_lesion, read_lesions
from t2m_bench.prediction.trained import PixelSettings
from t2m_bench.terminal import Terminal

BOX = "40,40,120,110"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "predict", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def load_bool(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(bool)


def test_one_image_gives_mask_overlay_and_row(
    benched: Benched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = benched.load_image(benched.list_test_cases()[0])
    write_png(tmp_path / "secret-name.png", image)
    arguments = [benched.find_run("hierarchical"), "--image", tmp_path / "secret-name.png", "--box", BOX]
    arguments += ["--field", "birads=4", "--out", tmp_path / "out", "--device", "cpu", "--json"]
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out.splitlines()[-1])
    assert (summary["lesions"], summary["device"], summary["mean_dice"]) == (1, "cpu", None)
    assert len(summary["warnings"]) == 1, "one seed and a handful of patients show no help"
    (row,) = pd.read_csv(tmp_path / "out" / "predictions.csv").to_dict("records")
    want = Predictor.load(benched.find_run("hierarchical"), device="cpu").predict(
        image, (40, 40, 120, 110), fields={"birads": "4"}
    )
    np.testing.assert_array_equal(load_bool(tmp_path / "out" / row["mask"]), want.mask)
    assert row["area_px"] == want.mask.sum()
    assert (tmp_path / "out" / row["overlay"]).is_file()
    assert [name for name in map(str, (tmp_path / "out").rglob("*")) if "secret" in name] == []
    assert "secret" not in (tmp_path / "out" / "predictions.csv").read_text()


@pytest.fixture(scope="module")
def table(benched: Benched, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the test cases, with masks, classes and no boxes."""
    folder = tmp_path_factory.mktemp("external")
    rows = []
    for number, case in enumerate(benched.list_test_cases()):
        write_png(folder / f"image-{number}.png", benched.load_image(case))
        write_png(folder / f"mask-{number}.png", load_mask(benched.prepared.root, case))
        rows.append({"image": f"image-{number}.png", "mask": f"mask-{number}.png", **case.text_fields})
    with (folder / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cases.csv"


def test_a_table_has_the_dice_of_the_benchmark_with_text_and_without(
    benched: Benched, table: Path, tmp_path: Path
) -> None:
    predictors = load_predictors([benched.find_run("hierarchical")], "cpu", without_text=True)
    found = predict(predictors, read_lesions(table, ["birads"]), tmp_path, Terminal())
    cases = [case.case_id for case in benched.list_test_cases()]
    for arm, condition, column in (
        ("hierarchical", "right", "dice"),
        ("text_free", "none", "dice_without_text"),
    ):
        results = load_results(benched.find_run(arm) / "cases.parquet")
        want = results[results["condition"] == condition].set_index("case")["dice"]
        assert found.rows[column].to_list() == want[cases].to_list()
    assert found.rows["dice_between"].between(0, 1).all()
    names = [f"row-{number:05d}.png" for number in found.rows["row"]]
    for folder in ("masks", "masks_without_text", "overlays"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == names
    with Image.open(tmp_path / "overlays" / names[0]) as overlay:
        red, green, blue = np.moveaxis(np.asarray(overlay.convert("RGB")).astype(int), 2, 0)
        assert ((red != green) | (green != blue)).any(), "outlines are coloured"


def test_an_arm_without_text_reads_a_table_with_text(benched: Benched, table: Path, tmp_path: Path) -> None:
    predictors = load_predictors([benched.find_run("text_free")], "cpu")
    found = predict(predictors, read_lesions(table, tuple(predictors.main.fields)), tmp_path, Terminal())
    assert found.rows["dice"].between(0, 1).all()
    assert found.warnings == ()


def test_a_slice_of_a_volume_gives_a_volume_on_its_grid(benched: Benched, tmp_path: Path) -> None:
    image = benched.load_image(benched.list_test_cases()[0])
    values = np.stack([np.zeros_like(image).T, image.T], axis=2)
    affine = np.array([[0.5, 0, 0, 7], [0, 0.4, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1.0]])
    volume = nibabel.Nifti1Image(values, affine)
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        volume.header[name] = b"somebody"
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"somebody's name"))
    nibabel.save(volume, tmp_path / "volume.nii.gz")
    lesion = make_lesion(f"{tmp_path / 'volume.nii.gz'}#z=1", BOX, [], ["birads=4"])
    predictors = load_predictors([benched.find_run("hierarchical")], "cpu")
    found = predict(predictors, [lesion], tmp_path / "out", Terminal())
    row = found.rows.iloc[0]
    mask = nibabel.load(tmp_path / "out" / row["mask"])
    want = predictors.main.predict(image, (40, 40, 120, 110), fields={"birads": "4"}).mask
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[:, :, 1].T, want)
    assert not np.asarray(mask.dataobj)[:, :, 0].any()
    np.testing.assert_allclose(mask.affine, affine)
    assert row["area_mm2"] == pytest.approx(want.sum() * 0.2)
    assert mask.header.get_zooms() == volume.header.get_zooms()
    assert b"somebody" not in gzip.decompress((tmp_path / "out" / row["mask"]).read_bytes())


@pytest.fixture(scope="module")
def ct_slice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    series, _ = write_ct(tmp_path_factory.mktemp("ct"), make_scan(), Style())
    return sorted(series.iterdir())[1]


def test_a_dicom_image_gives_a_segmentation_that_refers_to_it(benched: Benched, ct_slice: Path, tmp_path: Path) -> None:
    lesion = make_lesion(str(ct_slice), "20,20,60,50", [], ["birads=4"])
    predictors = load_predictors([benched.find_run("hierarchical")], "cpu")
    found = predict(predictors, [lesion], tmp_path, Terminal())
    row, source = found.rows.iloc[0], pydicom.dcmread(ct_slice)
    seg = highdicom.seg.segread(tmp_path / row["mask"])
    pixels = seg.get_pixels_by_source_instance([source.SOPInstanceUID], assert_missing_frames_are_empty=True)
    pixels_read = read_image(str(ct_slice), predictors.main.trained[0].pixels).pixels
    want = predictors.main.predict(pixels_read, (20, 20, 60, 50), fields={"birads": "4"}).mask
    np.testing.assert_array_equal(pixels[0, :, :, 0].astype(bool), want)
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert row["area_mm2"] == pytest.approx(want.sum() * np.prod([float(mm) for mm in source.PixelSpacing]))
    assert row["flags"] == "another_modality", "CT for a run that was trained on ultrasound"
    assert any("modality" in warning for warning in found.warnings)


def test_images_of_another_kind_are_flagged(benched: Benched, ct_slice: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "grey.png", benched.load_image(benched.list_test_cases()[0]))

    def flag(path: Path, dataset: str) -> set[str]:
        return set(flag_image(read_image(str(path), PixelSettings(dataset, "minmax", (1500.0, -600.0))), dataset))

    assert flag(tmp_path / "grey.png", "bus_bra") == set()
    assert flag(tmp_path / "grey.png", "nsclc") == {"no_hounsfield_units", "one_slice_of_three"}
    assert flag(ct_slice, "nsclc") == {"one_slice_of_three"}
    assert flag(ct_slice, "table") == set()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"table": None, "image": None, "box": BOX}, ["--image"]),
        ({"table": None, "image": "a.png", "box": None}, ["--box"]),
        ({"table": Path("a.csv"), "image": "a.png", "box": None}, ["--image"]),
        ({"table": None, "image": "a.png", "box": "1,2,3"}, ["--box", "1,2,3"]),
        ({"table": None, "image": "a.png", "box": BOX, "given": ["birads"]}, ["--field", "birads"]),
        ({"table": None, "image": "a.png", "box": BOX, "texts": ["one", "other"]}, ["--text"]),
    ],
)
def test_options_that_do_not_belong_together_are_refused(arguments: dict[str, object], named: list[str]) -> None:
    with raises_naming(UserError, *named):
        choose_lesions(**{"texts": [], "given": [], "fields": ["birads"], **arguments})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("image,birads\na.png,4\n", ["box", "mask"]),
        ("image,box\na.png,1 2 3 4\n", ["birads", "text"]),
        ('image,box,birads\n,"1,2,3,4",4\n', ["row 2", "image"]),
        ('image,box,birads\na.png,"1,2,3",4\n', ["row 2", "box"]),
        ("image,box,birads\na.png,,4\n", ["row 2", "box", "mask"]),
        ('image,box,birads,spacing_mm\na.png,"1,2,3,4",4,-1\n', ["row 2", "spacing_mm"]),
    ],
)
def test_tables_that_do_not_say_enough_are_refused(tmp_path: Path, content: str, named: list[str]) -> None:
    (tmp_path / "cases.csv").write_text(content)
    with raises_naming(DatasetError, *named):
        read_lesions(tmp_path / "cases.csv", ["birads"])


def test_wrong_rows_are_named(
    benched: Benched,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(table.parent, tmp_path / "copy"))
    run_folder = benched.find_run("hierarchical")
    for cells, named in (
        ('image-0.png,"0,0,9999,9",4', ["row 2", "0,0,9999,9"]),
        ('image-0.png,"0,0,20,20",9', ["row 2", "birads", "9"]),
        ('none.png,"0,0,20,20",4', ["row 2", "none.png"]),
    ):
        (folder / "cases.csv").write_text(f"image,box,birads\n{cells}\n")
        assert run(monkeypatch, run_folder, "--table", folder / "cases.csv", "--out", tmp_path / "out") == 2
        check_names(capsys.readouterr().err, *named)
    (folder / "cases.csv").write_text('image,mask,birads,box\nimage-0.png,small.png,4,"0,0,20,20"\n')
    write_png(folder / "small.png", np.ones((5, 6), bool))
    assert run(monkeypatch, run_folder, "--table", folder / "cases.csv", "--out", tmp_path / "out") == 2
    check_names(capsys.readouterr().err, "row 2", "6 x 5")


def test_the_answer_without_text_needs_its_run_and_an_arm_with_text(benched: Benched, tmp_path: Path) -> None:
    with raises_naming(UserError, "--without-text", benched.find_run("text_free").name):
        load_predictors([benched.find_run("text_free")], "cpu", without_text=True)
    run_folder = benched.find_run("hierarchical")
    copy = tmp_path / run_folder.parent.name
    shutil.copytree(run_folder, copy / run_folder.name)
    shutil.copy(run_folder.parent / "experiment.json", copy)
    with raises_naming(RunFolderError, "text_free", copy):
        load_predictors([copy / run_folder.name], "cpu", without_text=True)


def test_an_image_that_is_absent_costs_no_mask_and_an_earlier_table_goes(
    benched: Benched, table: Path, tmp_path: Path
) -> None:
    predictors = load_predictors([benched.find_run("text_free")], "cpu")
    lesions = read_lesions(table, tuple(predictors.main.fields))
    predict(predictors, lesions[:2], tmp_path, Terminal())
    lost = replace(lesions[-1], image="gone.png")
    with raises_naming(UserError, lost.source, "gone.png"):
        predict(predictors, [*lesions, lost], tmp_path, Terminal())
    assert not (tmp_path / "predictions.csv").exists()
    assert len(list((tmp_path / "masks").iterdir())) == 2, "those of the first table alone"
