"""Reads the clinical table of NSCLC-Radiogenomics: T stage and histology of each patient."""

from pathlib import Path

from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.data.tables import check_unique, read_columns, read_table
from t2m_bench.errors import DatasetError

ID_COLUMNS = ("Case ID", "Patient ID")
"""The table is found with either name for the same column."""

STAGE_COLUMN, HISTOLOGY_COLUMN = "Pathological T stage", "Histology"
STAGES = ("Tis", "T1a", "T1b", "T2a", "T2b", "T3", "T4")
"""AJCC 7, which has no T1c."""

HISTOLOGIES = {
    "adenocarcinoma": "Adenocarcinoma",
    "squamous cell carcinoma": "Squamous cell carcinoma",
    "nsclc nos": "NSCLC NOS",
    "nsclc nos (not otherwise specified)": "NSCLC NOS",
}
UNSET = frozenset({"", "na", "n/a", "nan", UNKNOWN, "not collected", "not assessed", "not recorded"})
T_STAGE, HISTOLOGY = "t_stage", "histology"
FIELDS = (T_STAGE, HISTOLOGY)
MAX_DEPTH = 3
"""Number of folder levels below the data set's root that are searched for the table."""


def find_clinical_table(root: Path) -> Path:
    """Return the clinical table in a dataset folder, known by its columns, not by its name.

    Raises:
        DatasetError: there is none, or more than one.
    """
    found = list_clinical_tables(root)
    if len(found) != 1:
        what = (
            "holds no clinical table" if not found else "holds several clinical tables: " + ", ".join(map(str, found))
        )
        raise DatasetError(
            f"{root}: {what} (a CSV file with the columns {ID_COLUMNS[0]} or {ID_COLUMNS[1]}, {STAGE_COLUMN} and "
            f"{HISTOLOGY_COLUMN}). Name the one to use in dataset.clinical."
        )
    return found[0]


def list_clinical_tables(root: Path) -> list[Path]:
    """Return the clinical tables in a dataset folder; one that links lead to twice is one."""
    tables = [path for depth in range(MAX_DEPTH + 1) for path in sorted(root.glob("*/" * depth + "*.csv"))]
    found: dict[Path, Path] = {}
    for path in tables:
        if _is_clinical(path):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def read_clinical(path: Path) -> dict[str, dict[str, str]]:
    """Read patient -> field -> value, "unknown" where the table has none.

    Raises:
        DatasetError: no such file or column, a patient in two rows, or a value without a prompt; names the row.
    """
    table = read_table(path, (ID_COLUMNS, STAGE_COLUMN, HISTOLOGY_COLUMN))
    id_column = next(name for name in ID_COLUMNS if name in table.columns)
    check_unique(path, table, id_column, is_named=False)
    patients: dict[str, dict[str, str]] = {}
    for line, patient, stage, histology in table[[id_column, STAGE_COLUMN, HISTOLOGY_COLUMN]].itertuples():
        where = f"{path}, row {line}"
        patients[str(patient)] = {
            T_STAGE: _read_stage(str(stage), where),
            HISTOLOGY: _read_histology(str(histology), where),
        }
    return patients


def _is_clinical(path: Path) -> bool:
    return any(
        {STAGE_COLUMN, HISTOLOGY_COLUMN} <= columns and not columns.isdisjoint(ID_COLUMNS)
        for columns in read_columns(path)
    )


def _read_stage(text: str, where: str) -> str:
    stage = text.strip().removeprefix("p")
    if stage.lower() in UNSET:
        return UNKNOWN
    known = {name.lower(): name for name in STAGES}
    if stage.lower() not in known:
        raise DatasetError(f"{where}: {STAGE_COLUMN} is {text!r}; use {', '.join(STAGES)} (AJCC 7) or Not Collected.")
    return known[stage.lower()]


def _read_histology(text: str, where: str) -> str:
    histology = " ".join(text.split()).lower()
    if histology in UNSET:
        return UNKNOWN
    if histology not in HISTOLOGIES:
        known = ", ".join(sorted(set(HISTOLOGIES.values())))
        raise DatasetError(f"{where}: {HISTOLOGY_COLUMN} is {text!r}; use {known} or Not Collected.")
    return HISTOLOGIES[histology]
