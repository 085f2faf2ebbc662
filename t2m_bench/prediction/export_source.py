"""Reads a trained adapter from a folder that `t2m-bench export` wrote; nothing outside it is needed."""

from pathlib import Path

from t2m_bench.data.free_text import TEXT
from t2m_bench.embedding.text_table import FreeTexts, TextTable
from t2m_bench.errors import RunFolderError
from t2m_bench.files import load_json
from t2m_bench.prediction.export_format import CONFIG_NAME, PROMPTS_NAME, PROMPTS_TENSOR, ExportConfig, PromptsConfig
from t2m_bench.prediction.trained import FreeReading, PixelSettings, TrainedAdapter, Vocabulary
from t2m_bench.recipe.schema import ImageEncoderSection, TextEncoderSection
from t2m_bench.recipe.typed_yaml import validate
from t2m_bench.training.checkpoint import ADAPTER_NAME, compute_tensors_sha256, load_tensors

WAY_OUT = "Fetch the folder again, or export the run again."


def load_export(folder: Path, text_encoder: str | None = None) -> TrainedAdapter:
    """Read an exported adapter.

    Args:
        text_encoder: where the text encoder lies, if not under the name that the export has.

    Raises:
        RunFolderError: a file is absent or was altered.
        RecipeError: config.json is of another version; names the field.
        WeightsError: the image encoder is another one in this installation.
    """
    path = folder / CONFIG_NAME
    config = validate(ExportConfig, load_json(path, WAY_OUT), "export", str(path))
    config.image_encoder.check_frame(path)
    return TrainedAdapter(
        name=config.name,
        folder=folder,
        adapter_sha256=config.files.get(ADAPTER_NAME, ""),
        run_hash=config.run_hash,
        epoch=config.epoch,
        adapter=config.adapter,
        precision=config.precision,
        image_encoder=ImageEncoderSection.model_construct(
            preset=config.image_encoder.preset, checkpoint=None, input_range=config.image_encoder.input_range
        ),
        image_weights_sha256=config.image_encoder.sha256,
        text_encoder=TextEncoderSection(
            name=text_encoder or config.text_encoder.name, pooling=config.text_encoder.pooling
        ),
        text_weights_sha256=config.text_encoder.sha256,
        pixels=PixelSettings(config.pixels.dataset, config.pixels.intensity, config.pixels.window_hu),
        vocabulary=_load_vocabulary(folder / PROMPTS_NAME, config.prompts, config.files.get(PROMPTS_NAME, "")),
        source=str(path),
        verdicts=config.verdicts,
    )


def _load_vocabulary(path: Path, prompts: PromptsConfig, sha256: str) -> Vocabulary:
    found = compute_tensors_sha256(path)
    if found != sha256:
        raise RunFolderError(f"{path}: its sha256 is {found}, but {CONFIG_NAME} says {sha256}. {WAY_OUT}")
    embedding = load_tensors(path)[0][PROMPTS_TENSOR]
    if embedding.shape[0] != len(prompts.sentences):
        raise RunFolderError(
            f"{path}: has {embedding.shape[0]} vectors for the {len(prompts.sentences)} sentences of {CONFIG_NAME}. "
            f"{WAY_OUT}"
        )
    rows = {
        field: {name: of_class.training for name, of_class in classes.items()}
        for field, classes in prompts.fields.items()
    }
    held_out = {
        field: {name: of_class.held_out for name, of_class in classes.items()}
        for field, classes in prompts.fields.items()
    }
    if prompts.free is None:
        table, reading = TextTable(embedding, rows, {}, held_out), None
    else:
        told = prompts.free
        table = TextTable(embedding, rows, {}, free=FreeTexts(TEXT, told.class_field, told.class_names))
        reading = FreeReading(told.strip_numbers, told.long_text)
    return Vocabulary(prompts.sentences, table, prompts.file, prompts.sha256, reading)
