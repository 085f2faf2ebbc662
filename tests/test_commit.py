import subprocess
from pathlib import Path

import pytest

from t2m_bench.commit import BUILT_NAME, CHANGED, UNKNOWN_COMMIT, find_commit_of


def run_git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "t2m_bench"
    folder.mkdir()
    (folder / "module.py").write_text("number = 1\n")
    return folder


def test_a_checkout_tells_its_commit_and_whether_the_package_has_changes(package: Path) -> None:
    run_git(package.parent, "init", "-q")
    run_git(package.parent, "add", ".")
    run_git(package.parent, "commit", "-qm", "first")
    commit = run_git(package.parent, "rev-parse", "HEAD")
    (package.parent / "notes.txt").write_text("not of the package\n")
    assert find_commit_of(package) == commit
    (package / "module.py").write_text("number = 2\n")
    assert find_commit_of(package) == commit + CHANGED


def test_a_wheel_tells_what_it_was_built_from(package: Path) -> None:
    assert find_commit_of(package) == UNKNOWN_COMMIT
    built = package / BUILT_NAME
    built.parent.mkdir()
    built.write_text("0123abc\n")
    assert find_commit_of(package) == "0123abc"
    built.write_text("\n")
    assert find_commit_of(package) == UNKNOWN_COMMIT
