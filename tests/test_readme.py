import os
import re
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest

from t2m_bench.cli import app
from t2m_bench.fetching.fetch import FETCHERS, MEDSAM_WEIGHTS
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.schema import load_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])
GENERATED = ("reference/cli.md", "reference/recipe.md", "reference/results.md", "extending.md")


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
    page = (DOCS / "reference" / "arms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(ARMS.names)


def list_commands(page: str) -> list[str]:
    """Return the commands of the blocks that say bash: those run anywhere; others need data, a network or a cluster."""
    return [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]


def list_pages_with_commands() -> dict[str, list[str]]:
    found = {str(path.relative_to(REPOSITORY)): list_commands(path.read_text(encoding="utf-8")) for path in PAGES}
    return {name: commands for name, commands in found.items() if commands and name != "README.md"}


@pytest.mark.parametrize(("page", "commands"), list_pages_with_commands().items())
def test_the_commands_run_as_written(page: str, commands: list[str], tmp_path: Path) -> None:
    for folder in ("launch", "sweeps"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    tool = Path(sys.executable).with_name("t2m-bench")
    for command in commands:
        name, *arguments = command.split()
        assert name == "t2m-bench"
        words = [
            found for word in arguments for found in (sorted(glob(word, root_dir=tmp_path)) or [word])
        ]  # as a shell
        done = subprocess.run([tool, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}: {arguments}\n{done.stderr}"


def test_the_first_steps_are_among_the_commands_that_run() -> None:
    verbs = {command.split()[1] for command in list_pages_with_commands()["docs/guides/getting_started.md"]}
    assert verbs >= {"phantom", "prepare", "inspect", "embed", "train", "sweep", "report"}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("name", GENERATED)
def test_the_generated_pages_are_current(name: str, tmp_path: Path) -> None:
    """`make docs` writes them; whoever changes a verb or a field runs it."""
    subprocess.run([sys.executable, DOCS / "generate_reference.py", tmp_path], check=True, capture_output=True)
    assert (tmp_path / name).read_text(encoding="utf-8") == (DOCS / name).read_text(encoding="utf-8")


def list_anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        name, _, anchor = target.partition("#")
        place = page.parent / name if name else page
        assert place.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in list_anchors(place), f"{page.name}: {target}"


# phrase: users type these commands as README gives them
NEEDS_NETWORK = [
    "t2m-bench fetch nsclc data/NSCLC-Radiogenomics",
    "t2m-bench fetch medsam weights",
    "t2m-bench fetch pubmedbert weights/pubmedbert",
]


def test_the_five_commands_of_nsclc_fit_together() -> None:
    """The first three need a network and the fourth a cluster, so what they name is compared instead."""
    block = re.search(r"```\n(.*?)```", (DOCS / "guides" / "nsclc.md").read_text(encoding="utf-8"), re.DOTALL)
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
    targets = [command.split()[1] for command in list_commands(README)]
    assert targets == ["demo", "test"]
    asked = {}
    for target in targets:
        command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
        asked[target] = done.stdout
    assert "t2m-bench demo" in asked["demo"].splitlines()[-1]
    assert "pytest" in asked["test"].splitlines()[-1]
    installed = {target: "[test,dev,docs]" in shown for target, shown in asked.items()}
    assert installed == {"demo": False, "test": True}


def test_the_glossary_names_the_conditions_of_the_table() -> None:
    glossary = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
    (row,) = [line for line in glossary.splitlines() if line.startswith("| **condition**")]
    assert re.findall(r"`(\w+)`", row) == [entry.name for entry in CONDITIONS]


def test_every_verb_is_told() -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert table == {command.callback.__name__ for command in app.registered_commands}
