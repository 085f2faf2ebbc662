"""Describes a trained adapter as data, wherever it lies: all that is needed to apply it to a new image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from t2m_bench.data.datasets.table.stored import Intensity
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.recipe.arms import ARMS, ArmEntry
from t2m_bench.recipe.schema import AdapterSection, ImageEncoderSection, Precision, TextEncoderSection


@dataclass(frozen=True)
class FreeReading:
    """How free texts were read in training: with numbers masked or not, and long ones refused or averaged."""

    strip_numbers: bool
    long_text: Literal["refuse", "average"]


@dataclass(frozen=True)
class Vocabulary:
    """The class sentences that a run was trained with, row for row with the vectors of `table`.

    Of free texts, which are patients' data, none is here but the one that says unknown.

    Attributes:
        file, sha256: name of the prompt file, and of its content.
        free: None where sentences stand for classes.
    """

    sentences: tuple[str, ...]
    table: TextTable
    file: str
    sha256: str
    free: FreeReading | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The text fields in the order of the prompt file."""
        return tuple(self.table.rows)

    @property
    def text_width(self) -> int:
        """E of the text encoder."""
        return int(self.table.embeddings.shape[1])


@dataclass(frozen=True)
class PixelSettings:
    """How files became 8-bit images when the adapter was trained.

    Attributes:
        dataset: kind of data set. intensity: of values with more than 8 bits. window_hu: (width, level) of CT.
    """

    dataset: str
    intensity: Intensity
    window_hu: tuple[float, float]


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter, and what it was trained between.

    Attributes:
        name: of its run. folder: with adapter.safetensors.
        adapter_sha256: of that file; empty where the run noted none.
        run_hash, epoch: those that the file's note must have.
        precision: of the step, as `optim.mixed_precision`.
        image_weights_sha256, text_weights_sha256: of the frozen encoders.
        source: the words by which messages name its description.
        verdicts: of the report, as an export holds them; None where the experiment is there to be reported.
    """

    name: str
    folder: Path
    adapter_sha256: str
    run_hash: str
    epoch: int
    adapter: AdapterSection
    precision: Precision
    image_encoder: ImageEncoderSection
    image_weights_sha256: str
    text_encoder: TextEncoderSection
    text_weights_sha256: str
    pixels: PixelSettings
    vocabulary: Vocabulary
    source: str
    verdicts: tuple[dict[str, Any], ...] | None = None

    @property
    def entry(self) -> ArmEntry:
        """The row of its kind in the table of arms."""
        return ARMS.find(self.adapter.kind)
