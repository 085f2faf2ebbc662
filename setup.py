"""Puts the folders of recipes, sweeps and job scripts into the wheel; everything else stands in pyproject.toml."""

import shutil
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


setup(cmdclass={"build_py": BuildWithFolders})
