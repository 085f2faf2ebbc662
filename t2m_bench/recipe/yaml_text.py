"""YAML as people write it today: numbers as YAML 1.2 has them, no key twice, every fault of a text one error.

PyYAML reads YAML 1.1, where `1e-4` is a word, `010` is eight, `1_0` is ten and `1:30` is ninety. A number that both
versions take for one is read; one on which they differ is refused, since either reading may surprise its writer.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from t2m_bench.errors import find_first_line

WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
REAL = re.compile(
    r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+|\.[0-9]+|[0-9]+\.[0-9]*)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"

LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
"""Ten, or eight, where it is `010`."""

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which no file and no hash can hold."""


class UnclearError(yaml.YAMLError):
    """A value that the versions of YAML read as different things; the message names it and says what to write."""


class _Loader(yaml.SafeLoader):
    """Safe, with the numbers of YAML 1.2 and mappings that have each key once."""

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if not WHOLE.fullmatch(text):
            raise ValueError(f"{text!r} is no whole number")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

    def construct_real(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node))
        if not (REAL.fullmatch(text) or WHOLE.fullmatch(text)):
            raise ValueError(f"{text!r} is no number")
        return float(super().construct_yaml_float(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                key = (key_node.tag, key_node.value)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value} stands more than once", key_node.start_mark
                    )
                seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INT, FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(rf"(?:{WHOLE.pattern})\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(FLOAT, re.compile(rf"(?:{REAL.pattern})\Z"), list("-+0123456789."))
_Loader.add_constructor(INT, _Loader.construct_whole)
_Loader.add_constructor(FLOAT, _Loader.construct_real)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what `_Loader` would take for a number, or refuse as one that is unclear."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _is_unclear(text) else None)


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
_Dumper.add_representer(str, _Dumper.represent_text)


def dump_yaml(value: Any) -> str:
    """Return the text that `parse_yaml` reads as this value; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def parse_yaml(text: str, field: str = "") -> Any:
    """Return the value that a text of YAML stands for.

    Args:
        field: the dotted name of the field that it is the value of, for messages.

    Raises:
        UnclearError: a number is written so that readers of YAML 1.1 and 1.2 take it for different ones.
        YAMLError: it is no YAML, has a key twice, or a value that its type does not allow (a 13th month).
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            for place, scalar in _list_scalars(node, field):
                if scalar.style is None and _is_unclear(scalar.value):
                    raise UnclearError(_describe_unclear(place, scalar))
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {find_first_line(error)}") from None


def _list_scalars(root: yaml.Node, field: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Yield the dotted name and the node of each key and value that is neither list nor mapping, each node once."""
    waiting, seen = [(field, root)], set()
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen:  # an alias, perhaps of what it stands in
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield place, node
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(f"{place}.{number}".strip("."), part) for number, part in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = f"{place}.{key.value}".strip(".") if isinstance(key, yaml.ScalarNode) else place
                waiting += [(inner, key), (inner, value)]


def _is_unclear(text: str) -> bool:
    """Return whether YAML 1.1 takes a plain scalar for a number that YAML 1.2 reads otherwise, or `08` stands there."""
    old = yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], ())
    was_number = any(tag in (INT, FLOAT) and pattern.match(text) for tag, pattern in old)
    is_number = WHOLE.fullmatch(text) or REAL.fullmatch(text)
    return bool(LEADING_ZERO.fullmatch(text) or (was_number and not is_number))


def _describe_unclear(place: str, node: yaml.ScalarNode) -> str:
    text = node.value
    values = [yaml.safe_load(text), int(text) if LEADING_ZERO.fullmatch(text) else ""]
    meant = sorted({value for value in values if not isinstance(value, str)})
    where = f"{place} = {text}" if place else text
    line = node.start_mark.line
    return (
        f"{where}{f' in line {line + 1}' if line else ''}: readers of YAML take this for different values; write "
        f"{' or '.join(map(str, meant))}, or '{text}' in quotes where it is a text"
    )


def find_surrogate(value: Any, field: str = "") -> str | None:
    """Return the dotted name of a key or value, nested at will, that holds half a character; None where none does."""
    if isinstance(value, str):
        return field if SURROGATE.search(value) else None
    if isinstance(value, dict):
        for key, part in value.items():
            inner = f"{field}.{key}".strip(".")
            found = find_surrogate(part, inner)
            if found is not None or (isinstance(key, str) and SURROGATE.search(key)):
                return inner if found is None else found
    if isinstance(value, list | tuple):
        for number, part in enumerate(value):
            found = find_surrogate(part, f"{field}.{number}".strip("."))
            if found is not None:
                return found
    return None
