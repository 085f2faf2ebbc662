"""What reading takes of memory, for few and for very many cases."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np

from t2m_bench.embedding.shards.schema import (
    CASES_NAME,
    ShardEntry,
    ShardIndex,
    Signature,
    load_index,
    open_case_index,
    write_cases,
    write_index,
)

CASES_A_FILE, SIDE, NUM_WRITTEN = 128, 64, 96

READ = """
import re, sys
from pathlib import Path
import numpy as np
from t2m_bench.embedding.shards import reader
reader.verify_files = lambda folder: None  # sparse files have nothing to hash
opened, num_files = reader.ShardReader(Path(sys.argv[1])), int(sys.argv[2])
rng, into = np.random.default_rng(0), None
for _ in range(40):
    names = [f"{file:05d}-{rng.integers(8):03d}" for file in rng.integers(num_files, size=16)]
    into = opened.read(names, into)
status = Path("/proc/self/status").read_text()
print(*(re.search(name + r":\\s+(\\d+)", status).group(1) for name in ("RssAnon", "VmHWM")))
"""


def write_sparse(folder: Path, num_files: int) -> None:
    """Write an index over files that say they hold 256 MiB each and take a few KiB; it names the same files again."""
    folder.mkdir()
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # there, but nothing is written in it
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    shapes = {"image_embedding": (256, SIDE, SIDE), "mask_low_res": (4 * SIDE, 4 * SIDE), "box_xyxy": (4,)}
    types = {"image_embedding": np.float16, "mask_low_res": np.uint8, "box_xyxy": np.float32}
    for number in range(NUM_WRITTEN):
        with h5py.File(folder / f"shard-{number:05d}.h5", "w") as file:
            for name, shape in shapes.items():
                space = h5py.h5s.create_simple((CASES_A_FILE, *shape))
                h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(types[name])), space, layout)
    write_large_index(folder, num_files)


def write_large_index(folder: Path, num_files: int) -> ShardIndex:
    """Write an index of many files, and the names of their cases."""
    names = [f"{number:05d}-{row:03d}" for number in range(num_files) for row in range(CASES_A_FILE)]
    entries = (
        ShardEntry(f"shard-{number % NUM_WRITTEN:05d}.h5", CASES_A_FILE, 0, f"{number:064x}")
        for number in range(num_files)
    )
    index = ShardIndex(Signature("vit_b", "", "", ""), write_cases(folder, names), tuple(entries))
    write_index(folder, index)
    return index


def measure_mib(folder: Path, num_files: int) -> tuple[float, float]:
    """Return the private memory of a new process that has read at random, and its peak with all that is mapped, MiB."""
    command = [sys.executable, "-c", READ, str(folder), str(num_files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    private, peak = (int(number) / 1024 for number in done.stdout.split())
    return private, peak


def test_the_names_of_cases_are_neither_read_at_opening_nor_copied_by_a_search(tmp_path: Path) -> None:
    num_files = 1000
    write_large_index(tmp_path, num_files)
    tracemalloc.start()
    try:
        places = open_case_index(tmp_path, load_index(tmp_path))
        _, opening = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        found = places.find(["00999-127", "00000-000", "00500-064", "a-name-that-is-longer-than-all"])
        _, searching = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.tolist() == [num_files * CASES_A_FILE - 1, 0, 500 * CASES_A_FILE + 64, -1]
    assert opening < 1000 * num_files  # of each file, not of each case: that would be 128 times its name
    assert searching - before < 10_000


def test_three_terabytes_take_the_memory_of_one_gigabyte(tmp_path: Path) -> None:
    write_sparse(tmp_path / "small", num_files=4)
    write_sparse(tmp_path / "large", num_files=12_000)
    small_private, small_peak = measure_mib(tmp_path / "small", 4)
    large_private, large_peak = measure_mib(tmp_path / "large", 12_000)
    names_mib = (tmp_path / "large" / CASES_NAME).stat().st_size / 2**20
    # 1.5 million cases: the entries of 12,000 files are private (4 MiB), the names of the cases are mapped (19 MiB)
    assert large_private <= 1.1 * small_private
    assert large_peak <= 1.1 * small_peak + names_mib
