import os
import re
import subprocess
import sys
from pathlib import Path

from t2m_bench.cli import app
from t2m_bench.fetching.fetch import FETCHERS, MEDSAM_WEIGHTS
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.schema import load_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_module_and_no_other() -> None:
    tree = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```text\nt2m_bench/\n(.*?)```", tree, re.DOTALL)
    assert block is not None
    package, apart = block.group(1).split("launch/\n")
    named = {f"t2m_bench/{line.split()[0]}" for line in package.splitlines()}
    launch, apart = apart.split("sweeps/\n")
    sweeps, slurm = apart.split("slurm/\n")
    named |= {f"sweeps/{line.split()[0]}" for line in sweeps.splitlines()}
    named |= {f"launch/{line.split()[0]}" for line in launch.splitlines()}
    named |= {f"slurm/{line.split()[0]}" for line in slurm.splitlines()}
    patterns = ("t2m_bench/**/*.py", "launch/**/*.yaml", "launch/**/*.json", "sweeps/*.yaml", "slurm/*.sh")
    files = [path for pattern in patterns for path in REPOSITORY.glob(pattern) if path.name != "__init__.py"]
    assert named == {str(path.relative_to(REPOSITORY)) for path in files}


def test_the_page_of_arms_has_a_row_for_each() -> None:
    page = (REPOSITORY / "docs" / "reference" / "arms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(ARMS.names)


def list_commands() -> list[str]:
    return [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


def test_the_commands_run_as_written(tmp_path: Path) -> None:
    commands = [command.split() for command in list_commands() if not command.startswith("make ")]
    assert len(commands) >= 6
    for folder in ("launch", "sweeps"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    tool = Path(sys.executable).with_name("t2m-bench")
    for name, *arguments in commands:
        assert name == "t2m-bench"
        done = subprocess.run([tool, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}\n{done.stderr}"


# phrase: users type these commands as README gives them
NEEDS_NETWORK = [
    "t2m-bench fetch nsclc data/NSCLC-Radiogenomics",
    "t2m-bench fetch medsam weights",
    "t2m-bench fetch pubmedbert weights/pubmedbert",
]


def test_the_five_commands_of_nsclc_fit_together() -> None:
    """The first three need a network and the fourth a cluster, so what they name is compared instead."""
    block = re.search(r"\*\*NSCLC-Radiogenomics\.\*\*.*?```\n(.*?)```", README, re.DOTALL)
    assert block is not None
    *fetching, batch, report = block.group(1).replace("\\\n", " ").splitlines()
    assert fetching == NEEDS_NETWORK
    assert report == "t2m-bench report"
    folders = {line.split()[2]: Path(line.split()[3]) for line in fetching}
    assert folders.keys() < FETCHERS.keys()
    words = batch.split()
    (script,) = [place for place, word in enumerate(words) if word.endswith(".sh")]
    assert words[0] == "sbatch"
    assert (REPOSITORY / words[script]).is_file()
    recipe = load_recipe(REPOSITORY / words[script + 1], words[script + 2 :])
    assert recipe.dataset.root == folders["nsclc"]
    assert recipe.image_encoder.checkpoint == folders["medsam"] / MEDSAM_WEIGHTS.name
    assert Path(recipe.text_encoder.name) == folders["pubmedbert"]


def test_the_targets_are_there() -> None:
    """`make demo` installs what a user needs and runs the demo; `make test` runs the tests with what they need."""
    targets = [command.split()[1] for command in list_commands() if command.startswith("make ")]
    assert targets == ["demo", "test"]
    asked = {}
    for target in targets:
        command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
        asked[target] = done.stdout
    assert "t2m-bench demo" in asked["demo"].splitlines()[-1]
    assert "pytest" in asked["test"].splitlines()[-1]
    installed = {target: "[test,dev]" in shown for target, shown in asked.items()}
    assert installed == {"demo": False, "test": True}


def test_the_glossary_names_the_conditions_of_the_table() -> None:
    glossary = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
    (row,) = [line for line in glossary.splitlines() if line.startswith("| **condition**")]
    assert re.findall(r"`(\w+)`", row) == [entry.name for entry in CONDITIONS]


def test_every_verb_is_told() -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert table == {command.callback.__name__ for command in app.registered_commands}
