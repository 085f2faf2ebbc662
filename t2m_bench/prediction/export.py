"""Writes a trained adapter as a folder of its own, to be shared: weights, description, sentences, model card."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from t2m_bench import __version__
from t2m_bench.data.frame import Frame
from t2m_bench.errors import RunFolderError
from t2m_bench.files import write_atomically, write_json, write_text
from t2m_bench.prediction.cautions import load_verdicts
from t2m_bench.prediction.export_format import (
    CARD_NAME,
    CONFIG_NAME,
    PROMPTS_NAME,
    PROMPTS_TENSOR,
    ClassConfig,
    ExportConfig,
    FrameConfig,
    FreeConfig,
    ImageEncoderConfig,
    PixelsConfig,
    PromptsConfig,
    TextEncoderConfig,
)
from t2m_bench.prediction.trained import TrainedAdapter, Vocabulary
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.reporting.model_card import render_model_card
from t2m_bench.reporting.results import load_experiment
from t2m_bench.training.checkpoint import ADAPTER_NAME, compute_tensors_sha256, save_tensors


def write_export(trained: TrainedAdapter, folder: Path) -> ExportConfig:
    """Write the folder of an adapter whose run lies in its experiment; config.json comes last.

    Nothing of any case or patient is in it: weights, class sentences, and the report's aggregated tables.

    Raises:
        RunFolderError: the folder holds something already, or the experiment cannot be reported.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder}: is not empty. Name a new folder, or empty this one.")
    results = load_experiment(trained.folder.resolve().parent, mixed=True)
    verdicts = tuple(load_verdicts(trained))
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / ADAPTER_NAME) as partial:
        shutil.copyfile(trained.folder / ADAPTER_NAME, partial)
    vocabulary = trained.vocabulary
    save_tensors(folder / PROMPTS_NAME, {PROMPTS_TENSOR: vocabulary.table.embeddings}, {"prompts": vocabulary.file})
    (folder / PROMPTS_NAME).chmod((folder / ADAPTER_NAME).stat().st_mode)  # safetensors writes for the owner alone
    files = {name: compute_tensors_sha256(folder / name) for name in (ADAPTER_NAME, PROMPTS_NAME)}
    config = _describe(trained, files).model_copy(update={"verdicts": verdicts})
    write_text(folder / CARD_NAME, render_model_card(results, trained.name, config.model_dump(mode="json")))
    write_json(folder / CONFIG_NAME, config.model_dump(mode="json"))
    return config


def _describe(trained: TrainedAdapter, files: dict[str, str]) -> ExportConfig:
    encoder, text = trained.image_encoder, trained.text_encoder
    frame = Frame.of(IMAGE_ENCODERS.find(encoder.preset))
    return ExportConfig(
        t2m_bench=__version__,
        name=trained.name,
        run_hash=trained.run_hash,
        epoch=trained.epoch,
        precision=trained.precision,
        adapter=trained.adapter,
        image_encoder=ImageEncoderConfig(
            preset=encoder.preset,
            input_range=encoder.input_range,
            sha256=trained.image_weights_sha256,
            frame=FrameConfig(input_size=frame.input_size, grid=frame.grid, fit=frame.fit, resized=frame.resized),
        ),
        text_encoder=TextEncoderConfig(
            name=name_encoder(text.name),
            pooling=text.pooling,
            sha256=trained.text_weights_sha256,
            width=trained.vocabulary.text_width,
        ),
        pixels=PixelsConfig(
            dataset=trained.pixels.dataset, intensity=trained.pixels.intensity, window_hu=trained.pixels.window_hu
        ),
        prompts=_describe_prompts(trained.vocabulary),
        files=files,
        verdicts=(),
    )


def name_encoder(name: str) -> str:
    """Return a text encoder's name; of a folder its last part, since paths say something of the machine."""
    return Path(name).name if Path(name).is_dir() or Path(name).is_absolute() else name


def _describe_prompts(vocabulary: Vocabulary) -> PromptsConfig:
    table, free = vocabulary.table, None
    if vocabulary.free is not None and table.free is not None:
        free = FreeConfig(
            class_field=table.free.class_field,
            class_names=table.free.class_names,
            strip_numbers=vocabulary.free.strip_numbers,
            long_text=vocabulary.free.long_text,
        )
    return PromptsConfig(
        file=vocabulary.file,
        sha256=vocabulary.sha256,
        sentences=vocabulary.sentences,
        fields={field: _list_rows(table.held_out.get(field, {}), classes) for field, classes in table.rows.items()},
        free=free,
    )


def _list_rows(
    held_out: Mapping[str, tuple[int, ...]], training: Mapping[str, tuple[int, ...]]
) -> dict[str, ClassConfig]:
    return {name: ClassConfig(training=rows, held_out=held_out.get(name, ())) for name, rows in training.items()}
