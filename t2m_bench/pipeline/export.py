"""Exports a trained run as a folder that can be shared."""

from pathlib import Path

from t2m_bench.prediction.export import write_export
from t2m_bench.prediction.export_format import ExportConfig
from t2m_bench.prediction.predictor import Predictor


def export(run: Path, folder: Path, checkpoint: Path | None = None, text_encoder: str | None = None) -> ExportConfig:
    """Write a run's adapter, description, class sentences and model card into a new folder.

    Args:
        checkpoint, text_encoder: as of `Predictor.load`.

    Raises:
        UserError: the run cannot be loaded with the weights that it was trained with, or the folder is not empty.
    """
    (trained,) = Predictor.load(run, device="cpu", checkpoint=checkpoint, text_encoder=text_encoder).trained
    return write_export(trained, folder)
