"""Making the next of several things in a thread while the present one is used."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], items: Sequence[Item]) -> Generator[Made]:
    """Yield make(item) of each item in turn; while one is used, the next is made. What `make` raises is raised here."""
    with ThreadPoolExecutor(max_workers=1) as maker:
        coming = [maker.submit(make, item) for item in items[:1]]
        for item in items[1:]:
            made = coming.pop().result()
            coming.append(maker.submit(make, item))
            yield made
        for last in coming:
            yield last.result()
