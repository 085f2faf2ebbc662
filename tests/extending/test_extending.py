"""A package outside adds an entry to each table; `bench` runs them to a report, which is written again without it."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import numpy as np
import pandas as pd
import pytest
import torch
from messages import check_names
from PIL import Image
from plugins import TABLES, forget_installed

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

ADDED = {
    "t2m_bench.datasets": "shapes",
    "t2m_bench.image_encoders": "tiny",
    "t2m_bench.arms": "scaled",
    "t2m_bench.conditions": "blend",
    "t2m_bench.measures": "centroid_shift",
}


@dataclass(frozen=True)
class Benched:
    """The folder of a finished `bench`, its report, and each entry's label."""

    folder: Path
    report: str
    labels: dict[str, str]

    @property
    def experiment(self) -> Path:
        (folder,) = self.folder.glob("runs/shapes-*")
        return folder


def run(arguments: list[str], folder: Path, *installed: Path) -> str:
    """Run a verb in a process of its own with packages installed; return what it printed."""
    path = os.pathsep.join(map(str, (*installed, REPOSITORY)))
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_shapes(folder: Path, num_cases: int = 48) -> None:
    """Write images of discs and bars, two of a patient, the last patient's of an unknown kind."""
    rng, rows = np.random.default_rng(0), []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(num_cases):
        shape, patient = ("round", "long")[number % 2], number // 2
        middle, half = rng.integers(30, 60, 2), np.array([12, 12]) if shape == "round" else np.array([5, 20])
        rows_, columns = np.ogrid[:90, :100]
        mask = ((rows_ - middle[0]) / half[0]) ** 2 + ((columns - middle[1]) / half[1]) ** 2 <= 1
        image = np.clip(rng.normal(100, 20, mask.shape) + 80 * mask, 0, 255)
        for part, array in (("images", image), ("masks", 255 * mask)):
            Image.fromarray(array.astype(np.uint8)).save(folder / part / f"shape{number}.png")
        said = "" if patient == num_cases // 2 - 1 else shape
        rows.append({"name": f"shape{number}", "patient": f"p{patient}", "shape": said})
    pd.DataFrame(rows).to_csv(folder / "shapes.csv", index=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that pip installed the package into."""
    source, target = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("installed")
    copytree(HERE, source, ignore=ignore_patterns("__pycache__", "test_*"))  # builds leave folders behind
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(target)
        forget_installed()
        yield target
    forget_installed()


@pytest.fixture(scope="module")
def benched(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Benched:
    from t2m_bench.models.sam import build_sam

    folder = tmp_path_factory.mktemp("bench")
    write_shapes(folder / "shapes")
    torch.manual_seed(0)
    torch.save(build_sam(ADDED["t2m_bench.image_encoders"]).state_dict(), folder / "tiny.pt")
    for name in ("recipe.yaml", "prompts.yaml"):
        copy(HERE / name, folder)
    run(["bench", "recipe.yaml"], folder, package)
    (report,) = folder.glob("runs/shapes-*/report/report.md")
    labels = {group: TABLES[group].find(name).label for group, name in ADDED.items()}
    return Benched(folder, report.read_text(), labels)


def test_the_guide_names_each_file_and_line() -> None:
    guide = (HERE / "README.md").read_text()
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["entry-points"]
    assert {group: next(iter(points)) for group, points in project.items()} == ADDED
    for group, points in project.items():
        for name, value in points.items():
            file = f"{value.partition(':')[0].replace('.', '/')}.py"
            assert (HERE / file).is_file()
            for part in (f'[project.entry-points."{group}"]', f'{name} = "{value}"', file):
                assert part in guide


@pytest.mark.cluster
@pytest.mark.parametrize("group", ADDED)
def test_each_entry_stands_in_the_report_under_its_label(benched: Benched, group: str) -> None:
    cells = [cell.strip() for line in benched.report.splitlines() if line.startswith("|") for cell in line.split("|")]
    label = benched.labels[group]
    assert label != ADDED[group]
    assert [cell for cell in cells if cell.startswith(label)], label


@pytest.mark.cluster
def test_the_numbers_are_what_the_package_computes(benched: Benched) -> None:
    tables = benched.experiment / "report" / "tables"
    costs = pd.read_csv(tables / "counterfactual.csv").set_index(["arm", "condition"])["cost"]
    assert {condition for arm, condition in costs.index if arm == "scaled"} == {"wrong", "blend_mean"}
    shifts = pd.read_csv(tables / "measures.csv").set_index("arm")["centroid_shift"]
    assert shifts["floor_box"] < 1, "boxes are centred on ellipses"
    assert shifts.notna().all()
    ladder = pd.read_csv(tables / "ladder.csv").set_index("comparison")
    assert "scaled - text_free" in ladder.index
    (rows,) = [pd.read_parquet(path) for path in benched.experiment.glob("scaled-*/cases.parquet")]
    assert {"blend:25", "blend:50", "blend:75"} < set(rows["condition"])


@pytest.mark.cluster
def test_the_report_is_written_again_where_the_package_is_not_installed(benched: Benched, tmp_path: Path) -> None:
    folder = Path(copytree(benched.folder, tmp_path / "laptop"))
    (experiment,) = folder.glob("runs/shapes-*")
    before = pd.read_csv(experiment / "report" / "tables" / "arms.csv")
    said = run(["report", str(experiment)], folder)
    check_names(said, *ADDED.values())
    report = (experiment / "report" / "report.md").read_text()
    assert not [label for label in benched.labels.values() if label in report]
    tables = experiment / "report" / "tables"
    pd.testing.assert_frame_equal(pd.read_csv(tables / "arms.csv"), before, check_like=True)
    conditions = set(pd.read_csv(tables / "counterfactual.csv")["condition"])
    assert conditions == {"wrong", "blend"}
    assert pd.read_csv(tables / "measures.csv")["centroid_shift"].notna().all()
