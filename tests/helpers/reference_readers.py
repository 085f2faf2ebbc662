"""Readers that are not ours, and strict: what they refuse, ours must refuse too, and what both take must be equal.

PNG by the chunks of its specification and by Pillow's `verify`, tables by pandas' parser in C, DICOM headers by pydicom
with its own validation.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pydicom
from PIL import Image

from t2m_bench.data.datasets.nsclc.dicom_series import Header

PNG = b"\x89PNG\r\n\x1a\n"
# phrase: the pattern of a row without a word, in a text that is no message
DELIMITERS_ALONE = re.compile(r"(?:(?<=[\r\n])|^)[,;\t ]+(?=[\r\n]|$)")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type of PNG -> samples a pixel."""


def find_image_fault(raw: bytes) -> str:
    """Return what a strict reader objects to in the bytes of an image; empty where nothing."""
    try:
        with Image.open(io.BytesIO(raw)) as image:
            form = image.format
            image.verify()
    except Exception as error:  # as many kinds as there are codecs
        return f"Pillow: {error!r}"
    return _find_png_fault(raw) if form == "PNG" else ""


def _find_png_fault(raw: bytes) -> str:
    header, pixels, place = b"", b"", len(PNG)
    if raw[:place] != PNG:
        return "the signature is another"
    while True:
        if len(raw) < place + 12:
            return "there is no last chunk"
        length = int.from_bytes(raw[place : place + 4], "big")
        kind, data = raw[place + 4 : place + 8], raw[place + 8 : place + 8 + length]
        stated = raw[place + 8 + length : place + 12 + length]
        if len(stated) < 4 or zlib.crc32(kind + data) != int.from_bytes(stated, "big"):
            return f"the checksum of {kind!r} is another"
        header = data if kind == b"IHDR" else header
        pixels += data if kind == b"IDAT" else b""
        if kind == b"IEND":
            break
        place += 12 + length
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    stream = zlib.decompressobj()
    try:
        filtered = stream.decompress(pixels)
    except zlib.error as error:
        return f"the pixels: {error}"
    rows = height * (1 + (width * depth * CHANNELS[colour] + 7) // 8)
    if not stream.eof or (not interlaced and len(filtered) < rows):
        return f"{len(filtered)} bytes of pixels in place of {rows}"
    return ""


def read_with_pandas(path: Path, columns: Sequence[str]) -> list[list[str]] | None:
    """Return the cells of some columns, without spaces around them and without blank rows; None: no delimiter fits.

    Rows of delimiters alone, of which spreadsheets write any number, say nothing and are read past.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    for said in (text, DELIMITERS_ALONE.sub("", text)):
        for delimiter in (",", ";", "\t"):
            found = _read_with_delimiter(said, delimiter, columns)
            if found is not None:
                return found
    return None


def _read_with_delimiter(text: str, delimiter: str, columns: Sequence[str]) -> list[list[str]] | None:
    try:
        table = pd.read_csv(
            io.StringIO(text, newline=""), sep=delimiter, dtype=str, keep_default_na=False, engine="c",
            skipinitialspace=True, on_bad_lines="error",
        )  # fmt: skip
    except ValueError:  # pandas' own are of this kind
        return None
    table.columns = table.columns.str.strip()
    if not isinstance(table.index, pd.RangeIndex) or not set(columns) <= set(table.columns):
        return None
    cells = table.apply(lambda column: column.str.strip())
    return [[str(row[name]) for name in columns] for row in cells[(cells != "").any(axis=1)].to_dict("records")]


@contextmanager
def validate_strictly() -> Iterator[None]:
    """Let pydicom raise for every value that is not as DICOM has it."""
    before = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    try:
        yield
    finally:
        pydicom.config.settings.reading_validation_mode = before


OF_A_SLICE = {
    "ImagePositionPatient": "position",
    "ImageOrientationPatient": "orientation",
    "PixelSpacing": "spacing_mm",
    "Rows": "rows",
    "Columns": "columns",
    "RescaleSlope": "slope",
    "RescaleIntercept": "intercept",
}
"""Tags that say where a slice's pixels lie and what they mean, and our names for them."""


def find_header_faults(path: Path, header: Header) -> list[str]:
    """Return each tag of a slice that we read otherwise than pydicom, or that pydicom refuses and we do not."""
    faults = []
    with validate_strictly():
        found = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword, ours in OF_A_SLICE.items():
            taken = getattr(header, ours)
            try:
                value = found.get(keyword)
                theirs = tuple(map(float, value)) if isinstance(taken, tuple) else float(value)
            except Exception as error:  # as many kinds as there are types of values
                if taken is not None and not _is_merely_long(error):
                    faults.append(f"{keyword}: {taken} was taken; pydicom: {error}")
            else:
                if taken is not None and theirs != taken:
                    faults.append(f"{keyword}: {taken} was taken, pydicom has {theirs}")
    return faults


def _is_merely_long(error: Exception) -> bool:
    """Return whether a number has more than the 16 characters of DICOM: scanners write such, and it is the number."""
    return "length of 16" in str(error) or "16 characters" in str(error)
