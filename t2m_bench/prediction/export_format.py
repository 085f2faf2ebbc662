"""Describes an exported folder: names of its files, and config.json as typed data."""

from pathlib import Path
from typing import Any, Literal

from t2m_bench.data.frame import Frame
from t2m_bench.errors import WeightsError
from t2m_bench.recipe.encoders import IMAGE_ENCODERS, Fit, InputRange, Resized
from t2m_bench.recipe.schema import AdapterSection, Precision
from t2m_bench.recipe.typed_yaml import Section

CONFIG_NAME = "config.json"
PROMPTS_NAME = "prompts.safetensors"
CARD_NAME = "README.md"

PROMPTS_TENSOR = "text_embedding"
"""Name of the (S, E) tensor in PROMPTS_NAME, row for row with `prompts.sentences`."""


class FrameConfig(Section):
    """Geometry of the image encoder."""

    input_size: int
    grid: int
    fit: Fit
    resized: Resized


class ImageEncoderConfig(Section):
    """The frozen image encoder, by name and sha256; its weights are not in the folder."""

    preset: str
    input_range: InputRange
    sha256: str
    frame: FrameConfig

    def check_frame(self, source: Path) -> None:
        """See that the encoder of this name has the frame of then.

        Raises:
            WeightsError: another version of the package that adds it has another one.
        """
        frame = Frame.of(IMAGE_ENCODERS.find(self.preset))
        found = FrameConfig(input_size=frame.input_size, grid=frame.grid, fit=frame.fit, resized=frame.resized)
        if found != self.frame:
            raise WeightsError(
                f"{source}: image encoder {self.preset} was {self.frame.model_dump()} when it was exported, and is "
                f"{found.model_dump()} here. Use the version of t2m-bench that exported it."
            )


class TextEncoderConfig(Section):
    """The frozen text encoder, by name and sha256; only sentences outside the prompt file need it."""

    name: str
    pooling: Literal["cls", "mean"]
    sha256: str
    width: int


class PixelsConfig(Section):
    """How files became 8-bit images in training."""

    dataset: str
    intensity: Literal["minmax"] | tuple[float, float]
    window_hu: tuple[float, float]


class ClassConfig(Section):
    """Rows of a class's sentences."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]


class FreeConfig(Section):
    """How free texts were read in training, and the classes that went with them; no text is here."""

    class_field: str
    class_names: tuple[str, ...]
    strip_numbers: bool
    long_text: Literal["refuse", "average"]


class PromptsConfig(Section):
    """The class sentences; `fields` is field -> class -> rows of `sentences`, `free` is null where there are some."""

    file: str
    sha256: str
    sentences: tuple[str, ...]
    fields: dict[str, dict[str, ClassConfig]]
    free: FreeConfig | None = None


class ExportConfig(Section):
    """All of config.json; `files` is name -> sha256, `verdicts` are the report's."""

    format: Literal[1] = 1
    t2m_bench: str
    name: str
    run_hash: str
    epoch: int
    precision: Precision
    adapter: AdapterSection
    image_encoder: ImageEncoderConfig
    text_encoder: TextEncoderConfig
    pixels: PixelsConfig
    prompts: PromptsConfig
    files: dict[str, str]
    verdicts: tuple[dict[str, Any], ...]
