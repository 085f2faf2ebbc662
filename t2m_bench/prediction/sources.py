"""Finds out what a folder with a trained adapter is, and reads its description."""

from dataclasses import replace
from pathlib import Path

from t2m_bench.errors import RunFolderError
from t2m_bench.prediction.run_source import load_run
from t2m_bench.prediction.trained import TrainedAdapter


def load_trained(folder: Path, checkpoint: Path | None = None, text_encoder: str | None = None) -> TrainedAdapter:
    """Read the description of a trained adapter.

    Args:
        checkpoint, text_encoder: where the frozen encoders lie now, if not where the training had them.

    Raises:
        RunFolderError: there is no such folder, or it holds no finished run.
        RecipeError, WeightsError: as `load_run`.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder. Give a finished run's folder.")
    trained = load_run(folder, text_encoder)
    if checkpoint is not None:
        trained = replace(trained, image_encoder=trained.image_encoder.model_copy(update={"checkpoint": checkpoint}))
    return trained
