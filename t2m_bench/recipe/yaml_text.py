"""YAML as people write it today: numbers as YAML 1.2 has them, no key twice, every fault of a text one error.

PyYAML reads YAML 1.1, where `1e-4` is a word, `010` is eight and `1:30` is ninety.
"""

import re
from typing import Any

import yaml

from t2m_bench.errors import find_first_line

WHOLE = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
REAL = re.compile(
    r"[-+]?(?:(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)[eE][-+]?[0-9]+|\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """Safe, with the numbers of YAML 1.2 and mappings that have each key once."""

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        sign, digits = (text[0], text[1:]) if text[:1] in ("-", "+") else ("", text)
        base = {"0b": 2, "0o": 8, "0x": 16}.get(digits[:2], 10)
        return int(sign + (digits if base == 10 else digits[2:]), base)

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


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what `_Loader` would take for a number."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(value: Any) -> str:
    """Return the text that `parse_yaml` reads as this value; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def parse_yaml(text: str) -> Any:
    """Return the value that a text of YAML stands for.

    Raises:
        YAMLError: it is no YAML, has a key twice, or a value that its type does not allow (a 13th month).
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {find_first_line(error)}") from None
