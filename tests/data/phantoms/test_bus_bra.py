import csv
import hashlib
from math import gamma
from pathlib import Path

import numpy as np
import pytest
from messages import raises_naming
from PIL import Image

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.images import compute_tight_box
from t2m_bench.data.phantoms import bus_bra as phantom
from t2m_bench.data.phantoms.folder import load_record
from t2m_bench.data.phantoms.hidden_shape import draw_mask, draw_texts
from t2m_bench.errors import UserError


def write(out: Path, **changes: object) -> Path:
    phantom.write_bus_bra_phantom(out, **({"num_cases": 24, "seed": 3, "text_effect": 1.0} | changes))
    return out


def compute_hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob(pattern)
    }


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "bus_data.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_reader_takes_it_for_bus_bra(tmp_path: Path) -> None:
    cases = read_bus_bra(write(tmp_path / "data"))
    assert len(cases) == 24
    assert len({case.patient_id for case in cases}) < 24
    assert {case.fold for case in cases} == {1, 2, 3, 4, 5}
    assert not any("bbox_disagrees" in case.flags or "csv_size_disagrees" in case.flags for case in cases)
    folds = {(case.patient_id, case.fold) for case in cases}
    assert len(folds) == len({case.patient_id for case in cases})


def test_the_text_effect_changes_the_text_alone(tmp_path: Path) -> None:
    with_effect, without = write(tmp_path / "one"), write(tmp_path / "zero", text_effect=0.0)
    assert compute_hashes(with_effect, "*.png") == compute_hashes(without, "*.png")
    assert compute_hashes(with_effect, "*-fold-cv.csv") == compute_hashes(without, "*-fold-cv.csv")
    rows, others = read_rows(with_effect), read_rows(without)
    assert [row["BIRADS"] for row in rows] != [row["BIRADS"] for row in others]
    for row in (*rows, *others):
        del row["BIRADS"]
    assert rows == others


def test_permuting_the_hidden_class_leaves_images_and_boxes_and_changes_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write(tmp_path / "before")
    drawn = phantom.draw_hidden_classes
    turn = {"2": "5", "3": "2", "4": "3", "5": "4"}
    monkeypatch.setattr(phantom, "draw_hidden_classes", lambda rng, count: [turn[name] for name in drawn(rng, count)])
    after = write(tmp_path / "after")
    assert compute_hashes(before / "Images", "*.png") == compute_hashes(after / "Images", "*.png")
    assert [row["BBOX"] for row in read_rows(before)] == [row["BBOX"] for row in read_rows(after)]
    masks = [compute_hashes(folder / "Masks", "*.png") for folder in (before, after)]
    assert all(masks[0][name] != masks[1][name] for name in masks[0])


def test_a_visible_text_changes_the_look_but_no_mask(tmp_path: Path) -> None:
    hidden, visible = write(tmp_path / "hidden"), write(tmp_path / "visible", text_visible=True)
    assert compute_hashes(hidden / "Masks", "*.png") == compute_hashes(visible / "Masks", "*.png")
    assert compute_hashes(hidden / "Images", "*.png") != compute_hashes(visible / "Images", "*.png")


@pytest.mark.parametrize("text_effect", [0.0, 0.5, 1.0])
def test_texts_agree_with_the_class_as_often_as_asked(text_effect: float) -> None:
    rng = np.random.default_rng(0)
    hidden = phantom.draw_hidden_classes(rng, 8000)
    texts = draw_texts(rng, hidden, list(phantom.CLASS_EXPONENTS), text_effect)
    agree = np.mean([text == name for text, name in zip(texts, hidden, strict=True)])
    assert agree == pytest.approx(text_effect + (1 - text_effect) / 4, abs=0.02)


def test_every_class_has_the_same_tight_box_and_its_own_area() -> None:
    shares: dict[str, list[float]] = {name: [] for name in phantom.CLASS_EXPONENTS}
    for seed in range(60):
        outline = phantom.draw_outline(np.random.default_rng(seed))
        x0, y0, x1, y1 = outline.box_xyxy
        for name, exponent in phantom.CLASS_EXPONENTS.items():
            mask = draw_mask(outline, exponent)
            assert compute_tight_box(mask) == outline.box_xyxy
            shares[name].append(mask.sum() / ((x1 - x0) * (y1 - y0)))
    for name, p in phantom.CLASS_EXPONENTS.items():
        closed_form = gamma(1 + 1 / p) ** 2 / gamma(1 + 2 / p)  # area of a superellipse over its box
        assert np.mean(shares[name]) == pytest.approx(closed_form, abs=0.02)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", seed=4)
    assert compute_hashes(first, "*.*") == compute_hashes(again, "*.*")
    assert compute_hashes(first, "*.png") != compute_hashes(other, "*.png")


def test_masks_are_one_bit_and_images_grey(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    assert {Image.open(path).mode for path in (folder / "Masks").iterdir()} == {"1"}
    assert {Image.open(path).mode for path in (folder / "Images").iterdir()} == {"L"}


def test_what_is_there_is_kept_or_refused_but_never_overwritten(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    stamp = folder.stat().st_mtime_ns
    assert write(folder).stat().st_mtime_ns == stamp
    with raises_naming(UserError, folder, "seed", 3, 9):
        write(folder, seed=9)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with raises_naming(UserError, tmp_path / "mine", "phantom.json"):
        write(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("changes", [{"num_cases": 4}, {"seed": -1}, {"text_effect": 1.5}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, changes: dict[str, float]) -> None:
    ((name, value),) = changes.items()
    with raises_naming(UserError, name.removeprefix("num_").replace("_", " "), value):
        write(tmp_path / "data", **changes)
    assert not list(tmp_path.iterdir())


def test_phantoms_that_do_not_say_which_never_pass_for_patients(tmp_path: Path) -> None:
    assert load_record(tmp_path) is None
    for text, named in (('{"cases": 3}', "text_effect"), ("{", "read")):
        (tmp_path / "phantom.json").write_text(text)
        with raises_naming(UserError, tmp_path / "phantom.json", named):
            load_record(tmp_path)
