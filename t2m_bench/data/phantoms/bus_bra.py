"""Breast-ultrasound phantoms in BUS-BRA's layout whose text has a known effect on the mask.

The hidden class (see hidden_shape.py) is the BI-RADS category; everything else of a case is independent of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from t2m_bench.data.phantoms.folder import check_parameters, make_stream, write_phantom_folder, write_table
from t2m_bench.data.phantoms.hidden_shape import Outline, draw_mask, draw_texts, draw_unevenness

GENERATOR_VERSION = 1
CLASS_EXPONENTS = {"2": 6.0, "3": 2.5, "4": 1.5, "5": 1.0}
"""BI-RADS class to the exponent p of |u|^p + |v|^p = 1: from nearly the whole box down to a diamond."""

MIN_CASES = 5
MIN_SIDE_PX, MAX_SIDE_PX = 240, 320
SHARE_OF_TWO_VIEWS = 0.75  # BUS-BRA: 811 of 1,064 patients have two images

BACKGROUND_LEVEL = 0.62
LESION_CONTRAST = 0.42

HISTOLOGIES = {
    "benign": ("fibroadenoma", "cyst", "fibrocystic changes"),
    "malignant": ("invasive ductal carcinoma", "invasive lobular carcinoma"),
}
SHARE_MALIGNANT = 607 / 1875  # BUS-BRA's


@dataclass(frozen=True)
class Look:
    """Appearance of a lesion: margin as blur in pixels, echo as a factor on its contrast, shadow as a factor."""

    margin_px: float
    echo: float
    shadow: float


LOOKS = (Look(1.5, 1.0, 1.15), Look(2.5, 0.85, 1.0), Look(4.0, 1.1, 0.85), Look(5.5, 0.95, 0.7))


@dataclass(frozen=True)
class Patient:
    """One made-up patient: number from 1, views ("l", "r" or "s"), hidden class, look, and the rest of the CSV."""

    number: int
    views: tuple[str, ...]
    hidden_class: str
    look: Look
    pathology: str
    histology: str


def draw_outline(rng: np.random.Generator) -> Outline:
    """Draw an image size (240 to 320 px a side), a box in it and the unevenness of the outline."""
    height, width = (int(side) for side in rng.integers(MIN_SIDE_PX, MAX_SIDE_PX + 1, size=2))
    box_width = int(width * rng.uniform(0.30, 0.60))
    box_height = int(height * rng.uniform(0.22, 0.45))
    x0 = int(rng.uniform(0.08, 0.92) * (width - box_width))
    y0 = int(rng.uniform(0.10, 0.60) * (height - box_height))
    return Outline(height, width, (x0, y0, x0 + box_width, y0 + box_height), *draw_unevenness(rng))


def draw_speckle(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Rayleigh speckle of mean 1 with a grain of about two pixels; (H, W)."""
    field = rng.standard_normal((2, height, width), dtype=np.float32)
    real, imaginary = (gaussian_filter(part, 0.7) for part in field)
    speckle = np.hypot(real, imaginary)
    return np.asarray(speckle / speckle.mean())


def draw_image(rng: np.random.Generator, outline: Outline, look: Look) -> NDArray[np.uint8]:
    """Draw the ultrasound image, (H, W); it sees the mean over classes and therefore nothing of the hidden class."""
    masks = [draw_mask(outline, exponent) for exponent in CLASS_EXPONENTS.values()]
    mean_mask = np.mean(masks, axis=0, dtype=np.float32)
    lesion = gaussian_filter(mean_mask, look.margin_px)
    level = BACKGROUND_LEVEL - LESION_CONTRAST * look.echo * lesion
    x0, y0, x1, y1 = outline.box_xyxy
    below = np.zeros_like(level)
    below[(y0 + y1) // 2 :, x0 + (x1 - x0) // 5 : x1 - (x1 - x0) // 5] = 1.0
    # The shadow begins behind the lesion; inside it the lesion's own level holds.
    level *= 1 + (look.shadow - 1) * gaussian_filter(below, 6.0) * (1 - lesion)
    image = level * draw_speckle(rng, outline.height, outline.width)
    pixels: NDArray[np.uint8] = np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
    return pixels


def draw_hidden_classes(rng: np.random.Generator, num_patients: int) -> list[str]:
    """Draw each patient's class, uniform over the four (the prior with the largest effect of the text)."""
    return [str(value) for value in rng.choice(list(CLASS_EXPONENTS), num_patients)]


def draw_patients(seed: int, num_cases: int, text_visible: bool) -> list[Patient]:
    """Draw as many patients as give `num_cases` images; with `text_visible` the look follows the hidden class."""
    rng = make_stream(seed, "patients")
    num_views: list[int] = []
    while sum(num_views) < num_cases:
        drawn = 2 if rng.random() < SHARE_OF_TWO_VIEWS else 1
        num_views.append(min(drawn, num_cases - sum(num_views)))
    hidden_classes = draw_hidden_classes(make_stream(seed, "classes"), len(num_views))
    class_names = list(CLASS_EXPONENTS)
    patients = []
    for index, (count, hidden) in enumerate(zip(num_views, hidden_classes, strict=True)):
        look_index = int(rng.integers(len(LOOKS)))
        if text_visible:
            look_index = class_names.index(hidden)
        pathology = "malignant" if rng.random() < SHARE_MALIGNANT else "benign"
        histology = str(rng.choice(HISTOLOGIES[pathology]))
        views = ("l", "r") if count == 2 else ("s",)
        patients.append(Patient(index + 1, views, hidden, LOOKS[look_index], pathology, histology))
    return patients


def assign_folds(rng: np.random.Generator, classes: Sequence[str], num_folds: int) -> list[int]:
    """Deal patients over the folds 1..num_folds so that every class is spread evenly; one fold number a patient."""
    order = rng.permutation(len(classes))
    dealt = sorted(order, key=lambda index: classes[index])  # stable: random within a class
    folds = [0] * len(classes)
    for position, index in enumerate(dealt):
        folds[index] = position % num_folds + 1
    return folds


def write_bus_bra_phantom(
    out: Path, *, num_cases: int, seed: int, text_effect: float, text_visible: bool = False
) -> None:
    """Write a phantom data set in exactly BUS-BRA's layout, and `phantom.json` with its parameters.

    For one seed every `text_effect` writes the same images, masks and folds; only the BIRADS column differs. An `out`
    that already holds this very phantom is left as it is.

    Args:
        out: folder to make; appears whole or not at all.
        num_cases: images, at least 5 (about 1.75 for each patient).
        seed: of everything that is drawn.
        text_effect: probability in [0, 1] that the text tells the hidden class.
        text_visible: the look follows the hidden class, so the text is redundant (the realistic case).

    Raises:
        UserError: numbers out of range, or `out` holds something else.
    """
    parameters = check_parameters(
        kind="bus-bra",
        version=GENERATOR_VERSION,
        least=MIN_CASES,
        num_cases=num_cases,
        seed=seed,
        text_effect=text_effect,
        text_visible=text_visible,
    )
    write_phantom_folder(
        out, parameters, lambda folder: _write_folder(folder, num_cases, seed, text_effect, text_visible)
    )


def _write_folder(folder: Path, num_cases: int, seed: int, text_effect: float, text_visible: bool) -> None:
    (folder / "Images").mkdir()
    (folder / "Masks").mkdir()
    patients = draw_patients(seed, num_cases, text_visible)
    classes = [patient.hidden_class for patient in patients]
    texts = draw_texts(make_stream(seed, "texts"), classes, list(CLASS_EXPONENTS), text_effect)
    rows = [
        _write_case(folder, patient, view, text, make_stream(seed, "images", patient.number, index))
        for patient, text in zip(patients, texts, strict=True)
        for index, view in enumerate(patient.views)
    ]
    write_table(folder / "bus_data.csv", rows)
    for num_folds in (5, 10):
        fold_rows = _build_fold_rows(make_stream(seed, "folds", num_folds), patients, num_folds)
        write_table(folder / f"{num_folds}-fold-cv.csv", fold_rows)


def _write_case(folder: Path, patient: Patient, view: str, text: str, rng: np.random.Generator) -> dict[str, str | int]:
    """Write one image and its mask; returns the row of bus_data.csv."""
    outline = draw_outline(rng)
    image = draw_image(rng, outline, patient.look)
    mask = draw_mask(outline, CLASS_EXPONENTS[patient.hidden_class])
    name = f"{patient.number:04d}-{view}"
    Image.fromarray(image).save(folder / "Images" / f"bus_{name}.png")
    Image.fromarray(mask).save(folder / "Masks" / f"mask_{name}.png")
    x0, y0, x1, y1 = outline.box_xyxy
    return {
        "ID": f"bus_{name}",
        "Case": patient.number,
        "Histology": patient.histology,
        "Pathology": patient.pathology,
        "BIRADS": text,
        "Device": "phantom",
        "Width": outline.width,
        "Height": outline.height,
        "Side": {"l": "left", "r": "right", "s": "single"}[view],
        # BUS-BRA counts from 1 and gives the last pixel minus the first as the width.
        "BBOX": f"[{x0 + 1},{y0 + 1},{x1 - 1 - x0},{y1 - 1 - y0}]",
    }


def _build_fold_rows(
    rng: np.random.Generator, patients: Sequence[Patient], num_folds: int
) -> list[dict[str, str | int]]:
    """Rows of a cross-validation table: the test fold, and per fold NaN (test), 0 (validation) or 1 (training)."""
    classes = [patient.hidden_class for patient in patients]
    folds = assign_folds(rng, classes, num_folds)
    parts = {fold: assign_folds(rng, classes, num_folds) for fold in range(1, num_folds + 1)}
    rows: list[dict[str, str | int]] = []
    for index, patient in enumerate(patients):
        flags = {
            f"valid_{fold}": "NaN" if folds[index] == fold else ("0" if parts[fold][index] == 1 else "1")
            for fold in range(1, num_folds + 1)
        }
        for view in patient.views:
            name = f"bus_{patient.number:04d}-{view}"
            rows.append({"ID": name, "Pathology": patient.pathology, "kFold": folds[index], **flags})
    return rows
