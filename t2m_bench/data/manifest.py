"""The manifest: every case of a dataset folder, one JSON line each; the only file that holds patient identifiers."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t2m_bench.data.case import Case
from t2m_bench.errors import DatasetError


def write_manifest(path: Path, cases: Sequence[Case]) -> None:
    """Write the cases, readable by the owner alone, by atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(_to_json(case)) + "\n" for case in cases)
    os.replace(partial, path)


def load_manifest(path: Path) -> list[Case]:
    """Read the cases.

    Raises:
        DatasetError: the file is absent, or a line is not a case; names the line.
    """
    cases = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    cases.append(_from_json(json.loads(line)))
                except (ValueError, TypeError, KeyError) as error:
                    raise DatasetError(
                        f"{path}, line {number}: not a case ({error!r}). Remove the file and prepare again."
                    ) from None
    except OSError:
        raise DatasetError(f"{path}: absent. Run `t2m-bench prepare RECIPE`.") from None
    return cases


def compute_manifest_hash(cases: Sequence[Case]) -> str:
    """Return the sha256 of what the cases are, wherever their folder lies."""
    lines = [json.dumps(_to_json(case), sort_keys=True) for case in cases]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _to_json(case: Case) -> dict[str, Any]:
    return asdict(case) | {"image_path": case.image_path.as_posix(), "mask_path": case.mask_path.as_posix()}


def _from_json(raw: dict[str, Any]) -> Case:
    spacing = raw["spacing_mm"]
    tuples = {
        "box_xyxy": tuple(raw["box_xyxy"]),
        "flags": tuple(raw["flags"]),
        "spacing_mm": None if spacing is None else tuple(spacing),
    }
    paths = {"image_path": Path(raw["image_path"]), "mask_path": Path(raw["mask_path"])}
    return Case(**(raw | tuples | paths))
