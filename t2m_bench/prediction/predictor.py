"""Applies trained adapters to new images, to the bit as the benchmark does.

Legend: H, W of an image; L side of the low-resolution logits; E text width.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2m_bench.data.frame import Frame
from t2m_bench.embedding.encode import choose_batch_size
from t2m_bench.errors import RunFolderError, UserError, WeightsError
from t2m_bench.models.arm import BuildContext, Built
from t2m_bench.models.encoder_input import preprocess_image
from t2m_bench.models.sam import FrozenSam, encode_images, load_sam
from t2m_bench.models.segmenter import BoxSegmenter, restore_mask, split_for_cache
from t2m_bench.prediction.image_input import read_image
from t2m_bench.prediction.sources import load_trained
from t2m_bench.prediction.text_input import Text, TextInput
from t2m_bench.prediction.trained import TrainedAdapter
from t2m_bench.recipe.registry import load_object
from t2m_bench.training.checkpoint import ADAPTER_NAME, compute_tensors_sha256, load_adapter
from t2m_bench.training.precision import autocast

BATCH_SIZE = 16
"""Images that are decoded together; they are encoded in the batches of `embed`."""

Box = tuple[float, float, float, float]
Device = Literal["auto", "cpu", "cuda"]
ImageOrPath = NDArray[np.uint8] | Path | str


@dataclass(frozen=True)
class Prediction:
    """The answer for one lesion.

    Attributes:
        mask: (H, W) bool, at the image's own size.
        logits: (L, L) float32 over the encoder's square input, the mean over runs where several answer.
        box: the box that was given, (x0, y0, x1, y1) in pixels of the image, half open.
        seconds: wall time of this lesion, its share of the batch.
    """

    mask: NDArray[np.bool_]
    logits: NDArray[np.float32]
    box: Box
    seconds: float


@dataclass(frozen=True)
class _Member:
    """One trained adapter, ready to answer."""

    trained: TrainedAdapter
    built: Built
    texts: TextInput

    def find_frame(self, sam: FrozenSam) -> Frame:
        return self.built.image_frame or sam.frame


class Predictor:
    """One trained adapter, or several whose logits are averaged; make one with `Predictor.load`."""

    def __init__(self, members: Sequence[_Member], sam: FrozenSam, device: torch.device) -> None:
        self._members = tuple(members)
        self._sam = sam
        self._device = device
        self._frame = members[0].find_frame(sam)

    @classmethod
    def load(
        cls,
        *places: Path | str,
        device: Device = "auto",
        checkpoint: Path | str | None = None,
        text_encoder: str | None = None,
    ) -> "Predictor":
        """Load finished runs, or folders that `t2m-bench export` wrote.

        Args:
            places: one folder; of several the logits are averaged (seeds or folds of one arm, say).
            device: "auto" takes the GPU where there is one.
            checkpoint: weights of the image encoder, where they are not where the run had them.
            text_encoder: folder of the text encoder, likewise; only sentences outside the prompt file need it.

        Raises:
            UserError: no place, or places whose logits cannot be averaged.
            RunFolderError: a folder holds no finished run or export, or an adapter that was altered.
            WeightsError: weights are absent, or not those of the training.
            RecipeError: a recipe of another version, or an arm whose package is not installed.
        """
        if not places:
            raise UserError("Predictor.load: name the folder of a run or of an export.")
        trained = [
            load_trained(Path(place), Path(checkpoint) if checkpoint else None, text_encoder) for place in places
        ]
        first = trained[0]
        for other in trained[1:]:
            if (other.image_weights_sha256, other.image_encoder.input_range) != (
                first.image_weights_sha256,
                first.image_encoder.input_range,
            ):
                raise UserError(f"{other.name}: has another image encoder than {first.name}. Predict with each alone.")
            if other.pixels != first.pixels:
                raise UserError(
                    f"{other.name}: was trained on images of {_describe_pixels(other)}, {first.name} on images of "
                    f"{_describe_pixels(first)}. Predict with each alone."
                )
        where = torch.device(_choose_device(device))
        sam = _load_frozen(first)
        sam.image_encoder.to(where)
        segmenter = BoxSegmenter(sam.prompt_encoder, sam.mask_decoder).to(where)
        members = [_load_member(item, segmenter, where) for item in trained]
        frames = [member.find_frame(sam) for member in members]
        if any(frame != frames[0] for frame in frames):
            raise UserError(f"{first.name} and others read images of different sizes. Predict with each alone.")
        return cls(members, sam, where)

    @property
    def trained(self) -> tuple[TrainedAdapter, ...]:
        """The adapters, in the order in which they were named."""
        return tuple(member.trained for member in self._members)

    @property
    def fields(self) -> dict[str, tuple[str, ...]]:
        """Text field -> its classes; empty for an arm that reads no text."""
        first = self._members[0]
        return first.texts.fields if first.trained.entry.reads_text else {}

    @property
    def device(self) -> str:
        """Where it computes: cpu or cuda."""
        return self._device.type

    def predict(
        self,
        image: ImageOrPath,
        box_xyxy: Sequence[float],
        *,
        text: Text | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Segment the lesion in a box.

        Args:
            image: (H, W) uint8, (H, W, 3) of three neighbouring CT slices, or a file (PNG, JPEG, TIFF, DICOM,
                `volume.nii.gz#z=41`) that becomes 8 bits as it did in training.
            box_xyxy: (x0, y0, x1, y1) in pixels of the image, origin top left, half open.
            text: a sentence, or one a field. fields: field -> class instead; a field that is left out is unknown.

        Raises:
            UserError: the box reaches out of the image or is empty; text or fields do not fit the arm.
            DatasetError: the file cannot be read.
        """
        (prediction,) = self.predict_batch([image], [box_xyxy], texts=[text], fields=[fields])
        return prediction

    @torch.no_grad()
    def predict_batch(
        self,
        images: Sequence[ImageOrPath],
        boxes_xyxy: Sequence[Sequence[float]],
        *,
        texts: Sequence[Text | None] | None = None,
        fields: Sequence[Mapping[str, str] | None] | None = None,
    ) -> list[Prediction]:
        """Segment one lesion an image; an item of each list is one call of `predict`.

        Raises:
            UserError: as `predict`, or the lists differ in length.
        """
        count = len(images)
        texts = [None] * count if texts is None else texts
        fields = [None] * count if fields is None else fields
        lengths = {"images": count, "boxes_xyxy": len(boxes_xyxy), "texts": len(texts), "fields": len(fields)}
        if len(set(lengths.values())) > 1:
            raise UserError("predict_batch: " + ", ".join(f"{length} {name}" for name, length in lengths.items()))
        rows = list(zip(images, boxes_xyxy, texts, fields, strict=True))
        answered: list[Prediction] = []
        for start in range(0, count, BATCH_SIZE):
            answered += self._predict_some(rows[start : start + BATCH_SIZE])
        return answered

    def check(
        self,
        image: NDArray[np.uint8],
        box_xyxy: Sequence[float],
        *,
        text: Text | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Raise what `predict` would, without computing a mask."""
        check_box(box_xyxy, self._read(image))
        for member in self._members:
            member.texts.embed(text, fields)

    def _predict_some(
        self,
        rows: Sequence[tuple[ImageOrPath, Sequence[float], Text | None, Mapping[str, str] | None]],
    ) -> list[Prediction]:
        start = time.monotonic()
        pixels = [self._read(image) for image, _, _, _ in rows]
        boxes = [check_box(box, image) for (_, box, _, _), image in zip(rows, pixels, strict=True)]
        scaled = [self._frame.scale_box(box, *image.shape[:2]) for box, image in zip(boxes, pixels, strict=True)]
        given = [
            torch.stack([member.texts.embed(text, fields) for _, _, text, fields in rows]) for member in self._members
        ]
        image_embedding = self._embed(pixels)
        box_xyxy = torch.from_numpy(np.stack(scaled)).to(self._device)
        logits = torch.stack(
            [
                self._decode(member, image_embedding, text.to(self._device), box_xyxy)
                for member, text in zip(self._members, given, strict=True)
            ]
        ).mean(dim=0)
        masks = [
            restore_mask(found, self._frame, *image.shape[:2]).cpu().numpy()
            for found, image in zip(logits, pixels, strict=True)
        ]
        seconds = (time.monotonic() - start) / len(rows)
        return [
            Prediction(mask, found, box, seconds)
            for mask, found, box in zip(masks, logits.cpu().numpy(), boxes, strict=True)
        ]

    def _read(self, image: ImageOrPath) -> NDArray[np.uint8]:
        if isinstance(image, str | Path):
            return read_image(str(image), self._members[0].trained.pixels).pixels
        is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not is_image or not image.size:
            raise UserError(
                f"image: an array of {image.dtype} and shape {image.shape}; (H, W) or (H, W, 3) of uint8 is needed."
            )
        return image

    def _embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return (B, D, h, w), rounded to float16 as shards are; (B, 1, S, S) for an arm that reads pixels."""
        reads_pixels = self._members[0].built.image_frame is not None
        how, values = self._sam.entry.interpolation, self._members[0].trained.image_encoder.input_range
        if reads_pixels:
            made = torch.stack([preprocess_image(image, self._frame)[1:2] for image in images]).to(self._device)
        else:
            size = choose_batch_size(self._sam.frame, self._device)
            tensors = torch.stack([preprocess_image(image, self._frame, how, values) for image in images])
            made = torch.cat([encode_images(self._sam, part.to(self._device), values) for part in tensors.split(size)])
        return made.to(torch.float16).to(torch.float32, memory_format=torch.channels_last)

    def _decode(self, member: _Member, image_embedding: Tensor, text_embedding: Tensor, box_xyxy: Tensor) -> Tensor:
        """Return low_res_logits (B, L, L) of one adapter."""
        decoded = []
        for part in split_for_cache(image_embedding):
            with autocast(self._device, choose_precision(member.trained.precision, self._device)):
                output = member.built.arm(image_embedding[part], text_embedding[part])
                decoded.append(output.decode(member.built.segmenter, box_xyxy[part]))
        return torch.cat(decoded).float()


def _describe_pixels(trained: TrainedAdapter) -> str:
    pixels = trained.pixels
    return f"{pixels.dataset} (intensity {pixels.intensity}, window {pixels.window_hu})"


def choose_precision(precision: str, device: torch.device) -> str:
    """Return the precision of a run on a device: fp16 needs a GPU, and is full precision on a CPU."""
    return "no" if precision == "fp16" and device.type != "cuda" else precision


def check_box(box_xyxy: Sequence[float], image: NDArray[np.uint8]) -> Box:
    """Return a box as four floats.

    Raises:
        UserError: it is not four numbers, is empty, or reaches out of the image; names both.
    """
    height, width = image.shape[:2]
    values = tuple(float(value) for value in box_xyxy)
    if len(values) != 4 or not np.isfinite(values).all():
        raise UserError(f"box {tuple(box_xyxy)}: four numbers x0, y0, x1, y1 are needed.")
    x0, y0, x1, y1 = values
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"box {x0:g},{y0:g},{x1:g},{y1:g}: is empty, or reaches outside the image of {width} x {height} px. Give "
            "x0,y0,x1,y1 in pixels, origin top left."
        )
    return x0, y0, x1, y1


def _choose_device(device: Device) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no GPU here. Use auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _load_frozen(trained: TrainedAdapter) -> FrozenSam:
    """Load the image encoder that the adapter was trained with.

    Raises:
        WeightsError: the weights are absent, or others.
    """
    section = trained.image_encoder
    sam = load_sam(section.preset, section.checkpoint)
    if sam.weights_sha256 != trained.image_weights_sha256:
        raise WeightsError(
            f"image encoder {section.preset}: its weights have sha256 {sam.weights_sha256}, the adapter {trained.name} "
            f"was trained with {trained.image_weights_sha256}. Give the file used in training (--checkpoint)."
        )
    return sam


def _load_member(trained: TrainedAdapter, segmenter: BoxSegmenter, device: torch.device) -> _Member:
    """Build an arm and load its parameters.

    Raises:
        RunFolderError: the file is of another architecture, run or epoch than its description, or was altered.
    """
    path = trained.folder / ADAPTER_NAME
    texts = TextInput(trained)
    context = BuildContext(
        adapter=trained.adapter,
        text_width=trained.vocabulary.text_width,
        num_labels=texts.width,
        generator=torch.Generator().manual_seed(0),  # the parameters are replaced
        segmenter=segmenter,
    )
    built: Built = load_object(trained.entry.build)(context)
    note = load_adapter(trained.folder, built.arm)
    pairs: list[tuple[str, object, object]] = [
        (name, note.get(name), wanted) for name, wanted in (("run_hash", trained.run_hash), ("epoch", trained.epoch))
    ]
    if trained.adapter_sha256:
        pairs.append(("sha256", compute_tensors_sha256(path), trained.adapter_sha256))
    for name, found, wanted in pairs:
        if found != wanted:
            raise RunFolderError(
                f"{path}: its {name} is {found}, but {trained.source} says {wanted}: it was altered, or belongs to "
                "another run. Put the adapter of this run back."
            )
    built.arm.to(device).eval().requires_grad_(False)
    return _Member(trained, built, texts)
