"""The stages behind the verbs: each makes what it needs and lacks, and reuses what is valid, saying which."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from t2m_bench.config import Recipe
from t2m_bench.data.audit import Audit, check_audit, run_audit
from t2m_bench.data.bus_bra import find_root, read_bus_bra
from t2m_bench.data.case import Case
from t2m_bench.data.manifest import compute_manifest_hash, load_manifest, write_manifest
from t2m_bench.data.phantom import write_bus_bra_phantom
from t2m_bench.data.splits import Splits, make_splits

TEXT_FIELD = "birads"
MANIFEST_NAME = "manifest.jsonl"

Say = Callable[[str], None]
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """A dataset ready for embedding and training."""

    root: Path
    folder: Path
    cases: list[Case]
    splits: Splits
    audit: Audit
    manifest_sha256: str
    reused: bool


def prepare(recipe: Recipe, runs: Path, say: Say, advance: Advance) -> Prepared:
    """Read the dataset folder (phantoms are written first where the recipe has them), split and audit it.

    A manifest of the same files is reused: the folder's names, sizes and times decide.

    Raises:
        DatasetError: the folder cannot be read as cases.
        LeakageError: the splits leak and the recipe does not allow it.
    """
    _write_phantoms(recipe, say)
    root = find_root(recipe.dataset.root)
    stamp = _compute_stamp(root)
    folder = runs / "prepared" / f"{recipe.name}-{stamp[:8]}"
    manifest = folder / MANIFEST_NAME
    reused = manifest.is_file()
    if reused:
        cases = load_manifest(manifest)
        say(f"reused {manifest}: {len(cases)} cases of {root}")
    else:
        cases = read_bus_bra(root, advance)
        write_manifest(manifest, cases)
        say(f"wrote {manifest}: {len(cases)} cases of {root}")
    dataset = recipe.dataset
    splits = make_splits(
        cases, test_fold=dataset.test_fold, val_fraction=dataset.val_fraction, seed=recipe.seed, field=TEXT_FIELD
    )
    audit = run_audit(cases, splits, TEXT_FIELD)
    check_audit(audit, recipe.allow_leakage)
    _write_splits(folder / f"splits-fold{dataset.test_fold}-seed{recipe.seed}.json", splits, audit)
    return Prepared(root, folder, cases, splits, audit, compute_manifest_hash(cases), reused)


def _write_phantoms(recipe: Recipe, say: Say) -> None:
    phantom = recipe.dataset.phantom
    if phantom is None:
        return
    write_bus_bra_phantom(
        recipe.dataset.root,
        num_cases=phantom.cases,
        seed=phantom.seed,
        text_effect=phantom.text_effect,
        text_visible=phantom.text_visible,
    )
    say(f"phantoms in {recipe.dataset.root}: {phantom.cases} cases, text effect {phantom.text_effect:g}")


def _compute_stamp(root: Path) -> str:
    """Return a sha256 of the folder's path, file names, sizes and times."""
    digest = hashlib.sha256(str(root.resolve()).encode())
    files = [root / "bus_data.csv", root / "5-fold-cv.csv", *sorted(root.glob("*/*.png"))]
    for path in files:
        if path.is_file():
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write_splits(path: Path, splits: Splits, audit: Audit) -> None:
    """Write the splits and the audit for this fold; they name cases, so only the owner may read them."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump({"splits": asdict(splits), "audit": asdict(audit)}, stream, indent=1)
    os.replace(partial, path)
