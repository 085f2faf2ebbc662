"""One file over HTTP: continued where it was cut, checked before it gets its name."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from t2m_bench.errors import FetchError

CHUNK_BYTES = 2**16
"""Bytes that a broken connection loses at most."""
TIMEOUT_S = (10.0, 60.0)
"""Seconds to wait for a connection, and between two pieces."""

ATTEMPTS = 5
WAIT_S = 1.0
"""Before the second attempt; twice as long before each further one."""

RANGE_REFUSED = 416
PARTIAL_CONTENT = 206
OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """A file to fetch; size and MD5 are None where none is published."""

    name: str
    url: str
    num_bytes: int | None
    md5: str | None


def download(source: Source, path: Path, on_bytes: OnBytes = lambda done, total: None, wait_s: float = WAIT_S) -> None:
    """Fetch a file; `path` appears whole or not at all.

    What is there of an earlier attempt (`NAME.partial`) is continued where size or checksum are known beforehand:
    without either nobody could tell whether both parts are of the same file.

    Args:
        on_bytes: called with (bytes there, bytes in all, 0 where that is not known).

    Raises:
        FetchError: the server cannot be reached or refuses, or size or checksum are wrong (the piece is then removed).
    """
    partial = path.with_name(path.name + ".partial")
    for attempt in range(ATTEMPTS):
        try:
            _continue(source, partial, on_bytes)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if attempt == ATTEMPTS - 1:
                there = partial.stat().st_size if partial.is_file() else 0
                raise FetchError(
                    f"{source.url}: the connection failed {ATTEMPTS} times ({error}); {there:,} bytes are kept. "
                    "Run the same command again, on a machine with a network."
                ) from None
            time.sleep(wait_s * 2**attempt)
    _check(source, partial)
    os.replace(partial, path)


def _continue(source: Source, partial: Path, on_bytes: OnBytes) -> None:
    is_known = source.num_bytes is not None or source.md5 is not None
    there = partial.stat().st_size if is_known and partial.is_file() else 0
    if source.num_bytes is not None and there == source.num_bytes:
        return
    asked = {"Range": f"bytes={there}-"} if there else {}
    # identity: a byte range of a compressed answer would be of other bytes
    headers = {"Accept-Encoding": "identity", **asked}
    with requests.get(source.url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == RANGE_REFUSED:  # all of it is there, or the file has changed: the check will tell
            return
        if not answer.ok:
            raise FetchError(f"{source.url}: the server answers {answer.status_code} {answer.reason}. Try again later.")
        continued = answer.status_code == PARTIAL_CONTENT
        start = there if continued else 0
        total = start + int(answer.headers.get("Content-Length", 0)) if "Content-Length" in answer.headers else 0
        with partial.open("ab" if continued else "wb") as stream:
            done = start
            for chunk in answer.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                done += len(chunk)
                on_bytes(done, total)
    if total and done < total:
        raise requests.ConnectionError(f"{done} of {total} bytes came")


def _check(source: Source, partial: Path) -> None:
    found = partial.stat().st_size
    if source.num_bytes is not None and found != source.num_bytes:
        partial.unlink()
        raise FetchError(f"{source.url}: {found:,} bytes, not {source.num_bytes:,}: another file. Fetch it again.")
    if source.md5 is None:
        return
    with partial.open("rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").hexdigest()
    if md5 != source.md5:
        partial.unlink()
        raise FetchError(f"{source.url}: MD5 {md5}, not {source.md5}: damaged or altered. Fetch it again.")
