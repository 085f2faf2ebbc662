"""The frozen defaults: every hash is taken over them, so that a new field with a default changes no existing hash.

`defaults_v1.json` holds dotted field -> default, for recipes, sweeps, cases and signatures. `*` stands for any key of a
mapping.

- `defaults`, in the first list: fields that always enter the hash, and the value that replaces a field that is gone.
- `added`: fields that came later, with their first default. Such a field enters the hash when its value is another.
- `renamed`: new name -> the name that enters the hash.
- `suite`, in the first list: conditions and boxes of runs whose run.json does not say what the defaults were.

A field in no list, such as one of another package's section, counts as added, with the default in its code.

A changed default raises the version: `defaults_v2.json` then holds the new value under `defaults`. The hash does not
read it. A recipe that relies on the default has another value and so another hash; one that names the old value keeps
its hash.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent

REQUIRED = MISSING
"""The default of a field that has none: its value always enters the hash."""

Flat = Mapping[str, Any]


class Value(NamedTuple):
    """One field's value as JSON, the names on the way to it, its dotted name in the lists, and its code's default."""

    path: tuple[str, ...]
    field: str
    value: Any
    default: Any


@dataclass(frozen=True)
class FrozenDefaults:
    """The lists of one kind of thing, such as "recipe".

    Attributes:
        always: fields of the first list. neutral: field -> the value at which it changes no hash.
        current: field -> what the newest list says that the code's default is.
    """

    always: Flat
    neutral: Flat
    current: Flat
    renamed: Mapping[str, str]

    def decides(self, value: Value) -> bool:
        """Return whether a field's value enters a hash."""
        name = self.renamed.get(value.field, value.field)
        return name in self.always or bool(value.value != self.neutral.get(name, value.default))


def load_lists(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Read `defaults_v*.json`, the first version first."""
    files = {int(path.stem.rpartition("_v")[2]): path for path in folder.glob("defaults_v*.json")}
    return [json.loads(files[version].read_text(encoding="utf-8")) for version in sorted(files)]


@cache
def load_defaults(kind: str) -> FrozenDefaults:
    """Return what the lists say of one kind of thing."""
    return join_lists(load_lists(), kind)


def join_lists(lists: Iterable[Mapping[str, Any]], kind: str) -> FrozenDefaults:
    """Join all versions: the first list that names a field gives its neutral value, the last its current one."""
    lists = list(lists)
    neutral: dict[str, Any] = {}
    current: dict[str, Any] = {}
    for noted in lists:
        said = {**noted["defaults"].get(kind, {}), **noted["added"].get(kind, {})}
        neutral = said | neutral
        current |= said
    renamed = {new: old for noted in lists for new, old in noted["renamed"].get(kind, {}).items()}
    return FrozenDefaults(lists[0]["defaults"].get(kind, {}), neutral, current, renamed)


def load_first_suite() -> dict[str, list[str]]:
    """Return the conditions and boxes that a run was asked by default before its run.json said so."""
    suite: dict[str, list[str]] = load_lists()[0]["suite"]
    return suite


def keep_decisive(values: Iterable[Value], frozen: FrozenDefaults) -> dict[str, Any]:
    """Return, nested, what a hash is taken over: the first list's fields, and later ones that are not neutral."""
    kept: dict[tuple[str, ...], Any] = {}
    for found in values:
        if frozen.decides(found):
            name = frozen.renamed.get(found.field)
            kept[tuple(name.split(".")) if name else found.path] = found.value
    for field, value in sorted(frozen.always.items()):  # a section before its fields
        path = tuple(field.split("."))
        is_left_out = any(kept.get(path[:length], {}) is None for length in range(1, len(path)))
        if "*" not in path and path not in kept and not is_left_out:
            kept[path] = value
    return _nest(kept)


def _nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (*parents, leaf), value in flat.items():
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return nested


def list_dataclass(instance: Any, values: Mapping[str, Any]) -> Iterator[Value]:
    """Yield the fields of a dataclass, whose values as JSON are given."""
    for field in fields(instance):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield Value((field.name,), field.name, values[field.name], default)
