import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from messages import raises_naming
from numpy.typing import NDArray
from PIL import Image

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.registry import open_dataset, read_cases
from t2m_bench.data.exclusions import Exclusion
from t2m_bench.data.images import load_image, load_mask
from t2m_bench.errors import DatasetError, RecipeError
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

PROMPTS = """
fields:
  pathology:
    classes:
      benign: {training: [It is benign.], held_out: [A benign lesion.]}
      malignant: {training: [It is malignant.], held_out: [A malignant lesion.]}
      unknown: {training: [Nothing is known.], held_out: [No pathology.]}
    wrong: {benign: malignant, malignant: benign}
"""

HEIGHT, WIDTH = 40, 50
BOX = (5, 10, 36, 21)


def draw_image(number: int) -> NDArray[np.uint8]:
    image = np.tile(np.linspace(20, 220, WIDTH).astype(np.uint8), (HEIGHT, 1))
    image[0, number] = 255
    return image


def draw_mask(value: int = 255) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = value
    return mask


def write(path: Path, values: NDArray[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return str(path.name if path.parent.name == "data" else path.relative_to(path.parents[1]))


def make_row(root: Path, number: int) -> dict[str, object]:
    suffix = (".png", ".tif")[number % 2]
    image = write(root / "scans" / f"{number}{suffix}", draw_image(number))
    mask = write(root / "outlines" / f"{number}.png", draw_mask())
    return {
        "image": image,
        "mask": mask,
        "patient": f"p{number // 2}",
        "pathology": ("benign", "malignant")[number % 2],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    pd.DataFrame([make_row(folder, number) for number in range(6)]).to_csv(folder / "cases.csv", index=False)
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    return folder


def edit(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    path = root / "cases.csv"
    table = pd.read_csv(path, dtype=object)
    changed = change(table)
    (table if changed is None else changed).to_csv(path, index=False)


def put(column: str, value: object, line: int = 3) -> Callable[[pd.DataFrame], None]:
    """Return what sets a cell of a row of the file, and the column's other cells to nothing where it is new."""

    def change(table: pd.DataFrame) -> None:
        if column not in table:
            table[column] = pd.Series([""] * len(table), dtype=object)
        table.at[line - 2, column] = value

    return change


def make_recipe(root: Path, **dataset: Any) -> Recipe:
    section = {"kind": "table", "root": str(root), "table": "cases.csv", **dataset}
    prompts = {"file": str(root.parent / "prompts.yaml")}
    return parse_recipe({"name": "own", "dataset": section, "prompts": prompts}, "test")


def read(root: Path, **dataset: Any) -> tuple[list[Case], list[Exclusion], Path]:
    recipe, folder = make_recipe(root, **dataset), root.parent / "out"
    source = open_dataset(recipe, Terminal())
    cases, excluded = source.reader.read(recipe, source.root, folder, Terminal())
    read_cases(source, folder, Terminal())  # with the image audit
    return cases, excluded, folder


def test_images_of_several_formats_become_8_bit_copies(root: Path) -> None:
    cases, excluded, out = read(root)
    assert (len(cases), excluded) == (6, [])
    assert [case.patient_id for case in cases] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert {case.box_xyxy for case in cases} == {BOX}
    assert [case.text_fields for case in cases[:2]] == [{"pathology": "benign"}, {"pathology": "malignant"}]
    for number, case in enumerate(cases):
        np.testing.assert_array_equal(load_image(out, case), draw_image(number))
        np.testing.assert_array_equal(load_mask(out, case), draw_mask() > 0)
    assert [(case.case_id, case.fold, case.spacing_mm) for case in cases[:1]] == [("row-00002", None, None)]


def test_columns_are_renamed_and_optional_ones_read(root: Path) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.rename(columns={"image": "path", "patient": "Patient ID", "pathology": "Finding (path.)"})
        table["kfold"] = ["1.0", "1", "2", "2", "3", "3"]
        table["box"] = ["5,10,36,21", "[4, 9, 40, 30]", *[""] * 4]
        table["row_mm"], table["col_mm"] = "0.2", "0.3"
        table["device"], table["exclude"] = "A", ["", "no", "", "", "", "yes"]
        table["name"] = [f"case {number}" for number in range(6)]
        table.at[5, "path"] = "nowhere.png"  # an excluded row's files need not exist
        table.at[2, "Finding (path.)"] = ""
        return table

    edit(root, change)
    columns = {"image": "path", "patient": "Patient ID", "fold": "kfold", "spacing_mm": ["row_mm", "col_mm"]}
    columns |= {"strata": ["device"], "case": "name", "text": {"pathology": "Finding (path.)"}}
    cases, excluded, _ = read(root, columns=columns)
    assert [case.fold for case in cases] == [1, 1, 2, 2, 3]
    assert [case.box_xyxy for case in cases[:2]] == [BOX, (4, 9, 40, 30)]
    assert cases[0].spacing_mm == (0.2, 0.3)
    assert cases[0].strata == {"device": "A"}
    assert [case.case_id for case in cases] == [f"case {number}" for number in range(5)]
    assert cases[2].text_fields == {"pathology": "unknown"}
    assert [exclusion.what for exclusion in excluded] == ["row 7"]


def test_parquet_gives_the_cases_of_csv(root: Path) -> None:
    from_csv, _, _ = read(root)
    table = pd.read_csv(root / "cases.csv").assign(fold=[1, 1, 2, 2, 3, None])
    table.loc[5, "fold"] = 3
    table.to_parquet(root / "cases.parquet")
    from_parquet, _, _ = read(root, table="cases.parquet")
    assert [case.image_sha256 for case in from_parquet] == [case.image_sha256 for case in from_csv]
    assert [case.fold for case in from_parquet] == [1, 1, 2, 2, 3, 3]


def test_text_of_parquet_that_is_no_utf_8_is_one_message(root: Path) -> None:
    offsets, cells = pyarrow.py_buffer(struct.pack("<ii", 0, 2)), pyarrow.py_buffer(b"\xed\xa0")
    broken = pyarrow.StringArray.from_buffers(1, offsets, cells)
    names = list(pd.read_csv(root / "cases.csv").columns)
    pyarrow.parquet.write_table(pyarrow.table(dict.fromkeys(names, broken)), root / "cases.parquet")
    with raises_naming(DatasetError, root / "cases.parquet", "utf-8"):
        read(root, table="cases.parquet")


def test_several_labels_of_one_mask_make_several_cases(root: Path) -> None:
    labels = draw_mask(2)
    labels[30:35, 3:9] = 7
    Image.fromarray(labels).save(root / "outlines" / "1.png")
    edit(root, put("label", "2; 7"))
    cases, _, out = read(root)
    assert [case.case_id for case in cases[1:3]] == ["row-00003-label-2", "row-00003-label-7"]
    assert [case.box_xyxy for case in cases[1:3]] == [BOX, (3, 30, 9, 35)]
    assert load_mask(out, cases[2]).sum() == 30
    assert len(cases) == 7


def test_more_than_8_bits_go_by_extremes_or_by_a_window(root: Path) -> None:
    deep = draw_image(1).astype(np.uint16) * 16 + 100  # 420 to 4180
    Image.fromarray(deep).save(root / "scans" / "1.tif")
    cases, _, out = read(root)
    low, high = int(deep.min()), int(deep.max())
    np.testing.assert_array_equal(load_image(out, cases[1]), np.round(255 * (deep - float(low)) / (high - low)))
    cases, _, out = read(root, intensity=[2000, 1500])
    np.testing.assert_array_equal(
        load_image(out, cases[1]), np.round(255 * np.clip((deep.astype(np.float32) - 500) / 2000, 0, 1))
    )
    np.testing.assert_array_equal(load_image(out, cases[0]), draw_image(0))  # 8 bits stay


def save_nifti(path: Path, volume: NDArray[Any], affine: NDArray[np.float64]) -> None:
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)


AFFINE = np.diag([0.7, 0.5, 2.0, 1.0])


def add_volume(
    root: Path, affine: NDArray[np.float64] = AFFINE, mask_shape: tuple[int, ...] = (WIDTH, HEIGHT, 4)
) -> None:
    """Make row 3 a slice of a volume: the first stored axis runs along columns, the second along rows."""
    volume = np.stack([draw_image(z).T.astype(np.int16) - 1000 for z in range(4)], axis=2)
    mask = np.zeros(mask_shape, np.uint8)
    mask[BOX[0] : BOX[2], BOX[1] : BOX[3]] = 1
    save_nifti(root / "ct.nii.gz", volume, AFFINE)
    save_nifti(root / "seg.nii.gz", mask, affine)
    edit(root, put("image", "ct.nii.gz#z=3"))
    edit(root, put("mask", "seg.nii.gz#z=3"))


def test_a_slice_of_a_volume_is_the_third_stored_axis(root: Path) -> None:
    add_volume(root)
    cases, _, out = read(root, intensity=[256, -872])
    assert cases[1].spacing_mm == pytest.approx((0.5, 0.7))
    assert cases[1].box_xyxy == BOX
    image = load_image(out, cases[1])
    assert image.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(image, draw_image(3) * (255 / 256), atol=0.51)


def write_dicom(path: Path, values: NDArray[np.uint16], **tags: object) -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2", "1.3"
    found = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    found.Rows, found.Columns = values.shape
    found.SamplesPerPixel, found.PixelRepresentation = 1, 0
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PhotometricInterpretation, found.Modality = 15, "MONOCHROME2", "CT"
    found.PixelSpacing, found.PixelData = [0.4, 0.6], values.tobytes()
    for name, value in tags.items():
        setattr(found, name, value)
    found.save_as(path, enforce_file_format=True)


def test_ct_in_dicom_is_windowed_and_others_go_by_intensity(root: Path) -> None:
    stored = draw_image(1).astype(np.uint16)
    write_dicom(root / "1.dcm", stored, RescaleSlope=4, RescaleIntercept=-1000)
    write_dicom(root / "2", 4 * stored, Modality="DX", PhotometricInterpretation="MONOCHROME1")
    edit(root, put("image", "1.dcm"))
    edit(root, put("image", "2", line=4))
    cases, _, out = read(root, ct={"window": [1000, -500]})
    hounsfield = stored.astype(np.float32) * 4 - 1000
    np.testing.assert_array_equal(load_image(out, cases[1]), np.round(255 * np.clip((hounsfield + 1000) / 1000, 0, 1)))
    assert cases[1].spacing_mm == (0.4, 0.6)
    low, high = float(stored.min()), float(stored.max())
    np.testing.assert_allclose(load_image(out, cases[2]), 255 - 255 * (stored - low) / (high - low), atol=0.51)


def double(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[[1]]])


BAD: dict[str, tuple[Callable[[Path], object], tuple[object, ...]]] = {
    "missing file": (lambda root: edit(root, put("image", "gone.png")), (3, "image", "gone.png")),
    "missing cell": (lambda root: edit(root, put("patient", "")), (3, "patient")),
    "missing column": (
        lambda root: edit(root, lambda table: table.drop(columns="patient")),
        ("cases.csv", "patient", "pathology", "dataset.columns"),
    ),
    "missing text column": (lambda root: edit(root, lambda table: table.drop(columns="pathology")), ("pathology",)),
    "no table": (lambda root: (root / "cases.csv").unlink(), ("cases.csv", "dataset.table")),
    "no rows": (lambda root: edit(root, lambda table: table.iloc[:0]), ("cases.csv",)),
    "mask of another size": (
        lambda root: Image.fromarray(draw_mask()[1:]).save(root / "outlines/1.png"),
        (3, "1.png", "50 x 39", "50 x 40"),
    ),
    "empty mask": (lambda root: Image.fromarray(draw_mask(0)).save(root / "outlines/1.png"), (3, "1.png")),
    "duplicate rows": (lambda root: edit(root, double), (8, 3)),
    "label that no mask has": (lambda root: edit(root, put("label", "3")), (3, "1.png", "0, 255")),
    "label that is a class": (lambda root: edit(root, put("label", "benign")), (3, "label", "null")),
    "box outside the image": (lambda root: edit(root, put("box", "5,10,51,21")), (3, "50 x 40", 51)),
    "box of width and height": (lambda root: edit(root, put("box", "30,20,10,9")), (3, "box", "x0 < x1")),
    "box of three numbers": (lambda root: edit(root, put("box", "5,10,36")), (3, "box")),
    "fold from 0": (lambda root: edit(root, put("fold", "0")), (3, "fold", "'0'")),
    "some folds": (lambda root: edit(root, put("fold", "1")), (2, "fold")),
    "exclude": (lambda root: edit(root, put("exclude", "maybe")), (3, "exclude", "yes")),
    "spacing of Python": (lambda root: edit(root, put("spacing_mm", "0.1_5")), (3, "spacing_mm", "0.1_5")),
    "box of Python": (lambda root: edit(root, put("box", "5,1_0,36,21")), (3, "box", "5,1_0,36,21")),
    "CT of no slope": (
        lambda root: (write_dicom(root / "a.dcm", draw_image(1).astype(np.uint16), RescaleSlope="nan",
                                  RescaleIntercept=0), edit(root, put("image", "a.dcm"))),
        (3, "a.dcm", "rescale"),
    ),
    "spacing": (lambda root: edit(root, put("spacing_mm", "-1")), (3, "spacing_mm", "'-1'")),
    "two affines": (lambda root: add_volume(root, AFFINE + 0.01), (3, "seg.nii.gz", "ct.nii.gz", "0.01")),
    "volume and no slice": (
        lambda root: (add_volume(root), edit(root, put("image", "ct.nii.gz"))),
        (3, "ct.nii.gz", 4, "#z="),
    ),
    "slice that is not there": (
        lambda root: (add_volume(root), edit(root, put("image", "ct.nii.gz#z=4"))),
        (3, "ct.nii.gz", 4),
    ),
    "mask of another slice": (
        lambda root: (add_volume(root), edit(root, put("mask", "seg.nii.gz#z=2"))),
        (3, "seg.nii.gz", 2, 3),
    ),
    "volume of another shape": (
        lambda root: add_volume(root, mask_shape=(WIDTH, HEIGHT - 1, 4)),
        (3, "seg.nii.gz", "50 x 39", "50 x 40"),
    ),
    "slice of a PNG": (lambda root: edit(root, put("image", "scans/0.png#z=1")), (3, "image", "#z=")),
    "several frames": (
        lambda root: (write_dicom(root / "a.dcm", np.ones((80, 50), np.uint16), Rows=40, NumberOfFrames=2),
                      edit(root, put("image", "a.dcm"))),
        (3, "a.dcm", 2),
    ),
    "broken image": (lambda root: (root / "scans/1.tif").write_bytes(b"II*\0nothing"), (3, "1.tif")),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_names_file_row_and_column(root: Path, what: str) -> None:
    spoil, named = BAD[what]
    spoil(root)
    with raises_naming(DatasetError, *named):
        read(root)


def test_cells_of_letters_are_not_repeated(root: Path) -> None:
    edit(root, put("box", "Mrs Miller 5"))
    with raises_naming(DatasetError, 3, "box") as caught:
        read(root)
    assert "Miller" not in str(caught.value)


def test_the_table_is_of_its_own_kind(root: Path) -> None:
    with raises_naming(RecipeError, "dataset.table"):
        make_recipe(root, table=None)
    with raises_naming(RecipeError, "dataset.table", "bus_bra", "table"):
        make_recipe(root, kind="bus_bra")
