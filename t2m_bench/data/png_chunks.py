"""Checksums of a PNG file, which Pillow does not read with the pixels: a flipped bit would be another pixel."""

import struct
import zlib
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD, CHECKSUM = 8, 4
"""Bytes before a chunk's data, which are its length and its kind, and after it."""


def check_chunks(path: Path) -> None:
    """Compare the checksum of each chunk up to the last one; what follows that is no part of the image.

    Raises:
        ValueError: a checksum is another, or the file ends too early.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError("it does not begin as a PNG file")
        kind = b""
        while kind != b"IEND":
            head = stream.read(HEAD)
            if len(head) < HEAD:
                raise ValueError("it ends before its last chunk")
            length, kind = struct.unpack(">I4s", head)
            data, found = stream.read(length), stream.read(CHECKSUM)
            if len(data) < length or len(found) < CHECKSUM:
                raise ValueError("it ends inside a chunk")
            if found != struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))):
                raise ValueError(f"the checksum of its chunk {kind.decode('latin-1')!a} is another, so it is damaged")
