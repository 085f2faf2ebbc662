"""Deals tests to the processes of a distributed run: those that start clusters, one after another, to one of them."""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ONE_AFTER_ANOTHER = (
    "tests/cluster/",
    "tests/integration/",
    "tests/pipeline/test_train.py",
    "tests/test_readme.py",
    "tests/training/test_zero.py",
)
"""Places of tests that start Ray, Slurm or ranks for real, of which two cores bear one at a time."""


def find_group(nodeid: str) -> str:
    """Return the name that tests share which one process runs, one after another: their file's, or the clusters'."""
    return "clusters" if nodeid.startswith(ONE_AFTER_ANOTHER) else nodeid.partition("::")[0]


class ByGroup(LoadScopeScheduling):
    """Gives a process one group after another."""

    def _split_scope(self, nodeid: str) -> str:
        return find_group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    """Return it in place of xdist's own, whose groups by marks do nothing with pytest 9.2: it renamed what they set."""
    config.option.loadscopereorder = False  # by the number of tests, which says little of their time
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest group first, beside which one process then runs all others."""
    items.sort(key=lambda item: find_group(item.nodeid) != "clusters")
