from pathlib import Path

import pytest
from real_runs import finish, make_recipe, start


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "phantoms"


@pytest.fixture(scope="session")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on two plain workers that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "a"
    finish(start(make_recipe(root), folder))
    return folder
