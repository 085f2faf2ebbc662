"""A user's own data as one of the data sets: any folder, by a table with a row for each image and mask."""

import json
from pathlib import Path

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.nsclc.data_set import make_slice_rule
from t2m_bench.data.datasets.table.reader import PixelRule, make_cases
from t2m_bench.data.datasets.table.rows import Row, find_table, read_rows
from t2m_bench.data.exclusions import Exclusion, Reason
from t2m_bench.data.image_audit import PixelValues
from t2m_bench.data.prompts import load_prompts
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal


class OwnTable:
    """Reads the rows of `dataset.table`; images and masks are copied as 8-bit PNG, so that all steps read the same."""

    makes_images = True

    def __init__(self) -> None:
        self.stored_values: dict[str, PixelValues] = {}

    def find_root(self, recipe: Recipe) -> Path:
        """Return the folder as the recipe names it.

        Raises:
            DatasetError: it or the table does not exist.
        """
        find_table(recipe.dataset)
        return recipe.dataset.root

    def list_files(self, recipe: Recipe, root: Path) -> list[Path]:
        """Return the table and every file that it names."""
        rows, _ = _read(recipe)
        files = {path for row in rows for path in (row.image.path, row.mask.path)}
        return [find_table(recipe.dataset), *sorted(files)]

    def describe_reading(self, recipe: Recipe) -> str:
        """Return which columns are read, and how pixels become 8 bits."""
        columns = recipe.dataset.columns.model_dump(mode="json")
        described: list[object] = [columns, _list_fields(recipe), repr(_make_rule(recipe))]
        if recipe.prompts.column is not None:
            prompts = recipe.prompts
            described.append([prompts.column, prompts.class_column, prompts.paraphrase_column, prompts.strip_numbers])
        return json.dumps(described, sort_keys=True)

    def describe_selection(self, recipe: Recipe) -> str:
        """Return nothing: every row that the table does not exclude is read."""
        return ""

    def read(self, recipe: Recipe, root: Path, folder: Path, terminal: Terminal) -> tuple[list[Case], list[Exclusion]]:
        """Write images and masks below `folder`; return their cases and the rows left out.

        Raises:
            DatasetError: names the table and the row.
        """
        rows, excluded = _read(recipe)
        with terminal.watch("rows read", len(rows)) as advance:
            made = make_cases(find_table(recipe.dataset), rows, folder, _make_rule(recipe), advance)
        self.stored_values.update((lesion.case.case_id, lesion.values) for lesion in made)
        return [lesion.case for lesion in made], [Exclusion(Reason.ASKED, f"row {number}") for number in excluded]

    def count(self, recipe: Recipe, root: Path) -> tuple[int, str]:
        """Return how many lesions the table names, and that in words."""
        rows, _ = _read(recipe)
        count = sum(max(len(row.labels), 1) for row in rows)
        return count, f"{count} lesions in {len(rows)} rows of {find_table(recipe.dataset)}"


def _read(recipe: Recipe) -> tuple[list[Row], list[int]]:
    return read_rows(
        recipe.dataset, _list_fields(recipe), recipe.prompts if recipe.prompts.column is not None else None
    )


def _list_fields(recipe: Recipe) -> tuple[str, ...]:
    """Return the fields of the prompt file; none where texts are free."""
    if recipe.prompts.column is not None:
        return ()
    return load_prompts(recipe.prompts.file, recipe.prompts.family).fields


def _make_rule(recipe: Recipe) -> PixelRule:
    return PixelRule(recipe.dataset.intensity, make_slice_rule(recipe).window_hu)
