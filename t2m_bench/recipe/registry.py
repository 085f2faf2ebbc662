"""Open tables: what others may add, found by name among ours and those of installed packages.

An entry is a frozen dataclass with a `name`. It names its code as "module:object", which is imported when it is used,
so that reading a table imports nothing heavy. Packages outside add entries through entry points: one for each, whose
name is the entry's and whose value is the entry itself.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from t2m_bench.errors import RecipeError


class Named(Protocol):
    """An entry of a table."""

    @property
    def name(self) -> str: ...


NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Names stand in recipes, in names of folders and in columns of tables."""

EntryT = TypeVar("EntryT", bound=Named)


class Registry(Generic[EntryT]):
    """One table.

    Args:
        what: the kind of its entries, in the singular, as messages name it ("image encoder").
        group: of the entry points by which packages outside add to it ("t2m_bench.image_encoders").
        entries: ours, in the order in which lists show them.
        reserved: names that no entry may have, since results use them otherwise.
    """

    def __init__(self, what: str, group: str, entries: Sequence[EntryT], reserved: Collection[str] = ()) -> None:
        self.what = what
        self.group = group
        self.reserved = frozenset(reserved)
        self._own = {entry.name: entry for entry in entries}
        self._loaded: dict[str, EntryT] = {}
        self._broken: dict[str, str] = {}
        if len(self._own) != len(entries):
            raise ValueError(f"two entries of the table of {what}s have one name")

    @cached_property
    def _others(self) -> dict[str, EntryPoint]:
        """Entry points of packages outside, by name; one of ours cannot be replaced."""
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self._own}

    def look_again(self) -> None:
        """Forget which packages are installed: a process that installs or removes one calls this."""
        self.__dict__.pop("_others", None)
        self._loaded.clear()
        self._broken.clear()

    @property
    def names(self) -> tuple[str, ...]:
        """Every entry's name: ours in their order, then those of other packages by the alphabet."""
        return (*self._own, *sorted(self._others))

    @property
    def own(self) -> tuple[EntryT, ...]:
        """Our own entries in their order; reading them imports nothing of other packages."""
        return tuple(self._own.values())

    def __iter__(self) -> Iterator[EntryT]:
        """Yield ours, then those of other packages that can be imported; a line for each of the rest, once a process.

        Only who finds an entry by its name needs it; nobody's broken package stops what does not name its entries.
        """
        yield from self.own
        for name in self.names[len(self._own) :]:
            if name not in self.broken:
                yield self.find(name)

    @property
    def broken(self) -> Mapping[str, str]:
        """Entries of other packages that cannot be imported -> why; says so where it finds them first."""
        for name in sorted(set(self._others) - self._loaded.keys() - self._broken.keys()):
            try:
                self.find(name)
            except RecipeError as error:
                self._broken[name] = str(error)
                print(f"t2m-bench: left out: {error}", file=sys.stderr)
        return self._broken

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

    def get(self, name: str) -> EntryT | None:
        """Return the entry of a name that a run noted; None where its package is not installed here.

        Raises:
            RecipeError: the package is installed and cannot be imported.
        """
        return self.find(name) if name in self else None

    def describe_unknown(self, name: str) -> str:
        """Say that there is no entry of a name, and which one may be meant."""
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self.names)}"
        return f"{name} is no {self.what}; {hint}"

    def _load(self, point: EntryPoint) -> EntryT:
        if point.name not in self._loaded:
            self._loaded[point.name] = self._import(point)
        return self._loaded[point.name]

    def _import(self, point: EntryPoint) -> EntryT:
        package = f" of the package {point.dist.name}" if point.dist else ""
        source = f"{self.what} {point.name} of the entry point {point.value}{package}"
        try:
            entry: EntryT = point.load()
        except Exception as error:  # whatever somebody else's module raises when it is imported
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise RecipeError(f"{source} cannot be imported ({reason}); correct or uninstall it") from error
        if point.name in self.reserved or not NAME.fullmatch(point.name):
            raise RecipeError(f"{source}: no {self.what} can have that name; use others of a-z, 0-9 and _")
        if not isinstance(entry, type(self.own[0])) or entry.name != point.name:
            raise RecipeError(f"{source} is {entry!r:.80}, which is no entry of that name for the table {self.group}")
        return entry


def load_object(code: str) -> Any:
    """Return what "module:object" names, importing the module.

    Raises:
        RecipeError: there is no such module or object, or the module needs one that is not installed.
    """
    module, _, name = code.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{code}, which an entry of a table names, cannot be imported ({error})") from error
