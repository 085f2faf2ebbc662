"""The page on which a person sees whether image, mask and text belong together, on phantoms of both kinds."""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from inspected import PageReader, fill_outline, open_picture
from messages import check_names, raises_naming
from PIL import Image

from t2m_bench.cli import main
from t2m_bench.data.case import Case
from t2m_bench.data.manifest import load_manifest
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.data.prompts import load_prompts
from t2m_bench.data.pseudonyms import KEY_NAME, load_or_create_pseudonyms, pseudonymise
from t2m_bench.errors import UserError
from t2m_bench.pipeline.inspect import PAGE_NAME, Inspected, choose_cases, inspect
from t2m_bench.recipe.schema import Recipe, parse_recipe
from t2m_bench.terminal import Terminal


def make_recipe(root: Path, **dataset: object) -> Recipe:
    kind = dataset.get("kind", "bus_bra")
    prompts = {"file": "nsclc" if kind == "nsclc" else "birads"}
    return parse_recipe(
        {
            "name": "small",
            "dataset": {"root": str(root)} | dataset,
            "prompts": prompts,
            "text_encoder": {"name": "none"},
        },
        "test",
    )


def write_ultrasound(root: Path) -> Recipe:
    """Write phantoms whose patients have numbers that nothing else on a page looks like."""
    write_bus_bra_phantom(root, num_cases=40, seed=3, text_effect=1.0, text_visible=False)
    table = root / "bus_data.csv"
    first, *rows = table.read_text().splitlines()
    place = first.split(",").index("Case")
    cells = [row.split(",", place + 1) for row in rows]
    named = [",".join([*row[:place], f"MRN{row[place]}-Beispiel", row[place + 1]]) for row in cells]
    table.write_text("\n".join([first, *named]) + "\n")
    return make_recipe(root)


@pytest.fixture(scope="module")
def ultrasound(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return write_ultrasound(tmp_path_factory.mktemp("bus") / "data")


@pytest.fixture(scope="module")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("nsclc") / "data"
    return make_recipe(root, kind="nsclc", phantom={"cases": 12, "seed": 2}, ct={"slices_per_patient": 3})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=["ultrasound", "lungs"])
def page(request: pytest.FixtureRequest, runs: Path) -> tuple[Recipe, Inspected]:
    recipe = request.getfixturevalue(request.param)
    return recipe, inspect(recipe, runs, 10, 0, Terminal())


def load_cases(found: Inspected) -> dict[str, Case]:
    """Return pseudonym -> case as the manifest has it."""
    cases = load_manifest(found.page.parent / "manifest.jsonl")
    hidden = pseudonymise(cases, load_or_create_pseudonyms(found.page.parents[2] / KEY_NAME))
    return {private.case_id: case for case, private in zip(cases, hidden, strict=True)}


def list_identifiers(case: Case) -> Iterator[str]:
    yield from (case.case_id, case.case_id.removeprefix("bus_"), case.patient_id, case.source)
    yield from (str(case.image_path), case.image_path.stem, str(case.mask_path), case.mask_path.stem)
    yield from re.findall(r"\d+(?:\.\d+){4,}", case.source)  # DICOM's unique identifiers


def test_no_identifier_of_the_manifest_is_on_the_page(page: tuple[Recipe, Inspected]) -> None:
    recipe, found = page
    content = found.page.read_text(encoding="utf-8")
    hidden = {name for case in load_cases(found).values() for name in list_identifiers(case) if name}
    assert len(hidden) > 40
    hidden |= {str(recipe.dataset.root), "Beispiel"}
    read = PageReader(content)
    written = [content.encode(), *(picture for case in read.shown for _, picture in case.pictures)]
    assert not [name for name in hidden for where in written if name.encode() in where]
    assert not [name for name in hidden if name in str(found.page.relative_to(found.page.parents[2]))]


def test_the_page_is_private_whole_and_asks_nothing_of_a_network(page: tuple[Recipe, Inspected]) -> None:
    _, found = page
    assert found.page.name == PAGE_NAME
    assert (found.page.parent / "manifest.jsonl").is_file(), "it lies in the private folder"
    assert stat.S_IMODE(found.page.stat().st_mode) == 0o600
    assert {path.suffix for path in found.page.parent.glob(".*")} <= {".lock"}, "nothing half-written"
    read = PageReader(found.page.read_text(encoding="utf-8"))
    assert {address.partition(":")[0] if ":" in address else address[:1] for address in read.addresses} <= {"data", "#"}
    assert len(read.ids) == len(set(read.ids))
    assert found.num_bytes == found.page.stat().st_size < 250_000 * found.num_shown


def test_each_case_is_shown_with_its_own_image_mask_box_and_text(page: tuple[Recipe, Inspected]) -> None:
    recipe, found = page
    cases, read = load_cases(found), PageReader(found.page.read_text(encoding="utf-8"))
    book = load_prompts(recipe.prompts.file, recipe.prompts.family)
    root = recipe.dataset.root if recipe.dataset.kind == "bus_bra" else found.page.parent
    assert len(read.shown) == found.num_shown
    for shown in read.shown:
        case = cases[shown.name]
        with Image.open(root / case.image_path) as file:
            image = np.asarray(file)
        image = image[..., 1] if image.ndim == 3 else image  # of three slices the annotated one
        with Image.open(root / case.mask_path) as file:
            mask = np.asarray(file.convert("L")) > 0
        part, whole = shown.pictures[0]
        assert part == (0, 0, case.width, case.height)
        assert np.corrcoef(open_picture(whole).ravel(), image.ravel())[0, 1] > 0.98  # lossy where it is noise
        assert np.array_equal(fill_outline(shown.outline, *mask.shape), mask)
        x0, y0, x1, y1 = case.box_xyxy
        assert shown.boxes == {(x0, y0, x1 - x0, y1 - y0)}
        for field, value in case.text_fields.items():
            check_names(shown.words, value, book.sentences(field, value, "training")[0])
        if case.spacing_mm:
            row_mm, column_mm = case.spacing_mm
            check_names(shown.words, f"{(x1 - x0) * column_mm:.1f} x {(y1 - y0) * row_mm:.1f}")


def test_every_flagged_case_is_shown_once_beside_the_drawn_ones(page: tuple[Recipe, Inspected]) -> None:
    _, found = page
    cases = load_cases(found)
    names = [shown.name for shown in PageReader(found.page.read_text(encoding="utf-8")).shown]
    flagged = {name for name, case in cases.items() if case.flags}
    assert flagged
    assert len(names) == len(set(names)) == found.num_shown
    assert flagged <= set(names)
    assert (found.num_drawn, found.num_flagged) == (10, len(flagged))
    assert set(names[10:]) <= flagged


def test_the_seed_alone_decides_which_cases_are_drawn(ultrasound: Recipe, runs: Path) -> None:
    pages = [inspect(ultrasound, runs, 5, seed, Terminal()).page.read_bytes() for seed in (1, 1, 2)]
    assert pages[0] == pages[1] != pages[2]


def test_more_cases_than_there_are_shows_all(ultrasound: Recipe, runs: Path) -> None:
    assert inspect(ultrasound, runs, 1000, 0, Terminal()).num_shown == 40


def test_the_draw_uses_the_generator_it_is_given(ultrasound: Recipe, runs: Path) -> None:
    cases = list(load_cases(inspect(ultrasound, runs, 1, 0, Terminal())).values())
    one, other = (choose_cases(cases, 6, np.random.default_rng(7)) for _ in range(2))
    assert one == other
    assert len({case.case_id for case in one}) == 6
    rng = np.random.default_rng(7)
    assert choose_cases(cases, 6, rng) != choose_cases(cases, 6, rng)


def test_numbers_that_show_nothing_are_refused(ultrasound: Recipe, tmp_path: Path) -> None:
    with raises_naming(UserError, "--cases", 0):
        inspect(ultrasound, tmp_path, 0, 0, Terminal())
    with raises_naming(UserError, "--seed", -1):
        inspect(ultrasound, tmp_path, 1, -1, Terminal())
    assert not list(tmp_path.iterdir())


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "inspect", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_damaged_image_is_said_of_its_case_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing disk leaves size and time as they were, so that nothing is read again."""
    recipe = write_ultrasound(tmp_path / "data")
    inspect(recipe, tmp_path / "runs", 40, 0, Terminal())
    damaged = sorted((recipe.dataset.root / "Images").glob("*.png"))[3]
    before = damaged.stat()
    damaged.write_bytes(bytes(before.st_size))
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json", exclude_unset=True)))
    arguments = [tmp_path / "recipe.yaml", "--cases", "40", "--runs", tmp_path / "runs", "--json"]
    assert run_main(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    summary = json.loads(said.out.splitlines()[-1])
    assert (summary["without_pictures"], summary["shown"]) == (1, 40)
    check_names(said.err, damaged.name, 1, 40)
    content = Path(summary["page"]).read_text(encoding="utf-8")
    assert [bool(shown.pictures) for shown in PageReader(content).shown].count(False) == 1
    assert damaged.stem not in content
    assert "Traceback" not in said.err


def test_slices_and_masks_that_are_gone_or_of_another_size_are_said_of_their_cases(
    lungs: Recipe, tmp_path: Path
) -> None:
    first = inspect(lungs, tmp_path, 3, 0, Terminal())
    cases = load_cases(first)
    gone, bare, other, *_ = (first.page.parent / case.image_path for case in cases.values())
    gone.unlink()
    (bare.parents[1] / "masks" / bare.name).unlink()
    Image.new("RGB", (9, 7)).save(other)
    found = inspect(lungs, tmp_path, 1000, 0, Terminal())
    assert len(found.failures) == 3
    told = "\n".join(found.failures)
    check_names(told, gone.name, bare.name, other.name, "9 x 7")
    shown = {case.name: case for case in PageReader(found.page.read_text(encoding="utf-8")).shown}
    assert {name for name, case in shown.items() if not case.pictures} == set(list(cases)[:3])
    check_names(found.describe_failures(), 3, found.num_shown, found.page.parent)
    assert not [name for name in list(cases)[:3] if name in told], "no list of files beside their pseudonyms"


def test_the_real_folder_makes_a_page(bus_bra_dev: Path, tmp_path: Path) -> None:
    found = inspect(make_recipe(bus_bra_dev, test_fold=4), tmp_path, 24, 0, Terminal())
    assert found.failures == ()
    assert found.num_drawn == 24
    assert found.num_bytes < 6_000_000


def test_what_the_image_audit_flags_is_shown(tmp_path: Path) -> None:
    write_bus_bra_phantom(tmp_path / "data", num_cases=40, seed=3, text_effect=1.0, text_visible=False)
    path = sorted((tmp_path / "data" / "Images").glob("*.png"))[7]
    with Image.open(path) as file:
        black_and_white = np.where(np.asarray(file) > 128, 255, 0).astype(np.uint8)
    Image.fromarray(black_and_white).save(path)
    found = inspect(make_recipe(tmp_path / "data"), tmp_path / "runs", 1, 0, Terminal())
    (name,) = [name for name, case in load_cases(found).items() if case.image_path.stem == path.stem]
    read = PageReader(found.page.read_text(encoding="utf-8"))
    (words,) = [shown.words for shown in read.shown if shown.name == name]
    check_names(words, "few values")
