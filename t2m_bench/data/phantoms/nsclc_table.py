"""The clinical table of the lung phantoms: the real one's columns, with its ways of saying nothing."""

import numpy as np

LOCATIONS = ("RUL", "RML", "RLL", "LUL", "LLL", "L Lingula", "Unknown")
COLUMNS = (
    "Case ID",
    "Patient affiliation",
    "Age at Histological Diagnosis",
    "Weight (lbs)",
    "Gender",
    "Ethnicity",
    "Smoking status",
    "Pack Years",
    "Quit Smoking Year",
    "%GG",
    *(f"Tumor Location (choice={name})" for name in LOCATIONS),
    "Histology ",
    "Pathological T stage",
    "Pathological N stage",
    "Pathological M stage",
    "Histopathological Grade",
    "Lymphovascular invasion",
    "Pleural invasion (elastic, visceral, or parietal)",
    "EGFR mutation status",
    "KRAS mutation status",
    "ALK translocation status",
    "Adjuvant Treatment",
    "Chemotherapy",
    "Radiation",
    "Recurrence",
    "Recurrence Location",
    "Date of Recurrence",
    "Date of Last Known Alive",
    "Survival Status",
    "Date of Death",
    "Time to Death (days)",
    "CT Date",
    "Days between CT and surgery",
    "PET Date",
)
"""Columns of the published table (TCIA, doi 10.7937/K9/TCIA.2017.7hs46erv), the space after Histology included."""


def make_row(rng: np.random.Generator, patient_id: str, stage: str, histology: str) -> dict[str, str]:
    """Return a row whose other columns say nothing about the tumour; what phantoms have no word for is unset."""
    unset = ("Not Collected", "Not collected")
    row = dict.fromkeys(COLUMNS, unset[0]) | {
        "Case ID": patient_id,
        "Patient affiliation": "Phantom",
        "Age at Histological Diagnosis": str(rng.integers(40, 86)),
        "Gender": str(rng.choice(["Male", "Female"])),
        "Smoking status": str(rng.choice(["Former", "Current", "Nonsmoker"])),
        "Histology ": histology,
        "Pathological T stage": stage,
        "Pleural invasion (elastic, visceral, or parietal)": unset[1],
        "KRAS mutation status": str(rng.choice(["Wildtype", "Mutant", unset[1]])),
    }
    where = str(rng.choice(LOCATIONS))
    return row | {f"Tumor Location (choice={name})": "Checked" if name == where else "Unchecked" for name in LOCATIONS}
