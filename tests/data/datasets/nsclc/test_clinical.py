from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from messages import raises_naming

from t2m_bench.data.datasets.nsclc.clinical import (
    FIELDS,
    HISTOLOGY_COLUMN,
    ID_COLUMNS,
    STAGE_COLUMN,
    find_clinical_table,
    read_clinical,
)
from t2m_bench.data.prompts import UNKNOWN, load_prompts
from t2m_bench.errors import DatasetError


def write_table(path: Path, *rows: tuple[str, str, str], id_column: str = "Case ID") -> Path:
    columns = [id_column, "Pathological T stage", "Histology "]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_the_real_table_has_the_published_counts(nsclc_radiogenomics: Path) -> None:
    patients = read_clinical(find_clinical_table(nsclc_radiogenomics))
    assert len(patients) == 211
    assert Counter(name[:3] for name in patients) == {"R01": 162, "AMC": 49}
    stages = {"T1a": 40, "T1b": 31, "T2a": 47, "T2b": 10, "T3": 21, "T4": 7, "Tis": 6, UNKNOWN: 49}
    assert Counter(row["t_stage"] for row in patients.values()) == stages
    # phrase: values of the published table
    histologies = {"Adenocarcinoma": 172, "Squamous cell carcinoma": 35, "NSCLC NOS": 4}
    assert Counter(row["histology"] for row in patients.values()) == histologies
    assert all(row["t_stage"] == UNKNOWN for name, row in patients.items() if name.startswith("AMC"))
    book = load_prompts("nsclc", "category")
    assert book.fields == FIELDS
    for field in FIELDS:
        assert {row[field] for row in patients.values()} <= {*book.classes(field), UNKNOWN}
    assert not [sentence for sentence in book.all_sentences() if "collected" in sentence.lower()]
    (of_t_unknown, *_) = book.sentences("t_stage", UNKNOWN, "training")
    assert "not recorded" in of_t_unknown


@pytest.mark.parametrize("id_column", ["Case ID", "Patient ID"])
def test_names_spaces_and_spellings_of_nothing_are_taken(tmp_path: Path, id_column: str) -> None:
    rows = [
        ("R01-001 ", "T2a", "Adenocarcinoma "),
        ("AMC-002", "Not Collected", "NSCLC NOS (not otherwise specified)"),
        ("R01-003", "Not collected", "Squamous cell carcinoma"),
        ("R01-004", "pT1b", "Not Collected"),
    ]
    table = write_table(tmp_path / "any.csv", *rows, id_column=id_column)
    assert find_clinical_table(tmp_path) == table
    # phrase: values of the published table
    assert read_clinical(table) == {
        "R01-001": {"t_stage": "T2a", "histology": "Adenocarcinoma"},
        "AMC-002": {"t_stage": UNKNOWN, "histology": "NSCLC NOS"},
        "R01-003": {"t_stage": UNKNOWN, "histology": "Squamous cell carcinoma"},
        "R01-004": {"t_stage": "T1b", "histology": UNKNOWN},
    }


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([("R01-001", "T1c", "Adenocarcinoma")], {"row 2", STAGE_COLUMN, "T1c", "Tis"}),
        ([("R01-001", "T1a", "Carcinoid")], {"row 2", HISTOLOGY_COLUMN, "Carcinoid", "Adenocarcinoma"}),
        ([("R01-001", "T1a", "Adenocarcinoma")] * 2, {"row 3", ID_COLUMNS[0]}),
        ([("", "T1a", "Adenocarcinoma")], {"row 2", ID_COLUMNS[0], "empty"}),
    ],
)
def test_a_row_that_no_prompt_stands_for_is_named(tmp_path: Path, rows: list, named: set[str]) -> None:
    with raises_naming(DatasetError, tmp_path / "t.csv", *named) as caught:
        read_clinical(write_table(tmp_path / "t.csv", *rows))
    assert "R01-001" not in str(caught.value)


def test_the_table_is_found_three_folders_down_and_no_deeper(tmp_path: Path) -> None:
    deep = tmp_path / "1" / "2" / "3"
    (deep / "4").mkdir(parents=True)
    table = write_table(deep / "4" / "t.csv", ("R01-001", "T1a", "Adenocarcinoma"))
    with raises_naming(DatasetError, tmp_path, "dataset.clinical") as caught:
        find_clinical_table(tmp_path)
    assert "t.csv" not in str(caught.value)
    table = table.rename(deep / "t.csv")
    assert find_clinical_table(tmp_path) == table
    (tmp_path / "link").symlink_to(tmp_path / "1" / "2", target_is_directory=True)
    assert find_clinical_table(tmp_path).samefile(table), "found on two ways, it is one table"


def test_no_table_and_two_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("Series UID,Subject ID\n1,2\n")
    with raises_naming(DatasetError, tmp_path, "dataset.clinical") as caught:
        find_clinical_table(tmp_path)
    assert "metadata.csv" not in str(caught.value)
    with raises_naming(DatasetError, tmp_path / "metadata.csv", *ID_COLUMNS, "Series UID", "Subject ID"):
        read_clinical(tmp_path / "metadata.csv")
    (tmp_path / "deep").mkdir()
    for place in (tmp_path, tmp_path / "deep"):
        write_table(place / "t.csv", ("R01-001", "T1a", "Adenocarcinoma"))
    with raises_naming(DatasetError, tmp_path / "t.csv", tmp_path / "deep" / "t.csv", "dataset.clinical"):
        find_clinical_table(tmp_path)


def test_tables_of_a_spreadsheet_are_found_and_shifted_or_garbled_ones_told_by_row(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", ("R01-001", "T1a", "Adenocarcinoma"), ("R01-002", "T2a", "NSCLC NOS"))
    before, plain = read_clinical(table), table.read_text()
    table.write_text("\ufeff" + plain.replace(",", ";") + ";;\n")
    assert read_clinical(find_clinical_table(tmp_path)) == before
    table.write_text(plain.replace("carcinoma\n", "carcinoma,\n"))
    with raises_naming(DatasetError, table, "row 2", 4, 3) as caught:
        read_clinical(find_clinical_table(tmp_path))
    table.write_bytes(plain.replace("R01-002", "Müller").encode("latin-1"))
    with raises_naming(DatasetError, table, "row 3", "UTF-8") as caught:
        read_clinical(find_clinical_table(tmp_path))
    assert "R01-001" not in str(caught.value)
