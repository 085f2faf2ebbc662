"""The recipes, sweeps and job scripts that come with the package, found from any folder and copied out of it."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from t2m_bench.errors import RecipeError, UserError
from t2m_bench.files import write_atomically, write_json

FOLDERS = ("launch", "sweeps", "slurm")

PACKAGED = Path(__file__).resolve().parent / "shipped_files"
"""Folder of a wheel that holds the shipped files; an editable install lacks it."""

CHECKOUT = Path(__file__).resolve().parents[1]

RECORD_NAME = ".t2m-bench.json"
"""File in a folder made by `init`: the sha256 of each file as written, which distinguishes changed files from old ones.
"""


def find_folder(name: str) -> Path:
    """Return one of FOLDERS: the package's copy, else that of the checkout that the package is installed from.

    Raises:
        UserError: neither exists.
    """
    for place in (PACKAGED / name, CHECKOUT / name):
        if place.is_dir():
            return place
    raise UserError(f"{PACKAGED / name}: missing from the installed package. Install t2m-bench again.")


def find_file(given: Path, folder: str) -> Path:
    """Return the YAML file that a user names: their own file first, then the shipped one of that name.

    A shipped file may be named with its folder (`launch/demo.yaml`, `launch/demo`) or without (`demo`), from anywhere.

    Raises:
        RecipeError: there is neither; names the shipped ones.
    """
    if given.is_file():
        return given
    relative = given if given.suffix else Path(f"{given}.yaml")
    parts = relative.parts[1:] if relative.parts[:1] == (folder,) else relative.parts
    own = Path(folder, *parts)
    if not given.suffix and not given.is_absolute() and own.is_file():
        return own
    place = find_folder(folder)
    shipped = place.joinpath(*parts)
    if not relative.is_absolute() and ".." not in parts and shipped.is_file():
        return shipped
    what = {"launch": "recipe", "sweeps": "sweep"}.get(folder, "file")
    names = ", ".join(list_names(folder))
    raise RecipeError(
        f"{given}: there is no such {what}. Give a YAML file of yours, or a shipped one by its name ({names}); "
        "`t2m-bench init DIR` copies those to edit."
    )


def list_names(folder: str) -> list[str]:
    """Return the names of a folder's shipped recipes or sweeps; YAML files for other programs are left out."""
    paths = sorted(find_folder(folder).glob("*.yaml"))
    key = "recipe:" if folder == "sweeps" else "dataset:"
    return [path.stem for path in paths if any(line.startswith(key) for line in path.read_text().splitlines())]


@dataclass(frozen=True)
class Copied:
    """Result of `copy_shipped`.

    Attributes:
        written: files that were copied. kept: files of the user's that were left as they are.
        same: files that are the shipped ones themselves, as in a checkout.
    """

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    same: tuple[Path, ...]


def copy_shipped(target: Path) -> Copied:
    """Copy every folder into `target` with run bits; a file that was changed since it was copied is kept.

    An interrupted copy leaves whole files that are all recorded, so that the next one completes it.

    Raises:
        OSError: the folder cannot be written.
    """
    record = _load_record(target)
    written, kept, same = [], [], []
    for folder in FOLDERS:
        source = find_folder(folder)
        for path in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            name = Path(folder, path.relative_to(source)).as_posix()
            there, digest = target / name, _compute_sha256(path)
            if there.exists() and there.samefile(path):
                same.append(there)
                continue
            if there.is_file() and _compute_sha256(there) not in (digest, record.get(name)):
                kept.append(there)
                continue
            with write_atomically(there) as partial:
                shutil.copy(path, partial)  # with its mode
            record[name] = digest
            write_json(target / RECORD_NAME, record)
            written.append(there)
    return Copied(tuple(written), tuple(kept), tuple(same))


def _load_record(target: Path) -> dict[str, str]:
    try:
        record = json.loads((target / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _compute_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
