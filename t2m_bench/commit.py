"""The commit of the code that runs: of the checkout, or of the commit that a wheel was built or installed from."""

import json
import os
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

UNKNOWN_COMMIT = "not known"
"""Recorded where neither a checkout nor the installed package says."""

NO_COMMIT = "not recorded"
"""Stands for the commit of what was trained before commits were recorded."""

CHANGED = "+changes"
"""Suffix of a checkout's commit whose package has changes that no commit holds."""

PACKAGE = Path(__file__).resolve().parent
BUILT_NAME = "shipped_files/commit.txt"
"""File inside the package of a wheel, which `setup.py` writes."""


@lru_cache(maxsize=1)
def find_commit() -> str:
    """Return the commit's hash, perhaps with `CHANGED`, or `UNKNOWN_COMMIT`; looked up once a process."""
    return find_commit_of(PACKAGE)


def find_commit_of(package: Path) -> str:
    """Return the commit of a package's folder: as its wheel recorded it, else of its checkout, else of its install."""
    try:
        return (package / BUILT_NAME).read_text(encoding="utf-8").strip() or UNKNOWN_COMMIT
    except OSError:
        return _ask_git(package) or _ask_installer(package) or UNKNOWN_COMMIT


def _ask_git(package: Path) -> str:
    """Return the commit of the checkout that the package lies in; empty where it is none, or git is absent."""
    if not (package.parent / ".git").exists():
        return ""
    commit = _run_git(package.parent, "rev-parse", "HEAD")
    changes = _run_git(package.parent, "status", "--porcelain", "--", package.name)
    return f"{commit}{CHANGED}" if commit and changes else commit


def _run_git(folder: Path, *command: str) -> str:
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    asked = ["git", "-C", str(folder), *command]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, env=elsewhere).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _ask_installer(package: Path) -> str:
    """Return the commit that pip recorded for an install from a repository's address (PEP 610); empty without."""
    try:
        distribution = metadata.distribution("t2m-bench")
        recorded = json.loads(distribution.read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    if Path(str(distribution.locate_file(package.name))).resolve() != package:
        return ""  # another copy is installed than the one that runs
    return str(recorded.get("vcs_info", {}).get("commit_id", ""))
