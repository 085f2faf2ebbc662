"""Open tables: what others may add, found by name among ours and those of installed packages.

An entry is a frozen dataclass with a `name`. It names its code as "module:object", which is imported when it is used,
so that reading a table imports nothing heavy. Packages outside add entries through entry points: one for each, whose
name is the entry's and whose value is the entry itself.
"""

import difflib
import importlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from t2m_bench.errors import RecipeError


class Named(Protocol):
    """An entry of a table."""

    @property
    def name(self) -> str: ...


EntryT = TypeVar("EntryT", bound=Named)


class Registry(Generic[EntryT]):
    """One table.

    Args:
        what: the kind of its entries, in the singular, as messages name it ("image encoder").
        group: of the entry points by which packages outside add to it ("t2m_bench.image_encoders").
        entries: ours, in the order in which lists show them.
    """

    def __init__(self, what: str, group: str, entries: Sequence[EntryT]) -> None:
        self.what = what
        self.group = group
        self._own = {entry.name: entry for entry in entries}
        if len(self._own) != len(entries):
            raise ValueError(f"two entries of the table of {what}s have one name")

    @cached_property
    def _others(self) -> dict[str, EntryPoint]:
        """Entry points of packages outside, by name; one of ours cannot be replaced."""
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self._own}

    @property
    def names(self) -> tuple[str, ...]:
        """Every entry's name: ours in their order, then those of other packages by the alphabet."""
        return (*self._own, *sorted(self._others))

    def __iter__(self) -> Iterator[EntryT]:
        return (self.find(name) for name in self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others

    def find(self, name: str) -> EntryT:
        """Return the entry of a name.

        Raises:
            RecipeError: there is none; names the nearest one. Or the package that adds it cannot be imported.
        """
        if name in self._own:
            return self._own[name]
        if name in self._others:
            return self._load(self._others[name])
        raise RecipeError(self.describe_unknown(name))

    def describe_unknown(self, name: str) -> str:
        """Say that there is no entry of a name, and which one may be meant."""
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self.names)}"
        return f"{name} is no {self.what}; {hint}"

    def _load(self, point: EntryPoint) -> EntryT:
        source = f"{self.what} {point.name} of the entry point {point.value}"
        try:
            entry: EntryT = point.load()
        except Exception as error:  # whatever somebody else's module raises when it is imported
            raise RecipeError(f"{source} cannot be imported ({type(error).__name__}: {error})") from error
        if not isinstance(entry, type(next(iter(self._own.values())))) or entry.name != point.name:
            raise RecipeError(f"{source} is {entry!r:.80}, which is no entry of that name for the table {self.group}")
        return entry


def load_object(code: str) -> Any:
    """Return what "module:object" names, importing the module.

    Raises:
        ImportError, AttributeError: there is no such module or object.
    """
    module, _, name = code.partition(":")
    return getattr(importlib.import_module(module), name)
