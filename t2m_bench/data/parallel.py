"""Work on many independent items in processes of this machine, results in the order of the items."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(function: Callable[[Item], Result], items: Sequence[Item], worth_a_process: int) -> Iterator[Result]:
    """Yield `function(item)` of each item, in their order.

    Args:
        function: of a module's top level, as processes need it.
        worth_a_process: items below which starting processes costs more than it saves.
    """
    workers = min(len(os.sched_getaffinity(0)), len(items) // max(worth_a_process, 1))
    if workers < 2:
        yield from map(function, items)
        return
    # spawned, not forked: the caller may hold threads, of torch for instance
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        chunk = max(1, min(256, len(items) // (8 * workers)))
        yield from pool.map(partial(function), items, chunksize=chunk)
