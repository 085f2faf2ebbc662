import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.measures import MEASURES
from t2m_bench.metrics.results import write_results
from t2m_bench.reporting.console import print_tables
from t2m_bench.reporting.figures import make_figures
from t2m_bench.reporting.report import write_report
from t2m_bench.reporting.results import find_experiments, load_experiment
from t2m_bench.reporting.tables import make_tables

CASES = [f"case-{number}" for number in range(8)]
GAIN = {"floor_ellipse": 0.0, "baseline": 0.01, "text_free": 0.02, "gated": 0.05, "hierarchical": 0.06}
COST = {"gated": 0.1, "hierarchical": 0.2}


def make_rows(arm: str, seed: int) -> list[dict[str, Any]]:
    rows = []
    for number, case in enumerate(CASES):
        dice = 0.7 + 0.02 * number + GAIN[arm]
        conditions = {"right": dice, "wrong": dice - COST[arm]} if arm in COST else {"none": dice}
        for condition, value in conditions.items():
            rows.append(
                {
                    "case": case,
                    "patient": f"patient-{number // 2}",
                    "dataset": "bus_bra",
                    "text_class": str(2 + number % 4),
                    "given_class": "" if condition == "none" else "5",
                    "arm": arm,
                    "seed": seed,
                    "fold": 1,
                    "condition": condition,
                    "box": "tight",
                    "distance_unit": "px",
                    **dict.fromkeys(MEASURES, float("nan")),
                    "dice": value,
                    "iou": value / (2 - value),
                    "pred_empty": False,
                    "ref_empty": False,
                }
            )
    return rows


def write_run(folder: Path, arm: str, seed: int) -> None:
    write_results(folder / "cases.parquet", make_rows(arm, seed))
    summary = {"run": folder.name, "arm": arm, "seed": seed, "trainable_parameters": 123456, "epochs": 2}
    summary |= {"best_epoch": 1, "val_dice": 0.8, "test_dice": 0.8, "seconds": 3.0, "world_size": 2}
    (folder / "run.json").write_text(json.dumps(summary))
    history = [{"epoch": epoch, "loss": 1.0, "gates": {"coarse": 0.5 + epoch / 10}} for epoch in range(2)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    np.savez_compressed(folder / "masks.npz", **{case: np.eye(160, dtype=bool) for case in CASES[:2]})


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "trial-12345678"
    reference = folder / "reference-fold1"
    write_results(reference / "cases.parquet", make_rows("floor_ellipse", -1) + make_rows("baseline", -1))
    np.savez_compressed(reference / "masks.npz", **{case: np.eye(160, dtype=bool) for case in CASES[:2]})
    pictures = {f"{case}/image": np.zeros((160, 160), np.uint8) for case in CASES[:2]}
    masks = {f"{case}/mask": np.pad(np.ones((60, 60), np.uint8), 50) for case in CASES[:2]}
    np.savez_compressed(reference / "crops.npz", **pictures, **masks)
    for arm in ("text_free", "gated", "hierarchical"):
        for seed in (0, 1):
            write_run(folder / f"{arm}-seed{seed}-00000000", arm, seed)
    audit = {"cases": {"test": 8}, "patients": {"test": 4}, "classes": {}, "flags": {}, "leaks": []}
    content = {
        "name": "trial <b>",
        "created": "2026-01-01",
        "dataset": {"kind": "bus_bra", "num_cases": 8, "num_patients": 4, "text_field": "birads", "phantom": None},
        "test_fold": 1,
        "models": {"image_encoder": "mini", "text_encoder": "stand-in"},
        "audit": audit,
        "allow_leakage": False,
        "hashes": {"manifest": "abc"},
        "versions": {"torch": "2"},
        "recipe": {"name": "trial"},
    }
    (folder / "experiment.json").write_text(json.dumps(content))
    return folder


def test_the_arms_table_says_what_was_planted(experiment: Path) -> None:
    numbers = make_tables(load_experiment(experiment))[0].numbers.set_index("arm")
    assert list(numbers.index) == ["floor_ellipse", "baseline", "text_free", "gated", "hierarchical"]
    assert numbers.loc["hierarchical", "dice"] == pytest.approx(0.77 + 0.06)
    assert numbers.loc["hierarchical", "help"] == pytest.approx(0.04)
    assert numbers.loc["hierarchical", "cost_of_wrong"] == pytest.approx(0.2)
    assert numbers.loc["gated", "help"] == pytest.approx(0.03)
    assert np.isnan(numbers.loc["baseline", "help"])
    assert np.isnan(numbers.loc["text_free", "cost_of_wrong"])
    assert numbers.loc["gated", "seeds"] == 2
    assert numbers.loc["gated", "dice_low"] < numbers.loc["gated", "dice"] < numbers.loc["gated", "dice_high"]


def test_the_class_table_averages_classes_equally(experiment: Path) -> None:
    numbers = make_tables(load_experiment(experiment))[1].numbers.set_index("arm")
    assert numbers.loc["baseline", "2"] == pytest.approx(0.71 + 0.02 * 2)
    assert numbers.loc["baseline", "macro"] == pytest.approx(numbers.loc["baseline", ["2", "3", "4", "5"]].mean())


class Reader(HTMLParser):
    """Collects what a page needs from elsewhere, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for name, value in attrs if name in {"src", "href"} and value]
        if tag == "img":
            self.pictures.append(given)


def test_the_html_is_one_file_and_the_markdown_names_what_lies_beside_it(experiment: Path) -> None:
    written = write_report(load_experiment(experiment))
    page, reader = written.html.read_text(), Reader()
    reader.feed(page)
    assert all(link.startswith("data:") for link in reader.links)
    assert len(reader.pictures) == 3
    assert all(picture["alt"] for picture in reader.pictures)
    assert "trial &lt;b&gt;" in page
    assert "it is not MedSAM" in page
    text = written.markdown.read_text()
    for figure in ("violin", "overlays", "gates"):
        assert f"figures/{figure}.png" in text
        assert (written.markdown.parent / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert "| hierarchical | 2 | 123,456 | 0.8300" in text
    assert (written.markdown.parent / "tables" / "arms.csv").read_text().startswith("arm,seeds,dice")


def test_a_report_can_be_made_again_to_the_digit(experiment: Path) -> None:
    first = write_report(load_experiment(experiment)).markdown.read_text()
    assert write_report(load_experiment(experiment)).markdown.read_text() == first


def test_allowed_leakage_and_a_missing_control_are_told_first(experiment: Path) -> None:
    content = json.loads((experiment / "experiment.json").read_text())
    content["allow_leakage"] = True
    content["audit"]["leaks"] = ["3 patients in both train and test"]
    (experiment / "experiment.json").write_text(json.dumps(content))
    for seed in (0, 1):
        (experiment / f"text_free-seed{seed}-00000000" / "cases.parquet").unlink()
    page = write_report(load_experiment(experiment)).html.read_text()
    assert page.index("3 patients in both train and test") < page.index("<table>")
    assert "nothing here says what the text did" in page


def test_an_unfinished_run_is_named(experiment: Path) -> None:
    folder = experiment / "gated-seed7-00000000"
    folder.mkdir()
    (folder / ".lock").touch()
    runs = make_tables(load_experiment(experiment))[2]
    assert "Not finished: gated-seed7-00000000" in runs.note


def test_tables_fit_a_log(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(make_tables(load_experiment(experiment)))
    assert "hierarchical" in capsys.readouterr().out


def test_a_planted_pickle_is_refused(experiment: Path) -> None:
    path = experiment / "gated-seed0-00000000" / "masks.npz"
    np.savez(path, evil=np.array([Path], dtype=object))
    with pytest.raises(RunFolderError, match=r"masks\.npz: cannot be read"):
        load_experiment(experiment)


def test_an_incomplete_note_of_an_experiment_is_named(experiment: Path) -> None:
    (experiment / "experiment.json").write_text("{}")
    with pytest.raises(RunFolderError, match="name is absent"):
        load_experiment(experiment)


def test_a_lost_history_is_named(experiment: Path) -> None:
    (experiment / "gated-seed0-00000000" / "history.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"history\.jsonl: cannot be read"):
        load_experiment(experiment)


def test_results_are_found_newest_first(experiment: Path) -> None:
    older = experiment.parent / "older-00000000"
    write_results(older / "reference-fold1" / "cases.parquet", make_rows("baseline", -1))
    (older / "experiment.json").write_text("{}")
    os.utime(older / "reference-fold1" / "cases.parquet", (1, 1))
    assert find_experiments(experiment.parent) == [experiment, older]
    with pytest.raises(RunFolderError, match=r"holds no experiment\.json"):
        load_experiment(experiment.parent)


def test_a_report_needs_no_torch(experiment: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from t2m_bench.reporting.report import write_report;"
        "from t2m_bench.reporting.results import load_experiment;"
        f"write_report(load_experiment(Path({str(experiment)!r}))); print({{'torch', 'ray'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_without_results_there_are_no_figures_of_runs(experiment: Path) -> None:
    for folder in experiment.glob("*-seed*"):
        (folder / "cases.parquet").unlink()
    assert [figure.name for figure in make_figures(load_experiment(experiment))] == ["violin", "overlays"]
