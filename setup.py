"""Puts recipes, sweeps, job scripts and the commit into the wheel; everything else stands in pyproject.toml."""

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("launch", "sweeps", "slurm")
PLACE = Path("t2m_bench", "shipped_files")


class BuildWithFolders(build_py):
    """Copies the folders beside the modules, with their run bits; an editable install reads those of the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in FOLDERS:
            target = Path(self.build_lib, PLACE, folder)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"))
        Path(self.build_lib, PLACE, "commit.txt").write_text(find_commit() + "\n", encoding="utf-8")


def find_commit() -> str:
    """Return the commit of this checkout, with "+changes" where the package has some; empty outside a checkout."""
    if not Path(".git").exists():
        return ""
    ask = ["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--", "t2m_bench", *FOLDERS]
    try:
        commit, changes = (subprocess.run(of, capture_output=True, text=True, check=True).stdout.strip() for of in ask)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}+changes" if changes else commit


setup(cmdclass={"build_py": BuildWithFolders})
