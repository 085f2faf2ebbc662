"""Run small benchmarks with two checkouts and compare every value of their results tables bit for bit.

    python tests/checks/compare_commits.py OLD [NEW]

OLD and NEW are commits, or folders that hold a checkout; NEW is the working tree where it is not given. Nothing but the
command line is used, so modules may move between the two. A key of a recipe that has another name in NEW is given by
`--renamed OLD=NEW`. The last line is the verdict; the exit code is 0 where all values are equal, else 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[2]

KEY = ["arm", "seed", "fold", "condition", "box", "case"]

PSEUDONYMS = "0123456789abcdef" * 4
"""The key of both checkouts' pseudonyms, which would be drawn otherwise."""

SHARED = (
    "bench.conditions=[right,wrong,swap,other_patient,paraphrase,unknown,random,predicted]",
    "bench.boxes=[tight,jitter_20,loose_20]",
    "bench.seeds=[0]",
    "optim.warmup_steps=2",
    "cluster.num_train_workers=0",
    "cluster.num_embed_workers=0",
)

BENCHES: Mapping[str, Sequence[str]] = {
    "launch/demo.yaml": (
        "dataset.root=phantoms",
        "dataset.phantom.cases=60",
        "optim.epochs=2",
        "bench.arms=[text_free,text_train_only,label,shuffled,gated,hierarchical,tuned_decoder]",
        *SHARED,
    ),
    "launch/nsclc.yaml": (
        "dataset.root=lungs",
        "dataset.phantom={cases: 12, seed: 2}",
        "dataset.ct.slices_per_patient=2",
        "optim.epochs=1",
        "bench.arms=[text_free,hierarchical]",
        *SHARED,
    ),
}
"""Recipe of the checkout -> overrides."""


def main() -> int:
    """Compare two checkouts; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="commit, or folder of a checkout")
    parser.add_argument("new", nargs="?", default=str(REPOSITORY), help="as OLD; the working tree where absent")
    parser.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW", help="a recipe's key in NEW")
    arguments = parser.parse_args()
    renamed = dict(pair.split("=", 1) for pair in arguments.renamed)
    with tempfile.TemporaryDirectory(prefix="compare-commits-") as scratch:
        made = []
        for side, commit, names in (("old", arguments.old, {}), ("new", arguments.new, renamed)):
            folder = Path(scratch, side)
            with open_checkout(commit, folder / "checkout") as checkout:
                made.append({recipe: run_bench(checkout, folder, recipe, names) for recipe in BENCHES})
        differences = [found for recipe in BENCHES for found in compare_runs(made[0][recipe], made[1][recipe])]
        for found in differences:
            print(f"differs: {found}")
        num_rows = sum(len(load_rows(runs)) for runs in made[0].values())
    verdict = f"DIFFERENT in {len(differences)} places" if differences else f"EQUAL bit for bit, {num_rows:,} rows"
    print(f"{arguments.old} against {arguments.new}: {verdict}")
    return 1 if differences else 0


@contextmanager
def open_checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Yield a folder that holds a commit's files, which is removed after; a folder is taken as it is."""
    if (Path(commit) / "t2m_bench").is_dir():
        yield Path(commit).resolve()
        return
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def run_bench(checkout: Path, folder: Path, recipe: str, renamed: Mapping[str, str]) -> Path:
    """Run a recipe's benchmark with a checkout's code; return the folder of its runs.

    Raises:
        SystemExit: another package than the checkout's is imported, or the benchmark fails.
    """
    runs = folder / "runs" / Path(recipe).stem
    runs.mkdir(parents=True)
    (runs / "pseudonyms.key").write_text(PSEUDONYMS + "\n", encoding="utf-8")
    (runs / "pseudonyms.key").chmod(0o600)
    overrides = [rename_key(override, renamed) for override in BENCHES[recipe]]
    code = "import t2m_bench; print(t2m_bench.__file__, flush=True); from t2m_bench.cli import main; main()"
    command = [sys.executable, "-c", code, "bench", str(checkout / recipe), *overrides, "--runs", str(runs)]
    settings = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{recipe} failed with {checkout}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    if not Path(done.stdout.splitlines()[0]).is_relative_to(checkout):
        sys.exit(f"{done.stdout.splitlines()[0]} was imported, not the package in {checkout}")
    return runs


def rename_key(override: str, renamed: Mapping[str, str]) -> str:
    key, value = override.split("=", 1)
    return f"{renamed.get(key, key)}={value}"


def compare_runs(old: Path, new: Path) -> list[str]:
    """Return what differs between the results below two folders: names of runs, rows, columns, values."""
    differences = []
    gone, added = list_folders(old) - list_folders(new), list_folders(new) - list_folders(old)
    if gone or added:
        differences.append(f"{old.name}: folders {sorted(gone)} became {sorted(added)}")
    one, other = load_rows(old), load_rows(new)
    if not one.index.equals(other.index):
        less, more = one.index.difference(other.index), other.index.difference(one.index)
        first = next(iter([*less, *more]), "")
        differences.append(f"{old.name}: {len(less)} rows are gone and {len(more)} were added, {first} first")
        shared = one.index.intersection(other.index)
        one, other = one.loc[shared], other.loc[shared]
    for column in one.columns:
        if column not in other.columns:
            differences.append(f"{old.name}: column {column} is gone")
            continue
        wrong = find_different_bits(one[column], other[column])
        if wrong.any():
            where = dict(zip(KEY, one.index[wrong.argmax()], strict=True))
            was, now = one[column].iloc[wrong.argmax()], other[column].iloc[wrong.argmax()]
            differences.append(f"{old.name}: {column} of {wrong.sum()} rows, first {was!r} became {now!r} in {where}")
    return differences


def list_folders(runs: Path) -> set[str]:
    """Return the folders that hold results, such as `demo-07f04d43/gated-fold1-seed0-45e6142d`."""
    return {path.parent.relative_to(runs).as_posix() for path in runs.glob("*/*/cases.parquet")}


def load_rows(runs: Path) -> pd.DataFrame:
    """Read all results tables below a folder as one, sorted by its key.

    Raises:
        SystemExit: there are none.
    """
    files = sorted(runs.glob("*/*/cases.parquet"))
    if not files:
        sys.exit(f"{runs}: no results")
    return pd.concat([pd.read_parquet(file) for file in files]).set_index(KEY).sort_index()


def find_different_bits(one: pd.Series, other: pd.Series) -> "pd.Series[bool]":
    """Return where two columns differ; a NaN equals any NaN, and 0.0 is not -0.0."""
    if one.dtype != other.dtype:
        return pd.Series(True, index=range(len(one)))
    if one.dtype == "float64":
        differs = one.to_numpy().view("int64") != other.to_numpy().view("int64")
        return pd.Series(differs & ~(one.isna().to_numpy() & other.isna().to_numpy()))
    return pd.Series(one.to_numpy() != other.to_numpy())


if __name__ == "__main__":
    sys.exit(main())
