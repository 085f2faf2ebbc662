import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command itself does, before torch is imported

from t2m_bench.models.torchvision_ops import declare_missing_operators

pytest_plugins = ["run_summary", "side_by_side"]

REPOSITORY = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("busy", deadline=None)  # other tests may run on the machine
hypothesis.settings.load_profile("busy")

declare_missing_operators()  # before any test module imports segment_anything


@pytest.fixture(scope="session")
def bus_bra_dev() -> Path:
    """The real part of BUS-BRA; tests skip, saying so, where it is absent."""
    return find_real_data("bus-bra-dev")


@pytest.fixture(scope="session")
def nsclc_radiogenomics() -> Path:
    """The real clinical table of NSCLC-Radiogenomics."""
    return find_real_data("nsclc-radiogenomics")


@pytest.fixture(scope="session")
def real_dicom() -> Path:
    """Real CT slices and segmentations of other sources."""
    return find_real_data("dicom")


def find_real_data(name: str) -> Path:
    folder = Path(os.environ.get("T2M_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set T2M_TEST_DATA to the folder that holds {name}")
    return folder
