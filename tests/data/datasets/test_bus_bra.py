import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages import raises_naming
from PIL import Image

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.images import compute_image_sha256, load_mask
from t2m_bench.errors import DatasetError


def draw_case(root: Path, stem: str) -> dict[str, object]:
    image = np.full((40, 50), 90, np.uint8)
    image[0, int(stem[:4])] = 200  # every image differs
    mask = np.zeros((40, 50), bool)
    mask[10:21, 5:36] = True
    Image.fromarray(image).save(root / "Images" / f"bus_{stem}.png")
    Image.fromarray(mask).save(root / "Masks" / f"mask_{stem}.png")
    row = {"ID": f"bus_{stem}", "Case": int(stem[:4]), "Pathology": "benign", "BIRADS": 2 + int(stem[:4]) % 4}
    return row | {"Width": 50, "Height": 40, "BBOX": "[6,11,30,10]"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "BUSBRA"
    (folder / "Images").mkdir(parents=True)
    (folder / "Masks").mkdir()
    table = pd.DataFrame([draw_case(folder, f"{number:04d}-l") for number in range(1, 6)])
    table.to_csv(folder / "bus_data.csv", index=False)
    table.assign(kFold=range(1, 6))[["ID", "kFold"]].to_csv(folder / "5-fold-cv.csv", index=False)
    return folder


def test_a_case_is_read_as_it_was_drawn(root: Path) -> None:
    cases = read_bus_bra(root.parent)  # the parent folder does too
    assert [case.case_id for case in cases] == [f"bus_{number:04d}-l" for number in range(1, 6)]
    first = cases[0]
    assert (first.patient_id, first.fold, first.text_fields) == ("1", 1, {"birads": "3"})
    assert (first.height, first.width, first.box_xyxy) == (40, 50, (5, 10, 36, 21))
    assert len({case.image_sha256 for case in cases}) == 5
    assert first.mask_sha256 == compute_image_sha256(load_mask(root, first).astype(np.uint8))
    assert [case.flags for case in cases] == [(), (), (), ("birads_5_benign",), ()] or cases[2].flags == (
        "birads_5_benign",
    )


def edit(path: Path, **cells: object) -> None:
    table = pd.read_csv(path, dtype=object)
    for column, value in cells.items():
        table.loc[0, column] = value
    table.to_csv(path, index=False)


def drop_column(root: Path) -> None:
    pd.read_csv(root / "bus_data.csv").drop(columns="BIRADS").to_csv(root / "bus_data.csv", index=False)


def truncate(root: Path) -> None:
    os.truncate(root / "Images" / "bus_0001-l.png", 60)


def save_mask(root: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(root / "Masks" / "mask_0001-l.png")


BROKEN = {
    "missing folder": (lambda root: shutil.rmtree(root), {"BUSBRA", "dataset.root", "exist"}),
    "missing column": (drop_column, {"bus_data.csv", "BIRADS"}),
    "image without mask": (
        lambda root: (root / "Masks/mask_0001-l.png").unlink(),
        {"Images/bus_0001-l.png", "Masks/mask_0001-l.png", "Add Masks"},
    ),
    "mask without image": (
        lambda root: (root / "Images/bus_0001-l.png").unlink(),
        {"Images/bus_0001-l.png", "Masks/mask_0001-l.png", "Add Images"},
    ),
    "truncated image": (truncate, {"bus_0001-l.png", "truncated"}),
    "other size": (lambda root: save_mask(root, np.ones((4, 5), bool)), {"mask_0001-l.png", "5 x 4", "50 x 40"}),
    "empty mask": (lambda root: save_mask(root, np.zeros((40, 50), bool)), {"mask_0001-l.png", "empty"}),
    "bad BI-RADS": (lambda root: edit(root / "bus_data.csv", BIRADS="6"), {"bus_data.csv", "BIRADS", "bus_0001-l", 6}),
    "duplicate id": (
        lambda root: edit(root / "bus_data.csv", ID="bus_0002-l"),
        {"bus_data.csv", "ID", "bus_0002-l"},
    ),
    "no patient": (lambda root: edit(root / "bus_data.csv", Case=" "), {"bus_data.csv", "Case", "bus_0001-l", "empty"}),
    "patients of a database": (
        lambda root: edit(root / "bus_data.csv", Case="NULL"),
        {"bus_data.csv", "row 2", "Case", "bus_0001-l", "NULL"},
    ),
    "a shortened patient": (
        lambda root: edit(root / "bus_data.csv", Case="1.23E+11"),
        {"bus_data.csv", "row 2", "Case", "bus_0001-l"},
    ),
    "an image of another ending": (
        lambda root: (root / "Images/bus_0001-l.png").rename(root / "Images/bus_0001-l.JPG"),
        {"bus_0001-l.JPG", ".JPG", ".png"},
    ),
    "no folds file": (lambda root: (root / "5-fold-cv.csv").unlink(), {"5-fold-cv.csv", "absent"}),
    "no fold of a case": (
        lambda root: edit(root / "5-fold-cv.csv", ID="bus_9999-l"),
        {"5-fold-cv.csv", "row", "bus_0001-l"},
    ),
    "fold is no number": (
        lambda root: edit(root / "5-fold-cv.csv", kFold="x"),
        {"5-fold-cv.csv", "kFold", "bus_0001-l", "'x'"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused_by_file_and_row(root: Path, name: str) -> None:
    spoil, named = BROKEN[name]
    spoil(root)
    with raises_naming(DatasetError, *named):
        read_bus_bra(root)


@pytest.mark.parametrize("written", ["1.0", " 1 ", "1.00"])
def test_whole_numbers_may_be_written_with_a_point(root: Path, written: str) -> None:
    edit(root / "5-fold-cv.csv", kFold=written)
    edit(root / "bus_data.csv", BIRADS="4.0", Width="50.0")
    first = read_bus_bra(root)[0]
    assert (first.fold, first.text_fields, first.flags) == (1, {"birads": "4"}, ())


@pytest.mark.parametrize("name", ["bus_data.csv", "5-fold-cv.csv"])
def test_shifted_columns_are_told_by_row_and_blank_rows_are_skipped(root: Path, name: str) -> None:
    before = read_bus_bra(root)
    path = root / name
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows, "," * header.count(","), ""]))
    assert read_bus_bra(root) == before
    path.write_text("\n".join([header, *(f"{row}," for row in rows)]))
    fields = header.count(",") + 1
    with raises_naming(DatasetError, path, "row 2", fields, fields + 1):
        read_bus_bra(root)


@pytest.mark.parametrize("written", ["2.0", " 2 "])
def test_a_patient_is_one_however_its_number_is_written(root: Path, written: str) -> None:
    edit(root / "bus_data.csv", Case=written)
    assert [case.patient_id for case in read_bus_bra(root)[:2]] == ["2", "2"]


def test_an_absent_assessment_is_unknown(root: Path) -> None:
    edit(root / "bus_data.csv", BIRADS="")
    assert read_bus_bra(root)[0].text_fields == {"birads": "unknown"}


def test_defects_are_flagged(root: Path) -> None:
    mask = np.zeros((40, 50), bool)
    mask[10:21, 5:36] = True
    mask[30, 40] = True
    save_mask(root, mask)
    edit(root / "bus_data.csv", Width="51")
    assert read_bus_bra(root)[0].flags == ("bbox_disagrees", "csv_size_disagrees", "mask_specks")


def test_the_real_folder(bus_bra_dev: Path) -> None:
    cases = read_bus_bra(bus_bra_dev)
    assert len(cases) == 1492
    assert {case.fold for case in cases} == {1, 2, 3, 4}
    flagged = {flag: {c.case_id for c in cases if flag in c.flags} for flag in {f for c in cases for f in c.flags}}
    present = {case.case_id for case in cases}
    assert flagged["csv_size_disagrees"] == present & {"bus_0856-l", "bus_0857-r", "bus_0912-l", "bus_0990-l"}
    assert present & {"bus_0845-s"} <= flagged["bbox_disagrees"]
    assert present & {"bus_0101-l", "bus_0185-r", "bus_1046-l"} <= flagged["mask_specks"]
    assert {c.patient_id for c in cases if "patient_has_several_birads" in c.flags} <= {"856"}
    assert Counter(case.text_fields["birads"] for case in cases).keys() == {"2", "3", "4", "5"}
