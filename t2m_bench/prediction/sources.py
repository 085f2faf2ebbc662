"""Finds out what a folder with a trained adapter is, and reads its description."""

from dataclasses import replace
from pathlib import Path

from t2m_bench.errors import RunFolderError
from t2m_bench.prediction.export_format import CONFIG_NAME
from t2m_bench.prediction.export_source import load_export
from t2m_bench.prediction.run_source import load_run
from t2m_bench.prediction.trained import TrainedAdapter
from t2m_bench.runs.run_folder import RUN_NAME


def load_trained(folder: Path, checkpoint: Path | None = None, text_encoder: str | None = None) -> TrainedAdapter:
    """Read the description of a trained adapter.

    Args:
        checkpoint, text_encoder: where the frozen encoders lie now, if not where the training had them.

    Raises:
        RunFolderError: there is no such folder, or it holds no finished run and no export.
        RecipeError, WeightsError: as `load_run` and `load_export`.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: does not exist. Give a finished run's folder, or an exported one.")
    is_export = (folder / CONFIG_NAME).is_file() and not (folder / RUN_NAME).exists()
    trained = load_export(folder, text_encoder) if is_export else load_run(folder, text_encoder)
    if checkpoint is not None:
        trained = replace(trained, image_encoder=trained.image_encoder.model_copy(update={"checkpoint": checkpoint}))
    return trained
