"""What differs between kinds of data set: where one lies, when it counts as changed, how it is read, its phantoms."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.bus_bra import find_root as find_bus_bra
from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.datasets.nsclc.clinical import find_clinical_table, read_clinical
from t2m_bench.data.datasets.nsclc.dicom_series import list_decodable_syntaxes, list_files
from t2m_bench.data.datasets.nsclc.reader import WINDOWS_HU, SliceRule, read_nsclc
from t2m_bench.data.exclusions import Exclusion, describe_exclusions
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.data.phantoms.folder import load_record
from t2m_bench.data.phantoms.nsclc import write_nsclc_phantom
from t2m_bench.errors import DatasetError
from t2m_bench.files import write_json
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal

EXCLUSIONS_NAME = "exclusions.json"
READING = 2
"""Raise it when the same files give other cases: what an earlier reading made of them is then not reused."""


@dataclass(frozen=True)
class Dataset:
    """A data set that is there.

    Attributes:
        root: the folder as it was downloaded.
        stamp: sha256 of all that its cases depend on: paths, sizes and times of files, how they are read, the rule of
            choice, and for DICOM what can be decoded here.
    """

    recipe: Recipe
    root: Path
    stamp: str

    @property
    def has_own_images(self) -> bool:
        """Whether cases are images of the folder itself, not made from them."""
        return self.recipe.dataset.kind == "bus_bra"

    def describe_selection(self) -> str:
        """Return how cases are chosen among what the folder holds; empty where all are taken."""
        return "" if self.has_own_images else make_slice_rule(self.recipe).describe()


def open_dataset(recipe: Recipe, terminal: Terminal) -> Dataset:
    """Return the recipe's data set; its phantoms are written first where it has some.

    Raises:
        DatasetError: the folder does not exist or is of another kind.
    """
    _write_phantoms(recipe, terminal)
    root = find_root(recipe)
    if recipe.dataset.kind == "bus_bra":
        files = [root / "bus_data.csv", root / "5-fold-cv.csv", *sorted(root.glob("*/*.png"))]
        return Dataset(recipe, root, _compute_stamp(root, files))
    clinical = recipe.dataset.clinical
    files = [*list_files(root), *([clinical] if clinical else [])]
    codecs = " ".join(list_decodable_syntaxes())  # one that is installed later gives cases that were left out
    return Dataset(recipe, root, _compute_stamp(root, files, f"{make_slice_rule(recipe).describe()} {codecs}"))


def find_root(recipe: Recipe) -> Path:
    """Return the folder of a recipe's data set.

    Raises:
        DatasetError: it does not exist, or lacks its table.
    """
    root = recipe.dataset.root
    if recipe.dataset.kind == "bus_bra":
        return find_bus_bra(root)
    if not root.is_dir():
        raise DatasetError(
            f"{root}: does not exist. Set dataset.root to the folder of NSCLC-Radiogenomics (`t2m-bench fetch nsclc`), "
            "or write phantoms with `t2m-bench phantom nsclc`."
        )
    if recipe.dataset.clinical is None:
        find_clinical_table(root)
    return root


def find_phantom(recipe: Recipe) -> dict[str, Any] | None:
    """Return the parameters of the recipe's phantoms, be they its own or written by hand; None for a real data set."""
    phantom = recipe.dataset.phantom
    return phantom.model_dump() if phantom is not None else load_record(recipe.dataset.root)


def read_cases(dataset: Dataset, folder: Path, terminal: Terminal) -> list[Case]:
    """Read the cases; what was left out is noted in `folder`, where images that are made go too.

    Raises:
        DatasetError: the folder cannot be read as cases, or gives none.
    """
    recipe = dataset.recipe
    if recipe.dataset.kind == "bus_bra":
        with terminal.watch("cases read") as advance:
            return read_bus_bra(dataset.root, advance)
    rule = make_slice_rule(recipe)
    cases, excluded = read_nsclc(dataset.root, recipe.dataset.clinical, folder, rule, terminal.watch)
    path = folder / EXCLUSIONS_NAME
    write_json(path, [asdict(exclusion) for exclusion in excluded], private=True)
    if not cases:
        what = describe_exclusions(excluded, path)
        raise DatasetError(f"{dataset.root}: no case can be made ({what}). Set dataset.root to the DICOM folder.")
    return cases


def load_exclusions(folder: Path) -> list[Exclusion]:
    """Return what was left out when the cases in a folder were read.

    Raises:
        DatasetError: the file is damaged.
    """
    path = folder / EXCLUSIONS_NAME
    if not path.is_file():
        return []
    try:
        return TypeAdapter(list[Exclusion]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DatasetError(
            f"{path}: not a list of what was left out ({error.errors()[0]['msg']}). Remove {folder} and prepare again."
        ) from None


def count_images(recipe: Recipe) -> tuple[int, str]:
    """Return how many images a data set has, at most, and in words what was counted.

    Raises:
        DatasetError: the folder does not exist or is of another kind.
    """
    root = find_root(recipe)
    if recipe.dataset.kind == "bus_bra":
        count = sum(1 for _ in (root / "Images").glob("*.png"))
        return count, f"{count} images in {root}"
    table = recipe.dataset.clinical or find_clinical_table(root)
    num_patients = len(read_clinical(table))
    most = num_patients * recipe.dataset.ct.slices_per_patient
    return most, f"{num_patients} patients in {table}, at most {most} slices"


def make_slice_rule(recipe: Recipe) -> SliceRule:
    """Return which CT slices become cases, and how they look."""
    ct = recipe.dataset.ct
    window = WINDOWS_HU[ct.window] if isinstance(ct.window, str) else ct.window
    return SliceRule(window, ct.slices_per_patient, ct.min_pixels, ct.slice_seed)


def _write_phantoms(recipe: Recipe, terminal: Terminal) -> None:
    phantom, root = recipe.dataset.phantom, recipe.dataset.root
    if phantom is None:
        return
    write = write_bus_bra_phantom if recipe.dataset.kind == "bus_bra" else write_nsclc_phantom
    write(
        root,
        num_cases=phantom.cases,
        seed=phantom.seed,
        text_effect=phantom.text_effect,
        text_visible=phantom.text_visible,
    )
    terminal.say(f"phantoms in {root}: {phantom.cases} cases, text effect {phantom.text_effect:g}")


def _compute_stamp(root: Path, files: Iterable[Path], rule: str = "") -> str:
    digest = hashlib.sha256(f"{READING} {root.resolve()}{rule}".encode())
    for path in files:
        if path.is_file():
            status = path.stat()
            digest.update(f"{os.path.relpath(path, root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
