"""Damaged and odd tables, images and headers: each is read, counted or refused by one message, and nothing hangs.

Whatever a reference reader refuses (tests/helpers/reference_readers.py), ours refuses too, and takes nothing otherwise.

`make test` draws for some seconds with a new seed, which is printed; `make soak` for five minutes a kind.
T2M_FUZZ_SEED draws the same again.
"""

import io
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from reference_readers import find_header_faults, find_image_fault, read_with_pandas
from scans import make_scan

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.datasets.nsclc.clinical import find_clinical_table, read_clinical
from t2m_bench.data.datasets.nsclc.dicom_series import CT, TAGS, Header, read_header
from t2m_bench.data.datasets.nsclc.reader import SliceRule, read_nsclc
from t2m_bench.data.images import load_grey, load_mask_file
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.data.phantoms.nsclc_dicom import Style, write_scan
from t2m_bench.data.tables import read_table
from t2m_bench.errors import DatasetError

SECONDS, SOAK_SECONDS = 10 / 3, 300.0
LONGEST_S = 20
"""Seconds after which a trial counts as hanging."""

SEED = int(os.environ.get("T2M_FUZZ_SEED") or time.time_ns() % 1_000_000)

Trial = Callable[[random.Random], None]


class HangError(Exception):
    """A trial took too long."""


@contextmanager
def limit_time() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def repeat(trial: Trial, seconds: float) -> None:
    """Try with one seed after another; only DatasetError may leave a trial, its message in one line."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end or number < 5:
        seed = SEED + number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom and Pillow say much about damaged files
            warnings.filterwarnings("error", category=RuntimeWarning)
            try:
                with limit_time():
                    trial(random.Random(seed))
            except DatasetError as error:
                message = str(error)
            except BaseException as error:
                error.add_note(f"T2M_FUZZ_SEED={seed}")
                raise
            else:
                message = "none"
        assert len(message.splitlines()) == 1, f"T2M_FUZZ_SEED={seed}: {message}"
        number += 1
    print(f"fuzz: {number} trials from seed {SEED}")


CELLS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "3.0",
        "1e3",
        "nan",
        "NaN",
        "inf",
        "²",
        "𝟛",
        "unknown",
        "T1c",
        "bus_0001-l",
        "=1+1",
        "9" * 30,
    ),
    *('"', '""', "'", ",", ";", "\t", "\n", "\r", "\ufeff", "\u00a0", "\u2028", "Müller", "../../etc", "x" * 500),
    *("[1,2,3,4]", "[]", "[" * 300, "-" * 5000, "[1e999,1,1,1]", f"[{'9' * 400},1,1,1]", "__import__('os')"),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-7")


def spoil_table(raw: bytes, rng: random.Random) -> bytes:
    rows = [row.split(",") for row in raw.decode().splitlines()]
    for _ in range(rng.randrange(3)):
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(CELLS)
    kind = rng.randrange(10)
    if kind == 0:
        rng.shuffle(rows[0])
    elif kind == 1:
        order = rng.sample(range(len(rows[0])), len(rows[0]))
        rows = [[row[place] if place < len(row) else "" for place in order] for row in rows]
    elif kind == 2:
        rows.insert(rng.randrange(len(rows) + 1), [""] * rng.randrange(12))
    elif kind == 3:
        rng.choice(rows).append("")
    elif kind == 4:
        del rows[rng.randrange(len(rows))]
    elif kind == 5:
        rows.append(list(rng.choice(rows)))
    elif kind == 6:
        rng.choice(rows).pop()
    text = rng.choice(("\n", "\n", "\r\n", "\r")).join(rng.choice((",", ",", ";", "\t", "|")).join(row) for row in rows)
    if rng.random() < 0.2:
        text = text.replace(",", rng.choice((";", "\t", " , ", "|")))
    encoded = text.encode(rng.choice(("utf-8", *ENCODINGS)), errors="replace")
    return spoil_bytes(encoded, rng) if rng.random() < 0.2 else encoded


def spoil_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Change, cut, repeat or insert some bytes."""
    data = bytearray(raw)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            data[place:place] = rng.randbytes(rng.randrange(1, 20))
        elif kind == 2:
            del data[place : place + rng.randrange(1, 20)]
        elif kind == 3 and data:
            data[min(place, len(data) - 1)] = rng.randrange(256)
        else:
            data[place:place] = data[: rng.randrange(60)]
    return bytes(data)


CLINICAL = b"""Case ID,Age,Pathological T stage,Histology
R01-001,34,T1a,Adenocarcinoma
R01-002,Not Collected,Not Collected,"NSCLC NOS (not otherwise specified)"
R01-003,70,T4,Squamous cell carcinoma
"""


@pytest.fixture(scope="module")
def bus_bra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "data"
    write_bus_bra_phantom(folder, num_cases=5, seed=1, text_effect=1.0)
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    write_scan(folder, make_scan(), Style())
    return folder


CLINICAL_COLUMNS = ("Case ID", "Pathological T stage", "Histology")
COLUMNS = {"bus_data.csv": ("ID", "Case", "BIRADS"), "5-fold-cv.csv": ("ID", "kFold")}


def compare_tables(path: Path, columns: tuple[str, ...]) -> None:
    """Compare a table that we take with pandas' reading of it; what we refuse is no matter of a reference."""
    with suppress(DatasetError):
        ours = read_table(path, columns)
        theirs = read_with_pandas(path, columns)
        assert ours[list(columns)].to_numpy().tolist() == theirs, path.read_bytes()


def fuzz_tables(folder: Path, bus_bra: Path) -> Trial:
    root = Path(shutil.copytree(bus_bra, folder / "tables"))
    tables = {name: (bus_bra / name).read_bytes() for name in ("bus_data.csv", "5-fold-cv.csv")}
    clinical = folder / "clinical"
    clinical.mkdir()

    def trial(rng: random.Random) -> None:
        name = rng.choice(("clinical", *tables))
        if name == "clinical":
            (clinical / "t.csv").write_bytes(spoil_table(CLINICAL, rng))
            compare_tables(clinical / "t.csv", CLINICAL_COLUMNS)
            patients = read_clinical(find_clinical_table(clinical))
            assert all(patients)
            return
        for other, raw in tables.items():
            (root / other).write_bytes(raw)
        (root / name).write_bytes(spoil_table(tables[name], rng))
        compare_tables(root / name, COLUMNS[name])
        cases = read_bus_bra(root)
        assert len({case.case_id for case in cases}) == len(cases) == 5
        assert all(case.patient_id and case.text_fields["birads"] in {"2", "3", "4", "5", "unknown"} for case in cases)

    return trial


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
COLUMN_PATTERNS = ("PNG", "PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000")


def fuzz_images(folder: Path) -> Trial:
    path = folder / "image.png"

    def trial(rng: random.Random) -> None:
        numbers = np.random.default_rng(rng.randrange(2**32))
        pixels = numbers.integers(0, 256, (20, 30)).astype(np.uint8)
        if rng.random() < 0.5:
            pixels = ((pixels > 128) * rng.choice((1, 2, 128, 255))).astype(np.uint8)
        image = Image.fromarray(pixels)
        mode = rng.choice(MODES)
        image = (
            Image.fromarray(pixels.astype(np.uint16) * rng.choice((1, 16, 257)))
            if mode == "I;16"
            else image.convert(mode)
        )
        exif = Image.Exif()
        if rng.random() < 0.3:
            exif[274] = rng.choice((0, 1, 3, 6, 9))
        stream = io.BytesIO()
        try:
            image.save(stream, rng.choice(COLUMN_PATTERNS), exif=exif)
        except (OSError, ValueError, KeyError, TypeError):  # no such mode in such a form
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
        path.write_bytes(spoil_bytes(stream.getvalue(), rng) if rng.random() < 0.7 else stream.getvalue())
        read_image(path, rng)
        fault = find_image_fault(path.read_bytes())
        assert not fault, f"taken in spite of {fault}"

    return trial


def read_image(path: Path, rng: random.Random) -> None:
    """Read a file as an image or as a mask."""
    if rng.random() < 0.5:
        assert load_grey(path).dtype == np.uint8
    else:
        mask = load_mask_file(path).mask
        assert mask.dtype == bool
        assert mask.ndim == 2


VALUES = (
    *(b"", b"abc ", b"1,25", b"1_0 ", b"-1", b"0 ", b"1e99999 ", b"nan ", b"\xff\xfe", b"\0\0", b"9" * 64),
    *(b"\\\\", b"1\\2\\3\\4\\5\\6 "),
)
VRS = ("DS", "IS", "LO", "UI", "US", "SQ", "FD", "OB", "UN", "CS", "DA")
RULE = SliceRule((1500.0, -600.0), 2, 16, 0)


def spoil_header(dataset: pydicom.Dataset, rng: random.Random) -> None:
    keywords = [*TAGS, "SegmentationType", "PixelRepresentation", "HighBit", "MaximumFractionalValue"]
    present = [keyword for keyword in keywords if keyword in dataset]
    for keyword in rng.sample(present, min(len(present), rng.randrange(1, 4))):
        kind = rng.randrange(4)
        if kind == 0:
            del dataset[keyword]
            continue
        tag, found = dataset[keyword].tag, dataset[keyword].VR
        vr = found if kind < 3 else rng.choice(VRS)
        value = b"" if kind == 1 else rng.choice(VALUES)
        value += b" " * (len(value) % 2)
        dataset[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)


def spoil_sequences(dataset: pydicom.Dataset, rng: random.Random) -> None:
    """Take something away from a random item of a random sequence."""
    for _ in range(4):
        sequences = [element for element in dataset if element.VR == "SQ" and element.value]
        if not sequences or rng.random() < 0.2:
            break
        dataset = rng.choice(rng.choice(sequences).value)
    tags = list(dataset.keys())
    if tags:
        del dataset[rng.choice(tags)]


def fuzz_dicom(folder: Path, scan: Path) -> Trial:
    root = folder / "dicom"
    shutil.copytree(scan, root)
    (root / "t.csv").write_bytes(CLINICAL)
    files = {path: path.read_bytes() for path in sorted(root.rglob("*.dcm"))}
    seg = next(path for path in files if read_header(path).modality == "SEG")

    def trial(rng: random.Random) -> None:
        path = seg if rng.random() < 0.3 else rng.choice(list(files))
        try:
            if rng.random() < 0.4:
                path.write_bytes(spoil_bytes(files[path], rng))
            else:
                dataset = pydicom.dcmread(io.BytesIO(files[path]))
                (spoil_sequences if path == seg and rng.random() < 0.6 else spoil_header)(dataset, rng)
                try:
                    dataset.save_as(path)
                except Exception:  # what pydicom does not write is no trial
                    path.write_bytes(files[path])
            if rng.random() < 0.7:
                header = read_header(path)
                if isinstance(header, Header) and header.modality == CT:
                    faults = find_header_faults(path, header)
                    assert not faults, faults
                return
            cases, excluded = read_nsclc(root, None, folder / "out", RULE)
            assert cases or excluded
            assert all(np.isfinite(case.spacing_mm).all() for case in cases)
        finally:
            path.write_bytes(files[path])

    return trial


KINDS: dict[str, Callable[[Path, Path, Path], Trial]] = {
    "tables": lambda folder, bus_bra, scan: fuzz_tables(folder, bus_bra),
    "images": lambda folder, bus_bra, scan: fuzz_images(folder),
    "headers": lambda folder, bus_bra, scan: fuzz_dicom(folder, scan),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(SOAK_SECONDS, marks=pytest.mark.soak)])
def test_odd_and_damaged_input_is_read_counted_or_refused(
    kind: str, seconds: float, tmp_path: Path, bus_bra: Path, scan: Path
) -> None:
    repeat(KINDS[kind](tmp_path, bus_bra, scan), seconds)
