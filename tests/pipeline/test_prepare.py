"""`prepare` on data sets whose images or masks are stored in other ways than BUS-BRA's."""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from messages import check_names, raises_naming
from PIL import Image, ImageOps
from typer.testing import CliRunner

from t2m_bench.cli import app
from t2m_bench.data.datasets.registry import read_cases
from t2m_bench.data.image_audit import IMAGE_AUDIT_NAME
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.errors import DatasetError, RunFolderError
from t2m_bench.pipeline.preflight import check_folders
from t2m_bench.pipeline.prepare import Prepared, prepare
from t2m_bench.recipe.schema import parse_recipe
from t2m_bench.terminal import Terminal

NUM_CASES = 12


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bus-bra") / "data"
    write_bus_bra_phantom(folder, num_cases=NUM_CASES, seed=1, text_effect=1.0)
    return folder


@pytest.fixture
def root(phantom: Path, tmp_path: Path) -> Path:
    """A copy as somebody's own data."""
    copy = Path(shutil.copytree(phantom, tmp_path / "data"))
    (copy / "phantom.json").unlink()
    return copy


def run(root: Path, tmp_path: Path, **dataset: object) -> Prepared:
    raw = {"name": "own", "dataset": {"root": str(root), **dataset}, "text_encoder": {"name": "stand-in"}}
    return prepare(parse_recipe(raw, "test"), tmp_path / "runs", Terminal())


def change(root: Path, folder: str, make: Callable[[Image.Image, Path], None]) -> None:
    for path in sorted((root / folder).glob("*.png")):
        with Image.open(path) as image:
            image.load()
        make(image.convert("L"), path)


def save_16_bits(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path)


def save_12_bits(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image).astype(np.uint16) * 16).save(path)


def save_lossy(image: Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=75)


def save_turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    image.rotate(180).save(path, exif=exif)


def save_inverted(image: Image.Image, path: Path) -> None:
    ImageOps.invert(image).save(path)


def save_clipped(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.minimum(np.asarray(image).astype(int) * 40 + 200, 255).astype(np.uint8)).save(path)


def test_clean_phantoms_are_not_flagged(root: Path, tmp_path: Path) -> None:
    prepared = run(root, tmp_path, strict=True)
    assert prepared.audit.images["flagged"] == 0
    assert prepared.audit.images["modes"] == {"L": NUM_CASES}
    again = run(root, tmp_path, strict=True)
    assert again.reused
    assert again.audit == prepared.audit


def test_8_bit_values_in_16_bits_give_the_same_cases(root: Path, tmp_path: Path) -> None:
    before = run(root, tmp_path)
    change(root, "Images", save_16_bits)
    after = run(root, tmp_path)
    assert not after.reused
    assert after.manifest_sha256 == before.manifest_sha256
    assert after.audit.images["bits"] == {"16": NUM_CASES}


@pytest.mark.parametrize(
    ("folder", "make", "named"),
    [("Images", save_12_bits, "I;16"), ("Images", save_turned, "orientation"), ("Masks", save_turned, "orientation")],
)
def test_pixels_of_unclear_meaning_stop_it_and_leave_nothing(
    root: Path, tmp_path: Path, folder: str, make: Callable[[Image.Image, Path], None], named: str
) -> None:
    change(root, folder, make)
    with raises_naming(DatasetError, min((root / folder).glob("*.png")), named):
        run(root, tmp_path)
    assert not list((tmp_path / "runs").rglob("manifest*"))


def test_lossy_masks_are_cut_at_half_flagged_and_refused_by_strict(root: Path, tmp_path: Path) -> None:
    before = run(root, tmp_path)
    change(root, "Masks", save_lossy)
    after = run(root, tmp_path)
    assert [case.mask_sha256 for case in after.cases] == [case.mask_sha256 for case in before.cases]
    assert after.audit.flags["mask_cut_at_half"] == NUM_CASES
    assert after.audit.images["counts"]["mask_values"] == after.audit.images["flagged"] == NUM_CASES
    with raises_naming(DatasetError, after.folder / IMAGE_AUDIT_NAME, NUM_CASES):
        run(root, tmp_path, strict=True)


@pytest.mark.parametrize(
    ("folder", "make", "count"),
    [("Masks", save_inverted, "mask_borders"), ("Images", save_clipped, "at_one_extreme")],
)
def test_what_is_taken_all_the_same_is_counted(
    root: Path, tmp_path: Path, folder: str, make: Callable[[Image.Image, Path], None], count: str
) -> None:
    change(root, folder, make)
    images = run(root, tmp_path).audit.images
    assert images["counts"][count] == images["flagged"] == NUM_CASES
    with pytest.raises(DatasetError):
        run(root, tmp_path, strict=True)


def test_a_folder_prepared_before_images_were_audited_stays_readable(root: Path, tmp_path: Path) -> None:
    before = run(root, tmp_path)
    (before.folder / IMAGE_AUDIT_NAME).unlink()
    again = run(root, tmp_path)
    assert again.reused
    assert (again.manifest_sha256, again.audit.images) == (before.manifest_sha256, {})
    assert run(root, tmp_path, strict=True).audit == before.audit, "strict looks at the images once"


def test_the_command_prints_the_audit_and_ends_with_2_where_it_refuses(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"name: own\ndataset: {{root: {root}}}\ntext_encoder: {{name: stand-in}}\n")
    command = ["prepare", str(recipe), "--runs", str(tmp_path / "runs"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert json.loads(done.output.splitlines()[-1])["images"]["flagged"] == 0
    check_names(done.output, f"0 of {NUM_CASES}")


def test_a_table_without_any_assessment_is_taken_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(root / "bus_data.csv", dtype=str)
    table.assign(BIRADS="").to_csv(root / "bus_data.csv", index=False)
    assert run(root, tmp_path).audit.unknown_texts == NUM_CASES
    check_names("".join(capsys.readouterr()), "birads", "unknown")


def test_file_names_that_are_not_utf_8_are_read(root: Path, tmp_path: Path) -> None:
    (root / "Masks" / "caf\udce9.png").write_bytes(b"no mask of this data set")
    assert len(run(root, tmp_path).cases) == NUM_CASES


def test_a_runs_folder_that_not_all_can_open_is_refused_before_work(tmp_path: Path) -> None:
    folder = tmp_path / "r\udcfck" / "runs"
    with raises_naming(RunFolderError, "r\\xfck"):
        check_folders(folder)
    assert not folder.parent.exists()


def test_of_two_that_prepare_at_once_one_reads_the_data_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def read_slowly(*given: Any) -> Any:
        read.append(given)
        time.sleep(1)
        return read_cases(*given)

    monkeypatch.setattr("t2m_bench.pipeline.prepare.read_cases", read_slowly)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: run(root, tmp_path), range(2))
    assert len(read) == 1
    assert [case.case_id for case in first.cases] == [case.case_id for case in second.cases]
    assert {first.reused, second.reused} == {False, True}
