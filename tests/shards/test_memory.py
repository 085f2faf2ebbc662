"""What reading takes of memory, for few and for very many cases."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from t2m_bench.shards.schema import ShardEntry, ShardIndex, Signature, write_index

CASES_A_FILE, SIDE = 128, 64

READ = """
import re, sys
from pathlib import Path
import numpy as np
from t2m_bench.shards import reader
reader.verify_files = lambda folder: None  # sparse files have nothing to hash
opened = reader.ShardReader(Path(sys.argv[1]))
def peak_kib():
    return re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)
before = peak_kib()
names, rng = opened.case_ids, np.random.default_rng(0)
into = None
for _ in range(200):
    batch = opened.read([names[row] for row in rng.integers(len(names), size=16)], into)
    into = into or batch
after = peak_kib()
print(before, after)
"""


def write_sparse(folder: Path, num_files: int) -> None:
    """Write an index over files that say they hold 256 MiB each and take a few KiB: nothing is written in them."""
    folder.mkdir()
    first = folder / "shard-00000.h5"
    with h5py.File(first, "w") as file:
        file.create_dataset("image_embedding", (CASES_A_FILE, 256, SIDE, SIDE), np.float16)
        file.create_dataset("mask_low_res", (CASES_A_FILE, 4 * SIDE, 4 * SIDE), np.uint8)
        file.create_dataset("box_xyxy", (CASES_A_FILE, 4), np.float32)
    content, entries = first.read_bytes(), []
    for number in range(num_files):
        name = f"shard-{number:05d}.h5"
        (folder / name).write_bytes(content)
        names = tuple(f"{number:05d}-{row:03d}" for row in range(CASES_A_FILE))
        entries.append(ShardEntry(name, names, len(content), ""))
    write_index(folder, ShardIndex(Signature("vit_b", "", "", ""), tuple(entries)))


def measure_mib(folder: Path) -> tuple[float, float]:
    """Return the peak memory of a new process after opening the shards, and after reading from them, in MiB."""
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    before, after = (int(number) / 1024 for number in done.stdout.split())
    return before, after


@pytest.mark.soak
def test_three_terabytes_take_the_memory_of_one_gigabyte_and_of_their_index(tmp_path: Path) -> None:
    write_sparse(tmp_path / "small", num_files=4)
    write_sparse(tmp_path / "large", num_files=12_000)
    small_before, small_after = measure_mib(tmp_path / "small")
    large_before, large_after = measure_mib(tmp_path / "large")
    num_cases = 12_000 * CASES_A_FILE
    assert (large_before - small_before) * 2**20 < 300 * num_cases  # the index, some 220 bytes a case
    # handles of 64 files instead of 4; the index's own peak lies in `before` and hides smaller growth
    assert large_after - large_before <= 0.05 * small_after + (small_after - small_before)
