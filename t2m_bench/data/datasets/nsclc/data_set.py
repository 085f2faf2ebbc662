"""NSCLC-Radiogenomics as one of the data sets: its folder, its clinical table, which CT slices become cases."""

from pathlib import Path

from t2m_bench.data.case import Case
from t2m_bench.data.datasets.nsclc.clinical import find_clinical_table, read_clinical
from t2m_bench.data.datasets.nsclc.dicom_series import list_decodable_syntaxes, list_files
from t2m_bench.data.datasets.nsclc.reader import WINDOWS_HU, SliceRule, read_nsclc
from t2m_bench.data.exclusions import Exclusion
from t2m_bench.data.image_audit import PixelValues
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal


class Nsclc:
    """Reads a folder of DICOM files with its clinical table, wherever that lies."""

    makes_images = True

    def __init__(self) -> None:
        self.stored_values: dict[str, PixelValues] = {}

    def find_root(self, recipe: Recipe) -> Path:
        """Return the folder as the recipe names it.

        Raises:
            DatasetError: it does not exist, or has no clinical table.
        """
        root = recipe.dataset.root
        if not root.is_dir():
            raise DatasetError(
                f"{root}: does not exist. Set dataset.root to the folder of NSCLC-Radiogenomics (`t2m-bench fetch "
                "nsclc`), or write phantoms with `t2m-bench phantom nsclc`."
            )
        if recipe.dataset.clinical is None:
            find_clinical_table(root)
        return root

    def list_files(self, recipe: Recipe, root: Path) -> list[Path]:
        """Return every file that cases may depend on."""
        clinical = recipe.dataset.clinical
        return [*list_files(root), *([clinical] if clinical else [])]

    def describe_reading(self, recipe: Recipe) -> str:
        """Return the rule of choice and what can be decoded: a codec installed later gives cases that were left out."""
        return f"{self.describe_selection(recipe)} {' '.join(list_decodable_syntaxes())}"

    def describe_selection(self, recipe: Recipe) -> str:
        """Return in words which slices become cases."""
        return make_slice_rule(recipe).describe()

    def read(self, recipe: Recipe, root: Path, folder: Path, terminal: Terminal) -> tuple[list[Case], list[Exclusion]]:
        """Write slices and masks below `folder`; return their cases, and what was left out.

        Raises:
            DatasetError: the folder cannot be read.
        """
        rule, on_values = make_slice_rule(recipe), self.stored_values.__setitem__
        return read_nsclc(root, recipe.dataset.clinical, folder, rule, terminal.watch, on_values)

    def count(self, recipe: Recipe, root: Path) -> tuple[int, str]:
        """Return how many cases there are at most, and in words what was counted."""
        table = recipe.dataset.clinical or find_clinical_table(root)
        num_patients = len(read_clinical(table))
        most = num_patients * recipe.dataset.ct.slices_per_patient
        return most, f"{num_patients} patients in {table}, at most {most} slices"


def make_slice_rule(recipe: Recipe) -> SliceRule:
    """Return which CT slices become cases, and how they look."""
    ct = recipe.dataset.ct
    window = WINDOWS_HU[ct.window] if isinstance(ct.window, str) else ct.window
    return SliceRule(window, ct.slices_per_patient, ct.min_pixels, ct.slice_seed)
