"""The manifest: a JSON line with the number of cases, then one for each.

It holds the source's patient identifiers, as splits and exclusions.json beside it do, and no other file does.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from t2m_bench.data.case import Case
from t2m_bench.errors import DatasetError
from t2m_bench.files import write_text
from t2m_bench.recipe.defaults import keep_decisive, list_dataclass, load_defaults


def write_manifest(path: Path, cases: Sequence[Case]) -> None:
    """Write the cases, readable by the owner alone, by atomic rename."""
    lines = [{"num_cases": len(cases)}, *(_to_json(case) for case in cases)]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines), private=True)


def load_manifest(path: Path) -> list[Case]:
    """Read the cases.

    Raises:
        DatasetError: the file is absent, cut, or a line is not a case; names the line.
    """
    way_out = "Remove the file and prepare again."
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        num_cases = json.loads(first)["num_cases"]
    except FileNotFoundError:
        raise DatasetError(f"{path}: absent. Run `t2m-bench prepare RECIPE`.") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{path}: does not begin with the number of cases ({error!r:.80}). {way_out}") from None
    cases = []
    for number, line in enumerate(lines, start=2):
        try:
            cases.append(_from_json(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{path}, line {number}: not a case ({error!r}). {way_out}") from None
    if len(cases) != num_cases:
        raise DatasetError(f"{path}: {len(cases)} cases, its first line says {num_cases}. {way_out}")
    return cases


def compute_manifest_hash(cases: Sequence[Case]) -> str:
    """Return the sha256 of what the cases are, wherever their folder lies; text counts where given.

    Strata do not: they group results and change none, so that one may be added to a data set that has runs.
    """
    lines = [json.dumps(_to_json(replace(case, strata={})), sort_keys=True) for case in cases]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _to_json(case: Case) -> dict[str, Any]:
    """Return a case's line, without attributes added later that it does not have."""
    values = asdict(case) | {"image_path": case.image_path.as_posix(), "mask_path": case.mask_path.as_posix()}
    return keep_decisive(list_dataclass(case, values), load_defaults("case"))


def _from_json(raw: dict[str, Any]) -> Case:
    spacing = raw["spacing_mm"]
    tuples = {
        "box_xyxy": tuple(raw["box_xyxy"]),
        "flags": tuple(raw["flags"]),
        "spacing_mm": None if spacing is None else tuple(spacing),
    }
    paths = {"image_path": Path(raw["image_path"]), "mask_path": Path(raw["mask_path"])}
    return Case(**(raw | tuples | paths))
