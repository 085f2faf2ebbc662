"""A data set: a folder of images and masks with a table, as a user may have it."""

from pathlib import Path

import numpy as np
import pandas as pd

from t2m_bench.data.case import Case
from t2m_bench.data.exclusions import Exclusion
from t2m_bench.data.images import compute_image_sha256, compute_tight_box, load_grey
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.datasets import DataSet
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal

TABLE = "shapes.csv"
"""Columns: name (of images/NAME.png and masks/NAME.png), patient, shape (round, long, or empty where unknown)."""


class ShapesReader:
    """Reads the folder; every row of the table is a case."""

    makes_images = False

    def find_root(self, recipe: Recipe) -> Path:
        """Return the folder that the recipe names."""
        if not (recipe.dataset.root / TABLE).is_file():
            raise DatasetError(f"{recipe.dataset.root}: has no {TABLE}. Set dataset.root to the folder of shapes.")
        return recipe.dataset.root

    def list_files(self, recipe: Recipe, root: Path) -> list[Path]:
        """Return every file that cases depend on."""
        return [root / TABLE, *sorted(root.glob("*/*.png"))]

    def describe_reading(self, recipe: Recipe) -> str:
        """Return nothing: no setting changes what the files give."""
        return ""

    def describe_selection(self, recipe: Recipe) -> str:
        """Return nothing: every row is a case."""
        return ""

    def read(self, recipe: Recipe, root: Path, folder: Path, terminal: Terminal) -> tuple[list[Case], list[Exclusion]]:
        """Return every case; nothing is left out."""
        table = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False)
        return [read_case(root, row) for row in table.to_dict("records")], []

    def count(self, recipe: Recipe, root: Path) -> tuple[int, str]:
        """Return how many cases there are, and that in words."""
        count = len(pd.read_csv(root / TABLE))
        return count, f"{count} images in {root}"


def read_case(root: Path, row: dict[str, str]) -> Case:
    """Return the case of one row; its box is the tight box of its mask."""
    image_path, mask_path = (Path(folder) / f"{row['name']}.png" for folder in ("images", "masks"))
    image, mask = load_grey(root / image_path), load_grey(root / mask_path) > 0
    return Case(
        case_id=row["name"],
        patient_id=row["patient"],
        image_path=image_path,
        mask_path=mask_path,
        height=image.shape[0],
        width=image.shape[1],
        box_xyxy=compute_tight_box(mask),
        text_fields={"shape": row["shape"] or "unknown"},
        fold=None,
        spacing_mm=None,
        flags=(),
        image_sha256=compute_image_sha256(image),
        mask_sha256=compute_image_sha256(mask.astype(np.uint8)),
    )


SHAPES = DataSet(name="shapes", label="Drawn shapes", reader="t2m_shapes.data:ShapesReader")
