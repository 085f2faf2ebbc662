"""Says what every data set does: finds its files, tells when they changed, reads its cases, makes its phantoms."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from t2m_bench.data.case import Case
from t2m_bench.data.exclusions import Exclusion, describe_exclusions, find_remedy
from t2m_bench.data.image_audit import ImageFinding, PixelValues, audit_images, write_image_audit
from t2m_bench.data.phantoms.folder import load_record
from t2m_bench.errors import DatasetError
from t2m_bench.files import escape_name, write_json
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.registry import load_object
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal

EXCLUSIONS_NAME = "exclusions.json"
READER_VERSION = 3
"""Version of all readers together.

Raise it when the same files give other cases, so that an earlier manifest is not reused.
"""

FIRST_VERSION = 1
"""Version of a reader that names none."""


class Reader(Protocol):
    """One kind of data set; its row in `recipe/datasets.py` names the class.

    Attributes:
        makes_images: whether images and masks are written below the prepared folder, not read from the data set's own.

    A reader may also have a `version` (FIRST_VERSION where it has none): raise it when the same files give other cases.
    One that makes images may have `stored_values`, filled by `read`: case_id -> values before windowing, for the audit.
    """

    makes_images: bool

    def find_root(self, recipe: Recipe) -> Path:
        """Return the data set's folder; raises DatasetError where it does not exist or is of another kind."""
        ...

    def list_files(self, recipe: Recipe, root: Path) -> Iterable[Path]:
        """Return every file that cases depend on: paths, sizes and times tell when the data set changed."""
        ...

    def describe_reading(self, recipe: Recipe) -> str:
        """Return whatever else cases depend on; another text has them read again."""
        ...

    def describe_selection(self, recipe: Recipe) -> str:
        """Return in words how cases are chosen among what the folder holds; empty where all are taken."""
        ...

    def read(self, recipe: Recipe, root: Path, folder: Path, terminal: Terminal) -> tuple[list[Case], list[Exclusion]]:
        """Return the cases and what was left out; images that are made go below `folder`."""
        ...

    def count(self, recipe: Recipe, root: Path) -> tuple[int, str]:
        """Return how many cases there are at most, and in words what was counted."""
        ...


def find_reader(recipe: Recipe) -> Reader:
    """Return the reader of a recipe's kind of data set."""
    reader: Reader = load_object(DATA_SETS.find(recipe.dataset.kind).reader)()
    return reader


@dataclass(frozen=True)
class Dataset:
    """A data set that is there.

    Attributes:
        root: the folder as it was downloaded.
        stamp: sha256 of all that its cases depend on: paths, sizes and times of files, which reader reads them and how,
            the rule of choice, and for DICOM what can be decoded here.
    """

    recipe: Recipe
    reader: Reader
    root: Path
    stamp: str

    @property
    def has_own_images(self) -> bool:
        """Return whether cases are images of the folder itself, not made from them."""
        return not self.reader.makes_images

    def describe_selection(self) -> str:
        """Return how cases are chosen among what the folder holds; empty where all are taken."""
        return self.reader.describe_selection(self.recipe)


def open_dataset(recipe: Recipe, terminal: Terminal) -> Dataset:
    """Return the recipe's data set; its phantoms are written first where it has some.

    Raises:
        DatasetError: the folder does not exist or is of another kind.
    """
    _write_phantoms(recipe, terminal)
    reader = find_reader(recipe)
    root = reader.find_root(recipe)
    rule = _describe_reader(recipe.dataset.kind, reader) + reader.describe_reading(recipe)
    stamp = _compute_stamp(root, reader.list_files(recipe, root), rule)
    return Dataset(recipe, reader, root, stamp)


def find_root(recipe: Recipe) -> Path:
    """Return the folder of a recipe's data set.

    Raises:
        DatasetError: it does not exist, or is of another kind.
    """
    return find_reader(recipe).find_root(recipe)


def find_phantom(recipe: Recipe) -> dict[str, Any] | None:
    """Return the parameters of the recipe's phantoms, be they its own or written by hand; None for a real data set."""
    phantom = recipe.dataset.phantom
    return phantom.model_dump() if phantom is not None else load_record(recipe.dataset.root)


def read_cases(dataset: Dataset, folder: Path, terminal: Terminal) -> list[Case]:
    """Read the cases; what was left out is noted in `folder`, where images that are made go too.

    Raises:
        DatasetError: the folder cannot be read as cases, or gives none.
    """
    cases, excluded = dataset.reader.read(dataset.recipe, dataset.root, folder, terminal)
    path = folder / EXCLUSIONS_NAME
    if excluded or dataset.reader.makes_images:
        named = [{**asdict(exclusion), "what": escape_name(exclusion.what)} for exclusion in excluded]
        write_json(path, named, private=True)
    if not cases:
        what = describe_exclusions(excluded, path)
        remedy = find_remedy(exclusion.reason for exclusion in excluded)
        kind = DATA_SETS.find(dataset.recipe.dataset.kind).label
        way_out = f"Run `{remedy}`, then this command again" if remedy else f"Set dataset.root to the folder of {kind}"
        raise DatasetError(f"{dataset.root}: no case can be made ({what}). {way_out}.")
    write_image_audit(folder, audit_cases(dataset, folder, cases, terminal))
    return cases


def audit_cases(dataset: Dataset, folder: Path, cases: Sequence[Case], terminal: Terminal) -> list[ImageFinding]:
    """Look at the image and the mask of every case.

    Args:
        folder: where images that are made were written.

    Raises:
        DatasetError: one cannot be read.
    """
    stored: Mapping[str, PixelValues] = getattr(dataset.reader, "stored_values", {})
    with terminal.watch("images audited") as advance:
        return audit_images(dataset.root if dataset.has_own_images else folder, cases, stored, advance)


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
    reader = find_reader(recipe)
    return reader.count(recipe, reader.find_root(recipe))


def _write_phantoms(recipe: Recipe, terminal: Terminal) -> None:
    phantom, root = recipe.dataset.phantom, recipe.dataset.root
    if phantom is None:
        return
    load_object(DATA_SETS.find(recipe.dataset.kind).phantom)(
        root,
        num_cases=phantom.cases,
        seed=phantom.seed,
        text_effect=phantom.text_effect,
        text_visible=phantom.text_visible,
    )
    terminal.say(f"phantoms in {root}: {phantom.cases} cases, text effect {phantom.text_effect:g}")


def _describe_reader(kind: str, reader: Reader) -> str:
    """Return kind and version for the stamp: two readers may list the same files and make other cases of them."""
    version = getattr(reader, "version", FIRST_VERSION)
    if DATA_SETS.find(kind).has_old_stamps and version == FIRST_VERSION:
        return ""
    return f"\n{kind} {version}\n"


def _compute_stamp(root: Path, files: Iterable[Path], rule: str) -> str:
    digest = hashlib.sha256(f"{READER_VERSION} {root.resolve()}{rule}".encode(errors="surrogateescape"))
    for path in files:
        if path.is_file():
            status = path.stat()
            noted = f"{os.path.relpath(path, root)} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(noted.encode(errors="surrogateescape"))  # a name's bytes need not be UTF-8
    return digest.hexdigest()
