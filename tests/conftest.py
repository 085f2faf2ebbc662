import os
from pathlib import Path

import pytest

from t2m_bench.models.torchvision_ops import declare_missing_operators

REPOSITORY = Path(__file__).resolve().parents[1]

declare_missing_operators()  # before any test module imports segment_anything


@pytest.fixture(scope="session")
def bus_bra_dev() -> Path:
    """The real part of BUS-BRA; tests skip, saying so, where it is absent."""
    folder = Path(os.environ.get("T2M_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "bus-bra-dev"
    if not folder.is_dir():
        pytest.skip(f"no real BUS-BRA at {folder}; set T2M_TEST_DATA to the folder that holds bus-bra-dev")
    return folder
