import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from messages import raises_naming

from t2m_bench.data.datasets.nsclc.clinical import find_clinical_table, read_clinical
from t2m_bench.data.images import compute_tight_box
from t2m_bench.data.phantoms import nsclc as nsclc_phantom
from t2m_bench.data.phantoms.nsclc_table import COLUMNS
from t2m_bench.errors import UserError


def write(out: Path, **changes: object) -> Path:
    nsclc_phantom.write_nsclc_phantom(out, **({"num_cases": 7, "seed": 3, "text_effect": 1.0} | changes))
    return out


def compute_hashes(folder: Path, modality: str = "") -> dict[str, str]:
    paths = [path for path in folder.rglob("*.dcm") if modality in ("", "SEG" if path.name == "1-1.dcm" else "CT")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_rows(folder: Path) -> list[dict[str, str]]:
    with find_clinical_table(folder).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_columns_are_the_real_ones(nsclc_radiogenomics: Path) -> None:
    with find_clinical_table(nsclc_radiogenomics).open(newline="") as stream:
        real = next(csv.reader(stream))
    assert real[1:] == list(COLUMNS[1:])
    assert {real[0], COLUMNS[0]} == {"Patient ID", "Case ID"}


def test_the_text_effect_changes_stage_and_histology_alone(tmp_path: Path) -> None:
    one, zero = write(tmp_path / "one"), write(tmp_path / "zero", text_effect=0.0)
    assert len(compute_hashes(one)) == 7 * 19 - 1  # a slice a gap
    assert compute_hashes(one) == compute_hashes(zero)
    rows, others = read_rows(one), read_rows(zero)
    for field in ("Pathological T stage", "Histology "):
        assert [row.pop(field) for row in rows] != [row.pop(field) for row in others]
    assert rows == others


def test_permuting_the_hidden_classes_changes_segs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path / "before")
    drawn = nsclc_phantom.draw_hidden

    def turn(rng: np.random.Generator, count: int) -> tuple[list[str], list[str]]:
        stages, histologies = drawn(rng, count)
        names = list(nsclc_phantom.STAGE_EXPONENTS)
        return [names[(names.index(stage) + 3) % 7] for stage in stages], histologies[::-1]

    monkeypatch.setattr(nsclc_phantom, "draw_hidden", turn)
    after = write(tmp_path / "after")
    assert compute_hashes(before, "CT") == compute_hashes(after, "CT")
    segs, turned = compute_hashes(before, "SEG"), compute_hashes(after, "SEG")
    assert segs.keys() == turned.keys()
    assert all(segs[name] != turned[name] for name in segs)


def test_a_visible_text_changes_the_look_but_no_mask(tmp_path: Path) -> None:
    hidden, visible = write(tmp_path / "hidden"), write(tmp_path / "visible", text_visible=True)
    assert compute_hashes(hidden, "SEG") == compute_hashes(visible, "SEG")
    assert compute_hashes(hidden, "CT") != compute_hashes(visible, "CT")


def test_every_class_has_the_same_box_on_every_slice_and_both_texts_change_the_area() -> None:
    for seed in range(12):
        outlines = nsclc_phantom.draw_outlines(np.random.default_rng(seed))
        areas = {}
        for stage in nsclc_phantom.STAGE_EXPONENTS:
            for histology in nsclc_phantom.HISTOLOGY_BULGES:
                masks = nsclc_phantom.draw_masks(outlines, stage, histology)
                for index, outline in outlines.items():
                    assert compute_tight_box(masks[index]) == outline.box_xyxy
                areas[stage, histology] = masks.sum()
        for histology in nsclc_phantom.HISTOLOGY_BULGES:
            ordered = [areas[stage, histology] for stage in nsclc_phantom.STAGE_EXPONENTS]
            assert ordered == sorted(ordered, reverse=True)
        for stage in ("T1b", "T2a", "T2b", "T3", "T4"):
            assert areas[stage, "Adenocarcinoma"] > 1.04 * areas[stage, "Squamous cell carcinoma"]


def test_the_table_says_nothing_as_the_real_one_does(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    rows = read_rows(folder)
    assert {"Not Collected", "Not collected"} <= {value for row in rows for value in row.values()}
    patients = read_clinical(find_clinical_table(folder))
    assert patients["AMC-006"]["t_stage"] == "unknown"
    assert {name for name in patients if name.startswith("R01-9")} == {"R01-901", "R01-902"}


def test_what_is_there_is_kept_or_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    stamp = folder.stat().st_mtime_ns
    assert write(folder).stat().st_mtime_ns == stamp
    with raises_naming(UserError, folder, "seed", 3, 9):
        write(folder, seed=9)
    with raises_naming(UserError, "cases", 4, 5):
        write(tmp_path / "few", num_cases=4)
