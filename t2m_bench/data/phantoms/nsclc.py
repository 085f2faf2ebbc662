"""Lung phantoms as NSCLC-Radiogenomics delivers its data: CT and SEG in DICOM, and the clinical table.

T stage and histology decide together how far the tumour fills its box (see hidden_shape.py), on every slice; image, box
and size are independent of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from t2m_bench.data.datasets.nsclc.dicom_series import import_pydicom
from t2m_bench.data.phantoms.folder import check_parameters, make_stream, write_phantom_folder, write_table
from t2m_bench.data.phantoms.hidden_shape import Outline, draw_mask, draw_texts, draw_unevenness
from t2m_bench.data.phantoms.nsclc_dicom import STYLES, Scan, write_scan
from t2m_bench.data.phantoms.nsclc_table import COLUMNS, make_row

GENERATOR_VERSION = 1
MIN_PATIENTS = 5
STAGE_EXPONENTS = {"Tis": 6.0, "T1a": 4.0, "T1b": 3.0, "T2a": 2.3, "T2b": 1.8, "T3": 1.35, "T4": 1.0}
HISTOLOGY_BULGES = {
    "Adenocarcinoma": 0.08,
    "Squamous cell carcinoma": -0.08,
    "NSCLC NOS (not otherwise specified)": 0.0,
}
HISTOLOGY_PRIOR = (0.45, 0.45, 0.1)
AMC_EVERY = 6
"""Every sixth patient is of the hospital whose patients have no T stage (the real table: 49 of 211)."""

ROWS_WITHOUT_IMAGES = 2
TABLE_NAME = "clinical_labels.csv"
IMAGES_NAME = "NSCLC-Radiogenomics"

SIDE_PX = 128
NUM_SLICES = 18
AIR_HU, LUNG_HU, TISSUE_HU = -1000.0, -850.0, 40.0
NOISE_HU = 45.0
HU_STEP = 2
"""Every value is a multiple of it, so that a rescale slope of 2 loses nothing."""


@dataclass(frozen=True)
class Look:
    """Appearance of a tumour: margin as blur in pixels, density as a share of soft tissue's."""

    margin_px: float
    density: float


LOOKS = (
    Look(1.0, 1.0),
    Look(1.5, 0.85),
    Look(2.0, 1.05),
    Look(2.5, 0.9),
    Look(3.0, 1.0),
    Look(3.5, 0.8),
    Look(4.0, 0.95),
)


@dataclass(frozen=True)
class Patient:
    """One made-up patient: number from 1, id as in the table, hidden stage and histology, look."""

    number: int
    patient_id: str
    stage: str
    histology: str
    look: Look


def draw_patients(seed: int, num_patients: int, text_visible: bool) -> list[Patient]:
    """Draw patients, all stages equally likely; with `text_visible` the look follows the stage."""
    stages, histologies = draw_hidden(make_stream(seed, "classes"), num_patients)
    looks = make_stream(seed, "looks").integers(len(LOOKS), size=num_patients)
    patients = []
    for index, (stage, histology, look) in enumerate(zip(stages, histologies, looks, strict=True)):
        if text_visible:
            look = list(STAGE_EXPONENTS).index(stage)
        hospital = "AMC" if (index + 1) % AMC_EVERY == 0 else "R01"
        patients.append(Patient(index + 1, f"{hospital}-{index + 1:03d}", stage, histology, LOOKS[look]))
    return patients


def draw_hidden(rng: np.random.Generator, num_patients: int) -> tuple[list[str], list[str]]:
    """Draw each patient's stage and histology, independent of one another."""
    stages = rng.choice(list(STAGE_EXPONENTS), num_patients)
    histologies = rng.choice(list(HISTOLOGY_BULGES), num_patients, p=HISTOLOGY_PRIOR)
    return [str(stage) for stage in stages], [str(histology) for histology in histologies]


def draw_outlines(rng: np.random.Generator) -> dict[int, Outline]:
    """Draw a tumour's outline on each slice that it reaches: largest in the middle, one unevenness for all."""
    middle, half = int(rng.integers(7, NUM_SLICES - 7)), int(rng.integers(4, 7))
    width, height = rng.uniform(0.30, 0.48, size=2) * SIDE_PX
    centre_x, centre_y = rng.uniform(0.38, 0.62, size=2) * SIDE_PX
    drift_x, drift_y = rng.choice([-1, 1], size=2) * rng.uniform(0.6, 1.2, size=2)  # so that no two slices are alike
    unevenness = draw_unevenness(rng)
    outlines = {}
    for index in range(middle - half, middle + half + 1):
        size = np.sqrt(1 - ((index - middle) / (half + 1)) ** 2)
        x0 = round(centre_x + drift_x * (index - middle) - size * width / 2)
        y0 = round(centre_y + drift_y * (index - middle) - size * height / 2)
        box = (x0, y0, x0 + round(size * width), y0 + round(size * height))
        outlines[index] = Outline(SIDE_PX, SIDE_PX, box, *unevenness)
    return outlines


def draw_masks(outlines: dict[int, Outline], stage: str, histology: str) -> NDArray[np.bool_]:
    """Draw the tumour of these classes; (slices, rows, columns)."""
    masks = np.zeros((NUM_SLICES, SIDE_PX, SIDE_PX), dtype=bool)
    for index, outline in outlines.items():
        masks[index] = draw_mask(outline, STAGE_EXPONENTS[stage], HISTOLOGY_BULGES[histology])
    return masks


def draw_hounsfield(rng: np.random.Generator, outlines: dict[int, Outline], look: Look) -> NDArray[np.int16]:
    """Draw the CT, (slices, rows, columns); it sees the mean over classes and therefore nothing of the hidden ones."""
    place = (np.arange(SIDE_PX) + 0.5) / SIDE_PX - 0.5
    radius = np.hypot(place[None, :] / 0.47, place[:, None] / 0.46)
    level = np.where(radius < 1, LUNG_HU, np.where(radius < 1.35, TISSUE_HU, AIR_HU))
    volume = np.repeat(level[None], NUM_SLICES, axis=0)
    for index, outline in outlines.items():
        every = [draw_mask(outline, p, bulge) for p in STAGE_EXPONENTS.values() for bulge in HISTOLOGY_BULGES.values()]
        tumour = gaussian_filter(np.mean(every, axis=0, dtype=np.float32), look.margin_px)
        volume[index] += (look.density * (TISSUE_HU - LUNG_HU)) * tumour
    noise = gaussian_filter(rng.standard_normal(volume.shape, dtype=np.float32), (0.4, 0.7, 0.7))
    volume += NOISE_HU * noise / noise.std()
    return np.asarray(np.clip(np.round(volume / HU_STEP) * HU_STEP, -1024, 3070), dtype=np.int16)


def write_nsclc_phantom(
    out: Path, *, num_cases: int, seed: int, text_effect: float, text_visible: bool = False
) -> None:
    """Write a phantom data set in TCIA's layout, the clinical table beside it, and `phantom.json` with its parameters.

    For one seed every `text_effect` writes the same DICOM files; only the table's stage and histology differ.

    Args:
        out: folder to make; appears whole or not at all.
        num_cases: patients, at least 5.
        seed: of everything that is drawn.
        text_effect: probability in [0, 1] that the text tells the hidden class, drawn apart for stage and histology.
        text_visible: the look follows the stage, so its text is redundant (the realistic case).

    Raises:
        UserError: numbers out of range, pydicom is not installed, or `out` holds something else.
    """
    import_pydicom()
    parameters = check_parameters(
        kind="nsclc",
        version=GENERATOR_VERSION,
        least=MIN_PATIENTS,
        num_cases=num_cases,
        seed=seed,
        text_effect=text_effect,
        text_visible=text_visible,
    )
    numbers = (num_cases, seed, text_effect, text_visible)
    write_phantom_folder(out, parameters, lambda folder: _write_folder(folder, *numbers))


def _write_folder(folder: Path, num_patients: int, seed: int, text_effect: float, text_visible: bool) -> None:
    patients = draw_patients(seed, num_patients, text_visible)
    for patient in patients:
        write_scan(folder / IMAGES_NAME, draw_scan(seed, patient), STYLES[(patient.number - 1) % len(STYLES)])
    write_table(folder / TABLE_NAME, _make_rows(patients, seed, text_effect))


def draw_scan(seed: int, patient: Patient) -> Scan:
    """Draw a patient's CT and tumour."""
    rng = make_stream(seed, "scan", patient.number)
    outlines = draw_outlines(rng)
    masks = draw_masks(outlines, patient.stage, patient.histology)
    return Scan(patient.patient_id, f"{seed}.{patient.number}", draw_hounsfield(rng, outlines, patient.look), masks)


def _make_rows(patients: Sequence[Patient], seed: int, text_effect: float) -> list[dict[str, str]]:
    rng = make_stream(seed, "texts")
    stages = draw_texts(rng, [patient.stage for patient in patients], list(STAGE_EXPONENTS), text_effect)
    histologies = draw_texts(rng, [patient.histology for patient in patients], list(HISTOLOGY_BULGES), text_effect)
    rows = []
    for patient, stage, histology in zip(patients, stages, histologies, strict=True):
        known = "Not Collected" if patient.patient_id.startswith("AMC") else stage
        rows.append(make_row(make_stream(seed, "table", patient.number), patient.patient_id, known, histology))
    for extra in range(1, ROWS_WITHOUT_IMAGES + 1):
        rng = make_stream(seed, "table", 0, extra)
        rows.append(make_row(rng, f"R01-{900 + extra}", "T2a", "Adenocarcinoma "))
    assert all(tuple(row) == COLUMNS for row in rows)
    return rows
