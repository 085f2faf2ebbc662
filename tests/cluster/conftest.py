from pathlib import Path

import pytest
from real_runs import finish, make_recipe, start

HERE = Path(__file__).parent

IN_EVERY_RUN = (
    "test_slurm_scripts.py",
    "test_tune_parts.py",
    "test_session.py",
    "test_slurm.py::test_two_hosts_train_and_evaluate",
    "test_kills.py::test_a_kill_costs_nothing_but_time[worker]",
    "test_tune_job.py::test_a_killed_trial_is_failed_with_its_reason_and_ctrl_c_leaves_a_study_that_goes_on",
)
"""Files and tests of this folder that `make test` runs too: what is quick, and one real thing of each kind."""


@pytest.hookimpl(tryfirst=True)  # before marks are selected by
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave this folder to `make test-cluster`, but for IN_EVERY_RUN."""
    for item in items:
        name = item.nodeid.rpartition("tests/cluster/")[2]
        if HERE in item.path.parents and not any(name == kept or name.startswith(f"{kept}::") for kept in IN_EVERY_RUN):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "phantoms"


@pytest.fixture(scope="session")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on two plain workers that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "a"
    finish(start(make_recipe(root), folder))
    return folder
