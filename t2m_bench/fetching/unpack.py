"""Unpacks a downloaded archive without trusting it."""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from t2m_bench.errors import FetchError
from t2m_bench.files import write_atomically

MAX_BYTES = 50 * 2**30
"""More than any data set here unpacks to; a bomb would not stop there."""


def unpack_zip(archive: Path, folder: Path, on_file: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Unpack below a folder; return the number of files. Each appears whole or not; those that are there are kept.

    Raises:
        FetchError: no ZIP file, or a member that would land elsewhere, is a link, or unpacks to too much; nothing of
            such an archive is written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            for member in members:
                _check(archive, member)
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise FetchError(f"{archive}: would unpack to more than {MAX_BYTES // 2**30} GiB; it is no data set.")
            for done, member in enumerate(members, start=1):
                _extract(opened, member, folder)
                on_file(done, len(members))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise FetchError(f"{archive}: cannot be unpacked ({error}). Remove it and fetch it again.") from None
    return len(members)


def _check(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member whose path leaves the folder, and one that is no ordinary file."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    kind = stat.S_IFMT(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise FetchError(f"{archive}: member {member.filename!r} would land outside the folder; nothing was unpacked.")
    if kind not in (0, stat.S_IFREG):
        raise FetchError(f"{archive}: member {member.filename!r} is a link or a device; nothing was unpacked.")


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    path = folder / PurePosixPath(member.filename.replace("\\", "/"))
    if path.resolve().parent != (folder.resolve() / path.relative_to(folder)).parent:
        raise FetchError(f"{path}: lies behind a link that was there before. Unpack into an empty folder.")
    if path.is_file() and path.stat().st_size == member.file_size and zlib.crc32(path.read_bytes()) == member.CRC:
        return
    with write_atomically(path) as partial, opened.open(member) as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target)  # checks the CRC at its end
