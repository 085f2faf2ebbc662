"""The folder in which a Ray of our own has its sockets."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from t2m_bench.cluster.session import _make_private_folder
from t2m_bench.errors import ClusterError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"t2m-ray-{os.getuid()}"


def test_nobody_else_may_enter_it(place: Path) -> None:
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    assert _make_private_folder() == place
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_one_that_somebody_else_laid_there_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="is not yours"):
        _make_private_folder()
    if os.geteuid() == 0:
        place.unlink()
        place.mkdir()
        os.chown(place, 65534, 65534)
        with pytest.raises(ClusterError, match="is not yours"):
            _make_private_folder()
