"""Writes a report: Markdown, one HTML file, tables as CSV, figures as PNG."""

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from t2m_bench.reporting.figures import Figure, make_figures
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.search import find_search, load_search, make_search_figures, make_search_tables
from t2m_bench.reporting.tables import Table, make_tables

FOLDER_NAME = "report"


@dataclass(frozen=True)
class Report:
    """What was written, and the tables to show."""

    markdown: Path
    html: Path
    tables: list[Table]


def write_report(results: Results) -> Report:
    """Write the report into the experiment's folder; each file appears whole."""
    tables, figures = make_tables(results), make_figures(results)
    search = find_search(results.folder)
    if search is not None:
        tables += make_search_tables(search)
        figures += make_search_figures(search)
    content = {
        "title": f"Does the text help? {results.experiment['name']}",
        "warnings": list_warnings(results),
        "facts": list_facts(results),
        "recipe": yaml.safe_dump(results.experiment["recipe"], sort_keys=False),
    }
    return _write_all(results.folder / FOLDER_NAME, tables, figures, content)


def write_sweep_report(folder: Path) -> Report:
    """Write the report of a sweep's studies into its folder.

    Raises:
        RunFolderError: the folder holds no study that can be read.
    """
    search = load_search(folder)
    best = folder / "best.yaml"
    content = {
        "title": f"What mattered? Sweep {folder.name}",
        "warnings": [
            "Every value is of validation cases, from which the winner was chosen: no test figure stands here."
        ],
        "facts": [("Studies", ", ".join(search.studies)), ("Folder", str(folder))],
        "recipe": best.read_text(encoding="utf-8") if best.is_file() else "# no trial came to its end\n",
    }
    return _write_all(folder / FOLDER_NAME, make_search_tables(search), make_search_figures(search), content)


def _write_all(folder: Path, tables: list[Table], figures: list[Figure], content: dict[str, Any]) -> Report:
    for table in tables:
        _write(folder / "tables" / f"{table.name}.csv", table.numbers.to_csv(index=False).encode())
    for figure in figures:
        _write(folder / "figures" / f"{figure.name}.png", figure.png)
    filled = {**content, "tables": tables, "figures": [(figure, _to_uri(figure)) for figure in figures]}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t2m_bench.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    paths = {}
    for kind in ("md", "html"):
        paths[kind] = folder / f"report.{kind}"
        _write(paths[kind], environment.get_template(f"report.{kind}.j2").render(filled).encode())
    return Report(paths["md"], paths["html"], tables)


def list_warnings(results: Results) -> list[str]:
    """Return what a reader must know before the first number."""
    experiment = results.experiment
    warnings = []
    if experiment["allow_leakage"]:
        leaks = "; ".join(experiment["audit"]["leaks"]) or "none was found"
        warnings.append(f"Leakage was allowed in this experiment ({leaks}): no figure here is an honest test figure.")
    phantom = experiment["dataset"]["phantom"]
    if phantom:
        warnings.append(
            f"Phantoms, not patients: the text tells the hidden class with probability {phantom['text_effect']:g}"
            + (", and the look shows it too." if phantom["text_visible"] else ".")
        )
    if experiment["models"]["text_encoder"] == "stand-in":
        warnings.append("Text was encoded by the shipped stand-in, which is no model of clinical language.")
    if experiment["models"]["image_encoder"] == "mini":
        warnings.append("Images were encoded by the shipped mini model, trained on phantoms; it is not MedSAM.")
    if "text_free" not in results.arms:
        warnings.append("Without the arm text_free nothing here says what the text did. Run `t2m-bench bench RECIPE`.")
    return warnings


def list_facts(results: Results) -> list[tuple[str, str]]:
    """Return the provenance as (what, value)."""
    experiment = results.experiment
    audit: dict[str, Any] = experiment["audit"]
    splits = ", ".join(
        f"{name} {audit['cases'][name]} of {audit['patients'][name]} patients" for name in audit["cases"]
    )
    flags = ", ".join(f"{name} {count}" for name, count in audit["flags"].items()) or "none"
    return [
        ("Data set", f"{experiment['dataset']['kind']}, {experiment['dataset']['num_cases']} cases"),
        ("Split by patient", f"{splits}; test fold {experiment['test_fold']}"),
        ("Leaks found", "; ".join(audit["leaks"]) or "none"),
        ("Quality flags", flags),
        ("Image encoder", f"{experiment['models']['image_encoder']}"),
        ("Text encoder", f"{experiment['models']['text_encoder']}"),
        *((f"sha256 of {name}", value) for name, value in experiment["hashes"].items()),
        ("Versions", ", ".join(f"{name} {version}" for name, version in experiment["versions"].items())),
        ("Created", str(experiment["created"])),
    ]


def _to_uri(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(figure.png).decode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
