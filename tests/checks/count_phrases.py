"""Count the phrases that tests compare: each one pins the wording of a message, so a better sentence breaks a test.

Run by `make check`. A phrase is a string of three words or more. It is counted where a test file passes it to `match=`,
compares it (`==`, `in`, `<=` and the like) or searches a text for it (`startswith`, `re.search` and the like). Names
are followed: variables, loops, `parametrize` lists, literal tables, constants of the same or of another test file, and
arguments of test helpers that compare them. Not seen is what passes through a fixture, a file, an attribute, a lambda
or a function of the package. Keys in `table["..."]` are not counted.

A counted phrase needs its reason in a comment `# phrase: ...` on one of its lines, on the line above it, or on the line
above its statement. The check fails where a reason is missing or when there are more than `ALLOWED` phrases.
"""

import ast
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bindings import Module, Scope, Taken, name_of, read_module, walk

ALLOWED = 20
WORDS = 3
SEARCHES = {"startswith", "endswith", "count", "index", "find", "partition", "rpartition", "split", "issubset"}
PATTERNS = {"search", "match", "fullmatch", "findall", "finditer", "sub", "split", "compile"}
PASSING = {"set", "sorted", "list", "tuple", "frozenset", "dict", "str", "any", "all", "param", "escape", "reversed"}
METHODS = {"lower", "upper", "strip", "format", "replace", "items", "values", "keys", "splitlines", "join"}


@dataclass(frozen=True)
class Phrase:
    """One compared string, and whether a comment gives its reason."""

    path: Path
    line: int
    text: str
    reason: str


def count_words(text: str) -> int:
    """Number of words between spaces, with the wildcards of regular expressions read as spaces."""
    plain = re.sub(r"\\[dDwWbB]", "", re.sub(r"\\[sS]", " ", text))
    plain = re.sub(r"\.[*+]\??|(?<!\\)[|()^$]", " ", plain)
    return sum(re.search("[A-Za-z]", word) is not None for word in plain.split())


def find_phrases(sources: dict[Path, str]) -> list[Phrase]:
    """Return the phrases that these test files compare, in order of file and line."""
    return Suite(sources).find_phrases()


class Suite:
    """All test files together, so that names can be followed from one to another."""

    def __init__(self, sources: dict[Path, str]) -> None:
        self.modules = [read_module(path, text) for path, text in sorted(sources.items())]
        self.by_stem = {module.path.stem: module for module in self.modules}
        self.open: set[tuple[str, Scope]] = set()
        self.helpers: dict[str, list[Scope]] = defaultdict(list)
        for module in self.modules:
            for scope in module.scopes.values():
                if scope.function is not None:
                    self.helpers[scope.function.name].append(scope)

    def find_phrases(self) -> list[Phrase]:
        """Follow what is compared until no more parameters of helpers are found to be compared."""
        known = -1
        while known != (known := sum(len(scope.compared) for helper in self.helpers.values() for scope in helper)):
            found = {id(node): (scope.module, node) for node, scope in self.compared_strings()}
        phrases = [describe(module, node) for module, node in found.values() if count_words(text_of(node)) >= WORDS]
        return sorted(phrases, key=lambda phrase: (phrase.path, phrase.line))

    def compared_strings(self) -> Iterator[tuple[ast.expr, Scope]]:
        for module in self.modules:
            for node, scope in walk(module.tree, module.scope):
                for expression in self.compared_expressions(node, scope):
                    yield from self.follow(expression, scope, set())

    def compared_expressions(self, node: ast.AST, scope: Scope) -> Iterator[ast.expr]:
        """Return the expressions that this node compares or searches for."""
        if isinstance(node, ast.Compare):
            yield from (node.left, *node.comparators)
        elif isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "match")
            name = name_of(node.func)
            if isinstance(node.func, ast.Attribute):
                of_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
                yield from node.args[:1] if name in (PATTERNS if of_re else SEARCHES) else []
            for helper in self.called(node.func, scope):
                yield from arguments_for(node, helper)

    def called(self, function: ast.expr, scope: Scope) -> list[Scope]:
        """Return the test functions that a call may reach: by import or same file, or any method of that name."""
        name = name_of(function)
        if isinstance(function, ast.Attribute):
            if isinstance(function.value, ast.Name) and function.value.id in scope.module.packages:
                return []
            methods = [helper for helper in self.helpers.get(name, []) if helper.is_method]
            return [helper for helper in methods if helper.module is scope.module] or methods
        source, name = scope.module.imported.get(name, (scope.module.path.stem, name))
        home = self.by_stem.get(source)
        return [helper for helper in self.helpers.get(name, []) if helper.module is home and not helper.is_method]

    def follow(self, node: ast.expr, scope: Scope, seen: set[tuple[int, int]]) -> Iterator[tuple[ast.expr, Scope]]:
        """Return the strings that an expression may hold; parameters of helpers on the way are noted as compared."""
        if (id(node), id(scope)) in seen:
            return
        seen.add((id(node), id(scope)))
        if (isinstance(node, ast.Constant) and isinstance(node.value, str)) or isinstance(node, ast.JoinedStr):
            yield node, scope
        for part, place in self.parts(node, scope):
            yield from self.follow(part, place, seen)

    def parts(self, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        """Return the expressions of which this one is made or to which this name is bound."""
        if isinstance(node, ast.Name):
            yield from self.resolve(node.id, scope)
        elif isinstance(node, ast.Subscript):
            yield from self.look_up(node, scope)
        else:
            yield from ((part, scope) for part in list_parts(node))

    def resolve(self, name: str, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        """Return what a name is bound to in the nearest scope that binds it; nothing where it is bound to itself."""
        if (name, scope) not in self.open:
            self.open.add((name, scope))
            try:
                yield from self.find_bound(name, scope)
            finally:
                self.open.remove((name, scope))

    def find_bound(self, name: str, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        place: Scope | None = scope
        while place is not None:
            for taken in place.bound.get(name, []):
                yield from self.take(taken, place)
            if name in place.parameters and name not in place.bound:
                place.compared.add(name)
            if name in place.parameters or name in place.bound:
                return
            place = place.parent
        source, original = scope.module.imported.get(name, ("", ""))
        if source in self.by_stem:
            yield from self.resolve(original, self.by_stem[source].scope)

    def take(self, taken: Taken, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        taken_from = self.elements(taken.expression, scope) if taken.from_each else [(taken.expression, scope)]
        for expression, place in taken_from:
            if taken.place is None:
                yield expression, place
            else:
                for literal, home in self.stands_for(expression, place):
                    yield from itertools.islice(self.elements(literal, home), taken.place, taken.place + 1)

    def stands_for(self, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        """Return the expressions that a name or an index stands for; any other expression stands for itself."""
        if isinstance(node, ast.Name | ast.Subscript):
            known = self.resolve(node.id, scope) if isinstance(node, ast.Name) else self.look_up(node, scope)
            for expression, place in known:
                yield from self.stands_for(expression, place)
        else:
            yield node, scope

    def look_up(self, node: ast.Subscript, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        """Return what an index into a literal may give: one element for a constant, else every element."""
        wanted = node.slice.value if isinstance(node.slice, ast.Constant) else None
        for literal, home in self.stands_for(node.value, scope):
            if isinstance(literal, ast.Dict):
                for key, value in zip(literal.keys, literal.values, strict=True):
                    if wanted is None or (isinstance(key, ast.Constant) and key.value == wanted):
                        yield value, home
            else:
                for place, element in enumerate(self.elements(literal, home)):
                    if wanted in (None, place):
                        yield element

    def elements(self, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        """Return what iterating over an expression gives."""
        for literal, home in self.stands_for(node, scope):
            if isinstance(literal, ast.Dict):
                yield from ((key, home) for key in literal.keys if key is not None)
            elif isinstance(literal, ast.Call):
                yield from self.elements_of_call(literal, home)
            elif isinstance(literal, ast.Tuple | ast.List | ast.Set):
                for element in literal.elts:
                    inside = isinstance(element, ast.Starred)
                    yield from self.elements(element.value, home) if inside else [(element, home)]

    def elements_of_call(self, node: ast.Call, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        name = name_of(node.func)
        if name in ("items", "values") and isinstance(node.func, ast.Attribute):
            for table, home in self.stands_for(node.func.value, scope):
                if isinstance(table, ast.Dict):
                    yield from ((pair if name == "items" else pair.elts[-1], home) for pair in list_pairs(table))
        elif name == "param":
            yield from ((argument, scope) for argument in node.args)
        elif name == "zip":
            rows = zip(*(list(self.elements(argument, scope)) for argument in node.args), strict=False)
            yield from ((ast.Tuple([part for part, _ in row], ast.Load()), row[0][1]) for row in rows)
        elif name in PASSING and node.args:
            yield from self.elements(node.args[0], scope)


def list_pairs(table: ast.Dict) -> list[ast.Tuple]:
    return [ast.Tuple([key or value, value], ast.Load()) for key, value in zip(table.keys, table.values, strict=True)]


def list_parts(node: ast.expr) -> Iterable[ast.expr]:
    """Return the parts of an expression that may become its value."""
    match node:
        case ast.Tuple() | ast.List() | ast.Set():
            return node.elts
        case ast.Dict():
            return [part for part in (*node.keys, *node.values) if part is not None]
        case ast.BinOp():
            return [node.left, node.right]
        case ast.BoolOp():
            return node.values
        case ast.IfExp():
            return [node.body, node.orelse]
        case ast.Starred() | ast.NamedExpr() | ast.FormattedValue():
            return [node.value]
        case ast.JoinedStr():
            return [part for part in node.values if isinstance(part, ast.FormattedValue)]
        case ast.GeneratorExp() | ast.ListComp() | ast.SetComp():
            return [node.elt]
        case ast.DictComp():
            return [node.key, node.value]
        case ast.Call(func=ast.Attribute(value=receiver, attr=name)) if name in METHODS:
            return [receiver, *node.args]
        case ast.Call() if name_of(node.func) in PASSING:
            return [
                *node.args,
                *(keyword.value for keyword in node.keywords if keyword.arg not in ("id", "marks", "key")),
            ]
    return []


def arguments_for(call: ast.Call, helper: Scope) -> Iterator[ast.expr]:
    """Return the arguments of a call that the helper compares."""
    assert helper.function is not None
    arguments = helper.function.args
    named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][helper.is_method :]
    rest = arguments.vararg.arg if arguments.vararg else ""
    for place, argument in enumerate(call.args):
        if (named[place] if place < len(named) else rest) in helper.compared:
            yield argument
    yield from (keyword.value for keyword in call.keywords if keyword.arg in helper.compared)


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.values)
    assert isinstance(node, ast.Constant)
    return str(node.value)


def describe(module: Module, node: ast.expr) -> Phrase:
    above = min((part.lineno for part in ast.walk(module.tree) if is_statement_of(part, node)), default=node.lineno)
    lines = {above - 1, *range(node.lineno - 1, (node.end_lineno or node.lineno) + 1)}
    comments = [re.search(r"# phrase: (\S.*)", module.lines[line - 1]) for line in sorted(lines) if line > 0]
    reason = next((comment.group(1) for comment in comments if comment is not None), "")
    return Phrase(module.path, node.lineno, text_of(node), reason)


def is_statement_of(part: ast.AST, node: ast.expr) -> bool:
    """Whether a simple statement or the head of a `with` holds this expression."""
    if isinstance(part, ast.Assert | ast.Assign | ast.Expr | ast.Return | ast.With):
        end = part.body[0].lineno - 1 if isinstance(part, ast.With) else part.end_lineno or 0
        return part.lineno <= node.lineno <= end
    return False


def main(folder: Path) -> int:
    """Print every phrase with its reason, and return 1 where there are too many or a reason is missing."""
    phrases = find_phrases({path: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")})
    for phrase in phrases:
        print(f"{phrase.path}:{phrase.line}: {phrase.text!r}: {phrase.reason or 'NO REASON'}")
    unreasoned = sum(not phrase.reason for phrase in phrases)
    print(f"{len(phrases)} compared phrases in {folder} (at most {ALLOWED}), {unreasoned} without a reason")
    return int(len(phrases) > ALLOWED or unreasoned > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]))
