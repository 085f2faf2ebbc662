"""A phantom's folder: made whole or not at all, left alone where it is there, never written over something else."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2m_bench.errors import UserError

RECORD_NAME = "phantom.json"


def write_phantom_folder(out: Path, parameters: dict[str, object], write: Callable[[Path], None]) -> None:
    """Make a folder by `write(folder)` and note its parameters; one that already holds them is left as it is.

    Raises:
        UserError: `out` holds something else.
    """
    if holds_phantom(out, parameters):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write(work)
        (work / RECORD_NAME).write_text(json.dumps(parameters, indent=2) + "\n")
        work.chmod(0o755)
        os.replace(work, out)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if not isinstance(error, OSError) or not holds_phantom(out, parameters):  # another process was first
            raise


def check_parameters(
    *, kind: str, version: int, least: int, num_cases: int, seed: int, text_effect: float, text_visible: bool
) -> dict[str, object]:
    """Return the parameters of a phantom as its record holds them.

    Raises:
        UserError: numbers out of range; `least` is the fewest cases.
    """
    if num_cases < least:
        raise UserError(f"phantom: cases is {num_cases}; at least {least} are needed (one for each fold)")
    if seed < 0:
        raise UserError(f"phantom: seed is {seed}; give 0 or a positive whole number")
    if not 0.0 <= text_effect <= 1.0:
        raise UserError(f"phantom: text effect is {text_effect}; give a probability from 0 to 1")
    return {
        "kind": kind,
        "generator_version": version,
        "num_cases": num_cases,
        "seed": seed,
        "text_effect": float(text_effect),
        "text_visible": text_visible,
    }


def holds_phantom(out: Path, parameters: dict[str, object]) -> bool:
    """True where `out` already is this phantom; an error where it is something else that must not be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir():
        raise UserError(f"phantom: {out} is a file; name a folder that does not exist yet")
    try:
        found = json.loads((out / RECORD_NAME).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"phantom: {out} is not empty and is no phantom (no readable {RECORD_NAME}); name another folder"
        ) from None
    if found == parameters:
        return True
    found = found if isinstance(found, dict) else {}
    differing = [key for key in parameters if found.get(key) != parameters[key]]
    detail = ", ".join(f"{key} {found.get(key)!r} there, {parameters[key]!r} asked" for key in differing)
    raise UserError(f"phantom: {out} already holds another phantom ({detail}); name another folder or remove it")


def load_record(folder: Path) -> dict[str, Any] | None:
    """Return the parameters of the phantoms in a folder; None where it holds none.

    Raises:
        UserError: it says that it does, but not which: they must not pass for patients.
    """
    path = folder / RECORD_NAME
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Write the phantoms again, or remove the file.") from None
    if not (isinstance(found, dict) and {"text_effect", "text_visible"} <= found.keys()):
        raise UserError(f"{path}: does not say text_effect and text_visible. Write the phantoms again, or remove it.")
    return found


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, the columns of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make_stream(seed: int, purpose: str, *parts: int) -> np.random.Generator:
    """An independent generator for each purpose, so that no draw of one shifts the draws of another."""
    return np.random.default_rng([seed, *purpose.encode(), *parts])
