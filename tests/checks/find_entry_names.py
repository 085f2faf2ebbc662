"""Find names of entries in the code: what asks for one entry by its name has to be changed for the next.

Run by `make check`. A name is that of one of our data sets, image encoders, arms, conditions or measures. It is found
where a string constant of the package equals it, or a word of one without blanks (an f-string, a dotted key), and
behind "key=" anywhere; not in sentences, nor in the name of a file that is called after an entry. Names may stand in
the tables (t2m_bench/recipe/), and in the files whose code the entry names ("module:object"). All else reads the
tables: roles, flags, labels, or a constant that a table gives a name to (RIGHT, DICE, REFERENCE_ARM). Recipes and tests
are not searched.

The check fails for a name without a reason in EXCEPTIONS, for an exception that excepts nothing, and for more than
`ALLOWED` of them.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.measures import MEASURE_TABLE

ALLOWED = 5
"""Most exceptions: a sixth is a sign that the code asks for an entry by its name."""

GAP = "{}"

FILE_SUFFIXES = (".json", ".pth", ".safetensors", ".yaml")

TABLE_FILES = frozenset(f"recipe/{name}.py" for name in ("arms", "conditions", "datasets", "encoders", "measures"))


@dataclass(frozen=True)
class Exempt:
    """A name that means something else in these files, and what."""

    name: str
    files: frozenset[str]
    reason: str


EXCEPTIONS = (
    Exempt(
        "random",
        frozenset({"search/sweep.py", "search/samplers.py", "pipeline/sweep_perf.py"}),
        "a sampler of Optuna, as sweeps name it",
    ),
    Exempt(
        "table",
        frozenset({"cli.py", "data/phantoms/nsclc.py", "recipe/schema.py"}),
        "a path that a verb prints, a stream of random numbers, whose name decides what is drawn, and a recipe's field",
    ),
    Exempt(
        "label",
        frozenset({"recipe/schema.py", "data/datasets/table/guess.py", "data/datasets/table/reader.py"}),
        "a column of a user's own table: which value of a mask is meant",
    ),
    Exempt(
        "right",
        frozenset(
            {"data/phantoms/bus_bra.py", "embedding/shards/reader.py", "reporting/console.py", "reporting/forest.py"}
        ),
        "a side: of a breast in a table, of numpy's searchsorted, of a column of text",
    ),
)


@dataclass(frozen=True)
class Found:
    """One name in the code; `file` is relative to the package, `exempt` the exception that lets it stand."""

    file: str
    line: int
    name: str
    exempt: Exempt | None


def list_homes() -> dict[str, frozenset[str]]:
    """Return each entry's name -> the files of the package, beside the tables, in which it may stand."""
    homes: dict[str, frozenset[str]] = {}
    for table in (ARMS, CONDITIONS, DATA_SETS, IMAGE_ENCODERS, MEASURE_TABLE):
        for entry in table.own:
            homes[entry.name] = homes.get(entry.name, frozenset()) | _list_code(entry)
    return homes


def _list_code(entry: Any) -> frozenset[str]:
    """Return the files that an entry names as "t2m_bench.module:object"."""
    values = [getattr(entry, field.name) for field in fields(entry)]
    codes = [value for value in values if isinstance(value, str) and value.startswith("t2m_bench.") and ":" in value]
    modules = [code.partition(":")[0].removeprefix("t2m_bench.") for code in codes]
    return frozenset(f"{module.replace('.', '/')}.py" for module in modules)


def find_names(package: Path, homes: Mapping[str, frozenset[str]]) -> Iterator[Found]:
    """Yield every string constant that is an entry's name, outside the tables and the entry's own files."""
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        if file in TABLE_FILES:
            continue
        for line, text in _list_texts(ast.parse(path.read_text(encoding="utf-8"))):
            for name in sorted(_list_words(text) & homes.keys()):
                if file not in homes[name]:
                    exempt = (item for item in EXCEPTIONS if item.name == name and file in item.files)
                    yield Found(file, line, name, next(exempt, None))


def _list_texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every string but docstrings; GAP stands for each value inside an f-string."""
    nodes = list(ast.walk(tree))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(getattr(part, "value", "")) if _is_text(part) else GAP for part in node.values),
            )
        elif _is_text(node) and id(node) not in parts | docs:
            yield getattr(node, "lineno", 0), str(getattr(node, "value", ""))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _list_words(text: str) -> set[str]:
    """Return what may be an entry's name: the words of a text without blanks, else the values of "key=value"."""
    if any(character.isspace() for character in text):
        return set(re.findall(r"\w=(\w+)", text))
    if text.endswith(FILE_SUFFIXES) or "\\" in text:  # a file, or LaTeX
        return {text}
    return {word.strip("_") for word in re.findall(r"\w+", text)}


def main(package: Path) -> int:
    """Print every name with its reason; return 1 where one has none, or the exceptions are too many or idle."""
    found = list(find_names(package, list_homes()))
    for item in found:
        reason = item.exempt.reason if item.exempt else "NO REASON: read the table instead"
        print(f"{package / item.file}:{item.line}: {item.name!r}: {reason}")
    used = {(item.name, item.file) for item in found}
    idle = [
        f"{item.name} in {file}" for item in EXCEPTIONS for file in sorted(item.files) if (item.name, file) not in used
    ]
    print(*(f"idle exception: {name}" for name in idle), sep="\n", end="\n" if idle else "")
    bare = sum(item.exempt is None for item in found)
    print(f"{len(EXCEPTIONS)} exceptions (at most {ALLOWED}), {bare} names of entries without one")
    return int(bare > 0 or bool(idle) or len(EXCEPTIONS) > ALLOWED)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "t2m_bench"))
