"""Tells a user what speaks against a prediction: images of another kind, and text that was not shown to help."""

from typing import Any

from t2m_bench.errors import UserError
from t2m_bench.prediction.image_input import ImageInput
from t2m_bench.prediction.trained import TrainedAdapter
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.reporting.results_frame import load_results
from t2m_bench.statistics.decision import Outcome

ANOTHER_MODALITY = "another_modality"
"""The file says another modality than the training data's."""

NO_HOUNSFIELD = "no_hounsfield_units"
"""The training data were CT in a window of Hounsfield units, and the file holds none."""

ONE_SLICE = "one_slice_of_three"
"""The training images were three neighbouring slices, and one stands for them."""

COMPUTED_IN_FULL = "fp16_computed_in_fp32"
"""The run was trained in half precision, which needs a GPU."""


def flag_image(image: ImageInput, dataset: str) -> tuple[str, ...]:
    """Return in which ways an image file is not what an adapter was trained on, as far as files tell."""
    entry = DATA_SETS.get(dataset)
    if entry is None:
        return ()
    found = image.stored.mode.removeprefix("DICOM").strip() if image.is_dicom else ""
    is_ct = entry.modality == "CT"
    marks = {
        ANOTHER_MODALITY: bool(found and entry.modality and found.upper() != entry.modality),
        NO_HOUNSFIELD: is_ct and not image.stored.is_hounsfield,
        ONE_SLICE: entry.slices > 1,
    }
    return tuple(name for name, is_marked in marks.items() if is_marked)


def load_verdicts(trained: TrainedAdapter) -> list[dict[str, Any]]:
    """Return the verdicts of the report on the adapter's experiment, as `ResultsFrame.verdicts`.

    Raises:
        UserError: the experiment's results cannot be reported.
    """
    if trained.verdicts is not None:
        return list(trained.verdicts)
    return load_results(trained.folder.resolve().parent, mixed=True).verdicts


def warn_of_text(trained: TrainedAdapter) -> str:
    """Return a sentence where the report does not find that the text helps; empty for an arm that reads none."""
    if not trained.entry.reads_text:
        return ""
    try:
        verdicts = load_verdicts(trained)
    except UserError as error:
        return f"Whether the text helps is not known: the report cannot be made ({error})"
    found = next((verdict for verdict in verdicts if verdict["about"] == "help"), None)
    if found is None:
        return "Whether the text helps is not known: the report has no verdict on it."
    if found["outcome"] == Outcome.GAIN:
        return ""
    return f"The report does not find that the text helps: {found['headline']}"
