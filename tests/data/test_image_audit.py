from pathlib import Path

import numpy as np
import pytest
from messages import check_names, raises_naming
from PIL import Image

from t2m_bench.data.case import Case
from t2m_bench.data.image_audit import (
    IMAGE_AUDIT_NAME,
    ImageFinding,
    PixelValues,
    audit_images,
    check_images,
    describe_images,
    load_image_audit,
    measure_pixels,
    summarise_images,
    write_image_audit,
)
from t2m_bench.data.images import compute_tight_box, load_mask_file
from t2m_bench.data.splits import Splits
from t2m_bench.errors import DatasetError

RNG = np.random.default_rng(3)


def test_extremes_are_counted_in_the_box_widened_by_half_its_size() -> None:
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
    pixels[5:15, 5:15] = 399  # 100 px: the box of 8 x 8 widened to 12 x 12
    values = measure_pixels(pixels, (6, 6, 14, 14), "I;16", 16)
    assert values == PixelValues("I;16", 16, 0.0, 399.0, len(np.unique(pixels)), round(100 / 144, 4))
    assert measure_pixels(pixels, (0, 0, 4, 4), "I;16", 16).extreme_share == 1 / 25
    hounsfield = np.full((20, 20), -1000.0, np.float32)
    hounsfield[8:10] = 40.0
    assert measure_pixels(hounsfield, (8, 8, 12, 12), "CT", 12) == PixelValues(
        "CT", 12, -1000.0, 40.0, 2, round(4 / 6, 4)
    )


def draw_case(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> Case:
    paths = Path(f"{name}.png"), Path(f"{name}-mask.png")
    for path, pixels in zip(paths, (image, mask), strict=True):
        Image.fromarray(pixels).save(folder / path)
    box = compute_tight_box(mask > 0)
    return Case(name, f"p-{name}", *paths, *mask.shape, box, {"birads": "2"}, 1, None, (), "i", "m")


@pytest.fixture
def findings(tmp_path: Path) -> list[ImageFinding]:
    plain = RNG.integers(20, 240, (40, 50), dtype=np.uint8)
    mask = np.zeros((40, 50), bool)
    mask[12:24, 15:30] = True
    two, edges = mask.copy(), np.ones_like(mask)
    two[30:35, 40:45], edges[12:24, 15:30] = True, False
    soft = (mask * 255).astype(np.uint8)
    soft[12, 15:30], soft[23, 15:30], soft[12:24, 15] = 100, 200, 30
    outline, thick = mask.copy(), mask.copy()
    outline[13:23, 16:29], thick[16:20, 19:26] = False, False
    white = plain.copy()
    white[5:32, 5:40] = 255
    drawn = {
        "plain": (plain, mask),
        "few": (plain // 20 * 20, mask),
        "white": (white, mask),
        "clipped": (np.full_like(plain, 255), mask),
        "soft": (plain, soft),
        "inverted": (plain, edges),
        "whole": (plain, np.ones_like(mask)),
        "parts": (plain, two),
        "outline": (plain, outline),
        "a hole": (plain, thick),
        "16 bits": (plain.astype(np.uint16) * 257, mask),
    }
    cases = [draw_case(tmp_path, name, image, stored) for name, (image, stored) in drawn.items()]
    return audit_images(tmp_path, cases, {})


def test_each_kind_is_counted_and_what_is_sound_is_not(findings: list[ImageFinding], tmp_path: Path) -> None:
    assert {finding.case_id: finding.list_counts() for finding in findings} == {
        "plain": [],
        "few": ["few_values"],
        "white": ["at_one_extreme"],
        "clipped": ["few_values", "at_one_extreme"],
        "soft": ["mask_values"],
        "inverted": ["mask_borders"],
        "whole": ["mask_values", "mask_borders"],
        "parts": ["mask_parts"],
        "outline": ["mask_hollow"],
        "a hole": [],
        "16 bits": [],
    }
    names = [finding.case_id for finding in findings]
    summary = summarise_images(findings, Splits(tuple(names[:3]), tuple(names[3:5]), tuple(names[5:])))
    of_masks = {"mask_values": 2, "mask_borders": 2, "mask_hollow": 1, "mask_parts": 1}
    assert summary["counts"] == {"few_values": 2, "at_one_extreme": 2} | of_masks
    assert (summary["flagged"], summary["flagged_by_split"]) == (7, {"train": 2, "val": 2, "test": 3})
    assert summary["bits"] == {"16": 1, "8": 10}
    assert summary["modes"] == {"I;16": 1, "L": 10}
    assert not any(name in str(summary) for name in ("inverted", "clipped", "p-")), "no identifiers"
    check_names(" ".join(describe_images(summary)), "I;16 (1)", "7 of 11", "50 x 40")


def test_strict_refuses_what_is_flagged_and_names_the_file_of_it(findings: list[ImageFinding], tmp_path: Path) -> None:
    write_image_audit(tmp_path, findings)
    path = tmp_path / IMAGE_AUDIT_NAME
    assert path.stat().st_mode & 0o077 == 0
    loaded = load_image_audit(tmp_path)
    assert loaded == findings
    with raises_naming(DatasetError, path, 2, "60%", 16) as caught:
        check_images(findings, path)
    assert "inverted" not in str(caught.value)
    check_images([finding for finding in findings if not finding.is_flagged], path)
    path.write_text("[{}]")
    with raises_naming(DatasetError, path):
        load_image_audit(tmp_path)
    path.unlink()
    assert load_image_audit(tmp_path) is None


def test_real_images_are_not_flagged(bus_bra_dev: Path) -> None:
    cases = []
    for path in sorted((bus_bra_dev / "Images").glob("*.png"))[::10]:
        mask_path = Path("Masks", path.name.replace("bus_", "mask_"))
        mask = load_mask_file(bus_bra_dev / mask_path).mask
        box, name = compute_tight_box(mask), path.stem
        cases.append(Case(name, name, Path("Images", path.name), mask_path, *mask.shape, box, {}, 1, None, (), "", ""))
    findings = audit_images(bus_bra_dev, cases, {})
    assert not [finding.case_id for finding in findings if finding.is_flagged]
    assert max(finding.stored.extreme_share for finding in findings) < 0.2, "far from the limit"
    assert min(finding.stored.distinct for finding in findings) > 100
