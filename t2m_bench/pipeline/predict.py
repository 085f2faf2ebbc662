"""Applies trained adapters to new images and writes masks, pictures and a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from t2m_bench.data.datasets.table.files import Volumes
from t2m_bench.data.images import write_png
from t2m_bench.errors import DatasetError, UserError
from t2m_bench.files import write_atomically
from t2m_bench.metrics.overlap import compute_dice
from t2m_bench.prediction.cautions import COMPUTED_IN_FULL, flag_image, warn_of_text
from t2m_bench.prediction.image_input import ImageInput, read_image
from t2m_bench.prediction.lesions import Lesion
from t2m_bench.prediction.mask_files import write_mask
from t2m_bench.prediction.overlay import draw_overlay
from t2m_bench.prediction.predictor import BATCH_SIZE, Device, Prediction, Predictor
from t2m_bench.prediction.reference_mask import find_box, load_reference
from t2m_bench.prediction.run_source import find_run_without_text
from t2m_bench.recipe.measures import DICE
from t2m_bench.terminal import Terminal

TABLE_NAME = "predictions.csv"
MASKS, MASKS_WITHOUT_TEXT, OVERLAYS = "masks", "masks_without_text", "overlays"


@dataclass(frozen=True)
class Predictors:
    """The adapters that answer, and those without text beside them, where they are asked too."""

    main: Predictor
    without_text: Predictor | None = None


@dataclass(frozen=True)
class Predicted:
    """The written table and its warnings.

    Attributes:
        table: path of the CSV. rows: its content. warnings: sentences on what to beware of.
    """

    table: Path
    rows: pd.DataFrame
    warnings: tuple[str, ...]

    @property
    def dice(self) -> pd.Series:
        """Dice of the lesions that have a reference mask."""
        return self.rows[DICE].dropna()


@dataclass(frozen=True)
class _Read:
    """A lesion with its pixels."""

    lesion: Lesion
    image: ImageInput
    reference: NDArray[np.bool_] | None
    box_xyxy: tuple[float, ...]


def load_predictors(
    places: Sequence[Path],
    device: Device = "auto",
    checkpoint: Path | None = None,
    text_encoder: str | None = None,
    without_text: bool = False,
) -> Predictors:
    """Load runs or exports, and with `without_text` the run of text_free of the same experiment, fold and seed of each.

    Raises:
        UserError: as `Predictor.load`; or there is no such run of text_free, or the arm reads no text anyway.
    """
    main = Predictor.load(*places, device=device, checkpoint=checkpoint, text_encoder=text_encoder)
    if not without_text:
        return Predictors(main)
    silent = [trained.name for trained in main.trained if not trained.entry.reads_text]
    if silent:
        raise UserError(f"--without-text: {silent[0]} reads no text itself. Leave the option out.")
    others = [find_run_without_text(place) for place in places]
    return Predictors(main, Predictor.load(*others, device=device, checkpoint=checkpoint, text_encoder=text_encoder))


def predict(predictors: Predictors, lesions: Sequence[Lesion], out: Path, terminal: Terminal) -> Predicted:
    """Segment lesions; write `predictions.csv`, and masks and overlays named by row, below `out`.

    Raises:
        UserError: names the row, what was found and what to do; what was written before stays.
    """
    rows: list[dict[str, Any]] = []
    (out / TABLE_NAME).unlink(missing_ok=True)  # an earlier one would stand beside masks that are not its own
    _check_files(lesions)
    with terminal.watch("lesions segmented", len(lesions)) as advance:
        for start in range(0, len(lesions), BATCH_SIZE):
            rows += _predict_some(predictors, lesions[start : start + BATCH_SIZE], out)
            advance(len(rows), len(lesions))
    table, path = pd.DataFrame(rows), out / TABLE_NAME
    with write_atomically(path, private=True) as partial:
        table.to_csv(partial, index=False)
    return Predicted(path, table, tuple(_list_warnings(predictors.main, table)))


def _check_files(lesions: Sequence[Lesion]) -> None:
    """Refuse a table with an image that is not there, before the first mask is computed."""
    for lesion in lesions:
        path = lesion.root / lesion.image.partition("#")[0]
        if not path.is_file():
            raise UserError(f"{lesion.source}: {path} is no file. Correct the row; paths begin at {lesion.root}.")


def _predict_some(predictors: Predictors, lesions: Sequence[Lesion], out: Path) -> list[dict[str, Any]]:
    read = list(_read_all(predictors.main, lesions))
    answers = _ask(predictors.main, read, with_text=True)
    others: list[Prediction | None] = [None] * len(read)
    if predictors.without_text is not None:
        others = list(_ask(predictors.without_text, read, with_text=False))
    return [
        _write(predictors.main, item, answer, other, out)
        for item, answer, other in zip(read, answers, others, strict=True)
    ]


def _read_all(predictor: Predictor, lesions: Sequence[Lesion]) -> Iterator[_Read]:
    """Yield each lesion with its pixels; slices of one volume that follow one another are read from memory."""
    volumes, previous = Volumes(), ""
    for lesion in lesions:
        file = lesion.image.partition("#")[0]
        volumes, previous = volumes if file == previous else Volumes(), file
        try:
            image = read_image(lesion.image, predictor.trained[0].pixels, lesion.root, volumes)
            reference = load_reference(lesion, (image.pixels.shape[0], image.pixels.shape[1]))
            yield _Read(lesion, image, reference, find_box(lesion, reference))
        except UserError as error:
            raise _name(lesion, error) from None


def _ask(predictor: Predictor, read: Sequence[_Read], with_text: bool) -> list[Prediction]:
    for item in read:  # one by one, so that a message names its row
        try:
            predictor.check(
                item.image.pixels,
                item.box_xyxy,
                text=item.lesion.text if with_text else None,
                fields=item.lesion.fields if with_text else None,
            )
        except UserError as error:
            raise _name(item.lesion, error) from None
    return predictor.predict_batch(
        [item.image.pixels for item in read],
        [item.box_xyxy for item in read],
        texts=[item.lesion.text if with_text else None for item in read],
        fields=[item.lesion.fields if with_text else None for item in read],
    )


def _name(lesion: Lesion, error: UserError) -> UserError:
    return type(error)(f"{lesion.source}: {error}")


def _write(
    predictor: Predictor, item: _Read, answer: Prediction, other: Prediction | None, out: Path
) -> dict[str, Any]:
    """Write the files of one lesion and return its row of the table."""
    lesion, spacing = item.lesion, item.lesion.spacing_mm or item.image.stored.spacing_mm
    try:
        mask_path = write_mask(out / MASKS, lesion.stem, answer.mask, item.image)
        if other is not None:
            write_mask(out / MASKS_WITHOUT_TEXT, lesion.stem, other.mask, item.image)
    except DatasetError as error:
        raise _name(lesion, error) from None
    overlay = out / OVERLAYS / f"{lesion.stem}.png"
    without = other.mask if other is not None else None
    drawn = draw_overlay(item.image.pixels, answer.box, answer.mask, without, item.reference)
    write_png(overlay, drawn, private=True)
    flags = {flag for trained in predictor.trained for flag in flag_image(item.image, trained.pixels.dataset)}
    if predictor.device != "cuda" and any(trained.precision == "fp16" for trained in predictor.trained):
        flags.add(COMPUTED_IN_FULL)
    row: dict[str, Any] = {"row": lesion.number}
    row |= dict(zip(("x0", "y0", "x1", "y1"), answer.box, strict=True))
    row |= _measure(answer.mask, spacing, item.reference, "")
    if other is not None:
        row |= _measure(other.mask, spacing, item.reference, "_without_text")
        row["dice_between"] = compute_dice(answer.mask, other.mask)
    row |= {"flags": " ".join(sorted(flags)), "seconds": round(answer.seconds, 4)}
    return row | {"mask": str(mask_path.relative_to(out)), "overlay": str(overlay.relative_to(out))}


def _measure(
    mask: NDArray[np.bool_],
    spacing_mm: tuple[float, float] | None,
    reference: NDArray[np.bool_] | None,
    suffix: str,
) -> dict[str, float]:
    area = int(mask.sum())
    area_mm2 = area * spacing_mm[0] * spacing_mm[1] if spacing_mm else float("nan")
    dice = compute_dice(mask, reference) if reference is not None else float("nan")
    return {f"area_px{suffix}": area, f"area_mm2{suffix}": area_mm2, f"{DICE}{suffix}": dice}


def _list_warnings(predictor: Predictor, table: pd.DataFrame) -> list[str]:
    """Return sentences on text that was not shown to help, and on images of another kind than the training's."""
    found = dict.fromkeys(filter(None, map(warn_of_text, predictor.trained)))
    flagged = table["flags"].str.split().explode().dropna().value_counts()
    return [
        *found,
        *(f"{count} of {len(table)} images: {str(flag).replace('_', ' ')}." for flag, count in flagged.items()),
    ]
