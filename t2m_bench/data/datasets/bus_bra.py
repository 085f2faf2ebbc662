"""Reads BUS-BRA as published (Zenodo 8231412): Images, Masks, bus_data.csv and 5-fold-cv.csv."""

import ast
import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from t2m_bench.data.case import Case
from t2m_bench.data.exclusions import Exclusion
from t2m_bench.data.images import MaskFile, compute_image_sha256, compute_tight_box, load_grey, load_mask_file
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.data.tables import check_unique, find_patient_problem, read_table, read_whole, trim_whole
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal

BIRADS = ("2", "3", "4", "5")
TABLE, FOLDS = "bus_data.csv", "5-fold-cv.csv"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
SPECK_PIXELS = 2
BOX_TOLERANCE_PIXELS = 2

OnCase = Callable[[int, int], None]


def find_root(root: Path) -> Path:
    """Return the folder that holds bus_data.csv: the one given, or BUSBRA inside it.

    Raises:
        DatasetError: neither does.
    """
    for folder in (root, root / "BUSBRA"):
        if (folder / TABLE).is_file():
            return folder
    found = "has no bus_data.csv" if root.is_dir() else "does not exist"
    raise DatasetError(
        f"{root}: {found}. Set dataset.root to the unpacked BUS-BRA folder (Zenodo 8231412), "
        "or write phantoms with `t2m-bench phantom bus-bra`."
    )


def read_bus_bra(root: Path, on_case: OnCase | None = None) -> list[Case]:
    """Read every case; boxes come from the masks, never from the CSV.

    Args:
        on_case: called with (cases read, cases in all) for progress.

    Raises:
        DatasetError: names the file and row, what was found and what to do.
    """
    root = find_root(root)
    table = _read_table(root)
    folds = _read_folds(root, table)
    _check_files(root, table)
    rows = table.to_dict("records")
    with ThreadPoolExecutor() as pool:
        cases = []
        for case in pool.map(lambda row: _read_case(root, row, folds), rows):
            cases.append(case)
            if on_case is not None:
                on_case(len(cases), len(rows))
    return _flag_patients(cases)


def _read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    table = read_table(path, columns)
    check_unique(path, table, "ID")
    return table


def _read_table(root: Path) -> pd.DataFrame:
    table = _read_csv(root / TABLE, ("ID", "Case", "BIRADS", "Width", "Height", "BBOX"))
    if table.empty:
        raise DatasetError(f"{root / TABLE}: has no rows.")
    birads = table["BIRADS"].map(trim_whole)
    unset = birads.str.lower().isin(["", "nan", "na", UNKNOWN])
    bad = table[~unset & ~birads.isin(BIRADS)]
    if len(bad):
        row = bad.iloc[0]
        raise DatasetError(
            f"{root / TABLE}, row {bad.index[0]}: BIRADS of {row['ID']} is {row['BIRADS']!r}; use 2 to 5, or leave it "
            "empty."
        )
    patients = table["Case"].map(trim_whole)  # one patient as 1 and as 1.0 would be split in two
    for line, case_id, patient in table[["ID", "Case"]].itertuples():
        if problem := find_patient_problem(str(patient)):
            raise DatasetError(f"{root / TABLE}, row {line}: Case of {case_id} {problem}")
    return table.assign(BIRADS=birads.where(~unset, UNKNOWN), Case=patients)


def _read_folds(root: Path, table: pd.DataFrame) -> dict[str, int]:
    path = root / FOLDS
    if not path.is_file():
        raise DatasetError(f"{path}: absent; the official test folds are read from it. Unpack the data set again.")
    folds = {}
    for line, case_id, fold in _read_csv(path, ("ID", "kFold"))[["ID", "kFold"]].itertuples():
        number = read_whole(str(fold))
        if number is None:
            raise DatasetError(f"{path}, row {line}: kFold of {case_id} is {fold!r}, not a whole number.")
        folds[str(case_id)] = number
    lacking = [case_id for case_id in table["ID"] if case_id not in folds]
    if lacking:
        raise DatasetError(f"{path}: has no row for {lacking[0]} ({len(lacking)} such), which {TABLE} lists.")
    return folds


def _check_files(root: Path, table: pd.DataFrame) -> None:
    images = {path.stem.removeprefix("bus_") for path in (root / "Images").glob("bus_*.png")}
    masks = {path.stem.removeprefix("mask_") for path in (root / "Masks").glob("mask_*.png")}
    listed = {str(case_id).removeprefix("bus_") for case_id in table["ID"]}
    problems = (
        (images - masks, "Images/bus_{}.png has no mask", "Add Masks/mask_{}.png or remove the image and its row."),
        (masks - images, "Masks/mask_{}.png has no image", "Add Images/bus_{}.png or remove the mask and its row."),
        (listed - images, TABLE + " lists bus_{}, which has no image", "Add Images/bus_{}.png or remove the row."),
        (images - listed, "Images/bus_{}.png has no row in " + TABLE, "Add a row for bus_{} or remove the image."),
    )
    for stems, found, way_out in problems:
        if stems:
            stem = min(stems)
            _check_endings(root)
            raise DatasetError(f"{root}: {found.format(stem)} ({len(stems)} such). {way_out.format(stem)}")


def _check_endings(root: Path) -> None:
    """Refuse images and masks under other endings than the one that is read."""
    paths = (path for folder in ("Images", "Masks") for path in (root / folder).glob("*.*"))
    others = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.suffix != ".png"]
    if others:
        raise DatasetError(
            f"{min(others)}: ends in {min(others).suffix} ({len(others)} such files), and only files that end in .png "
            "are read. Save them as PNG under that ending."
        )


def _read_case(root: Path, row: dict[str, str], folds: dict[str, int]) -> Case:
    case_id = row["ID"]
    image_path = Path("Images") / f"{case_id}.png"
    mask_path = Path("Masks") / f"mask_{case_id.removeprefix('bus_')}.png"
    image, stored = load_grey(root / image_path), load_mask_file(root / mask_path)
    mask = stored.mask
    if image.shape != mask.shape:
        raise DatasetError(
            f"{root / mask_path}: {_size(mask)} px, but its image is {_size(image)} px. Give both the same size."
        )
    if not mask.any():
        raise DatasetError(
            f"{root / mask_path}: the mask is empty, so there is no lesion to box. Remove the case and its row."
        )
    box = compute_tight_box(mask)
    height, width = image.shape
    return Case(
        case_id,
        row["Case"],
        image_path,
        mask_path,
        height,
        width,
        box,
        {"birads": row["BIRADS"]},
        folds[case_id],
        None,
        _find_flags(row, stored, box),
        compute_image_sha256(image),
        compute_image_sha256(mask.astype(np.uint8)),
    )


def _size(array: NDArray[np.generic]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _find_flags(row: dict[str, str], stored: MaskFile, box: tuple[int, int, int, int]) -> tuple[str, ...]:
    mask = stored.mask
    height, width = mask.shape
    flags = []
    if not _box_agrees(row["BBOX"], box):
        flags.append("bbox_disagrees")
    if (read_whole(row["Width"]), read_whole(row["Height"])) != (width, height):
        flags.append("csv_size_disagrees")
    labels, count = ndimage.label(mask)  # by edges: the published specks touch the lesion by a corner
    if count > 1 and np.bincount(labels.ravel())[1:].min() <= SPECK_PIXELS:
        flags.append("mask_specks")
    if stored.num_values > 2:
        flags.append("mask_cut_at_half")
    kind = (row["BIRADS"], row.get("Pathology", "").strip().lower())
    if kind in {("2", "malignant"), ("5", "benign")}:
        flags.append(f"birads_{kind[0]}_{kind[1]}")
    return tuple(flags)


def _box_agrees(text: str, box: tuple[int, int, int, int]) -> bool:
    """Return whether the CSV's 1-based [x, y, w, h], w = xmax - xmin, equals the mask's box within the tolerance."""
    try:
        x, y, w, h = (float(value) for value in ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        return False
    stated = (x - 1, y - 1, x + w, y + h)
    return all(math.isfinite(s) and abs(s - b) <= BOX_TOLERANCE_PIXELS for s, b in zip(stated, box, strict=True))


def _flag_patients(cases: list[Case]) -> list[Case]:
    distinct = {(case.patient_id, case.text_fields["birads"]) for case in cases}
    counts = Counter(patient for patient, _ in distinct)
    return [
        replace(case, flags=(*case.flags, "patient_has_several_birads")) if counts[case.patient_id] > 1 else case
        for case in cases
    ]


class BusBra:
    """BUS-BRA as one of the data sets."""

    makes_images = False

    def find_root(self, recipe: Recipe) -> Path:
        """Return the folder that holds the tables; raises DatasetError as `find_root`."""
        return find_root(recipe.dataset.root)

    def list_files(self, recipe: Recipe, root: Path) -> list[Path]:
        """Return every file that cases depend on."""
        return [root / TABLE, root / FOLDS, *sorted(root.glob("*/*.png"))]

    def describe_reading(self, recipe: Recipe) -> str:
        """Return nothing: no setting changes what the files give."""
        return ""

    def describe_selection(self, recipe: Recipe) -> str:
        """Return nothing: every image is a case."""
        return ""

    def read(self, recipe: Recipe, root: Path, folder: Path, terminal: Terminal) -> tuple[list[Case], list[Exclusion]]:
        """Return every case; nothing is left out."""
        with terminal.watch("cases read") as advance:
            return read_bus_bra(root, advance), []

    def count(self, recipe: Recipe, root: Path) -> tuple[int, str]:
        """Return how many images there are, and that in words."""
        count = sum(1 for _ in (root / "Images").glob("*.png"))
        return count, f"{count} images in {root}"
