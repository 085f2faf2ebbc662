"""What a test asks of a message: the names and values in it, not its wording."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def check_names(message: object, *parts: object) -> None:
    """Assert that a message names each part as a whole word: a field, a file, a row or a value, in any order."""
    missing = [part for part in parts if not is_named(str(message), str(part))]
    assert not missing, f"{missing} not named in: {message}"


def is_named(message: str, part: str) -> bool:
    """Whether a part stands in a message on its own: 3 is not named by "0.3", nor `heads` by "overheads"."""
    before = r"(?<!\w)(?<!\d\.)" if re.match(r"\w", part) else ""
    after = r"(?!\w)(?!\.\d)" if re.search(r"\w$", part) else ""
    return re.search(before + re.escape(part) + after, message) is not None


@contextmanager
def raises_naming(kind: type[BaseException], *parts: object) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Assert that the body raises an exception of this kind whose message names each part."""
    with pytest.raises(kind) as caught:
        yield caught
    check_names(caught.value, *parts)
