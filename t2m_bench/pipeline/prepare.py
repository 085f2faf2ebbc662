"""From a dataset folder to cases, splits and their audit."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from t2m_bench.config import Recipe
from t2m_bench.data.audit import Audit, check_audit, run_audit
from t2m_bench.data.bus_bra import find_root, read_bus_bra
from t2m_bench.data.case import Case
from t2m_bench.data.manifest import compute_manifest_hash, load_manifest, write_manifest
from t2m_bench.data.phantom import write_bus_bra_phantom
from t2m_bench.data.pseudonyms import KEY_NAME, load_or_create_pseudonyms, pseudonymise
from t2m_bench.data.splits import Splits, make_splits
from t2m_bench.models.sam import load_seen_image_hashes
from t2m_bench.pipeline.terminal import Terminal

TEXT_FIELD = "birads"
MANIFEST_NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Prepared:
    """A dataset ready for embedding and training.

    Attributes:
        cases, splits: under pseudonyms; the folder's manifest and splits alone name the source's identifiers.
        manifest_sha256: of the cases as the source names them, so that it is the same wherever it was prepared.
    """

    root: Path
    folder: Path
    cases: list[Case]
    splits: Splits
    audit: Audit
    manifest_sha256: str
    reused: bool


def prepare(recipe: Recipe, runs: Path, terminal: Terminal) -> Prepared:
    """Read the dataset folder (phantoms are written first where the recipe has them), split and audit it.

    A manifest of the same files is reused: the folder's names, sizes and times decide.

    Raises:
        DatasetError: the folder cannot be read as cases.
        LeakageError: the splits leak and the recipe does not allow it.
    """
    _write_phantoms(recipe, terminal)
    root = find_root(recipe.dataset.root)
    stamp = _compute_stamp(root)
    folder = runs / "prepared" / f"{recipe.name}-{stamp[:8]}"
    manifest = folder / MANIFEST_NAME
    reused = manifest.is_file()
    if reused:
        cases = load_manifest(manifest)
        terminal.say(f"reused {manifest}: {len(cases)} cases of {root}")
    else:
        with terminal.watch("reading cases") as advance:
            cases = read_bus_bra(root, advance)
        write_manifest(manifest, cases)
        terminal.say(f"wrote {manifest}: {len(cases)} cases of {root}")
    dataset = recipe.dataset
    splits = make_splits(
        cases,
        test_fold=dataset.test_fold,
        val_fraction=dataset.val_fraction,
        seed=dataset.split_seed,
        field=TEXT_FIELD,
    )
    audit = run_audit(cases, splits, TEXT_FIELD, load_seen_image_hashes(recipe.image_encoder.preset))
    check_audit(audit, recipe.allow_leakage)
    _write_splits(folder / f"splits-fold{dataset.test_fold}-seed{dataset.split_seed}.json", splits, audit)
    hidden = pseudonymise(cases, load_or_create_pseudonyms(runs / KEY_NAME))
    name_of = {case.case_id: private.case_id for case, private in zip(cases, hidden, strict=True)}
    hidden_splits = Splits(*(tuple(name_of[case_id] for case_id in part) for part in vars(splits).values()))
    return Prepared(root, folder, hidden, hidden_splits, audit, compute_manifest_hash(cases), reused)


def _write_phantoms(recipe: Recipe, terminal: Terminal) -> None:
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
    terminal.say(f"phantoms in {recipe.dataset.root}: {phantom.cases} cases, text effect {phantom.text_effect:g}")


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
