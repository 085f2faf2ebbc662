"""Scopes of a test file: what each function and the file itself bind a name to, as far as a literal can be followed."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(eq=False)
class Scope:
    """A module or function: its bound names as (expression, how it is taken apart), its parameters, its parent."""

    module: "Module"
    parent: "Scope | None" = None
    function: Function | None = None
    bound: dict[str, list["Taken"]] = field(default_factory=lambda: defaultdict(list))
    parameters: list[str] = field(default_factory=list)
    compared: set[str] = field(default_factory=set)
    is_method: bool = False


@dataclass(frozen=True)
class Taken:
    """What a name is bound to: an expression, an item of each of its elements, or an item of itself."""

    expression: ast.expr
    from_each: bool = False
    place: int | None = None


@dataclass(eq=False)
class Module:
    """One test file."""

    path: Path
    lines: list[str]
    tree: ast.Module
    scope: Scope = field(init=False)
    scopes: dict[ast.AST, Scope] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.scope = Scope(self)


def read_module(path: Path, text: str) -> Module:
    """Parse one file and note what each of its functions binds."""
    module = Module(path, text.splitlines(), ast.parse(text))
    for node, scope in walk(module.tree, module.scope):
        if isinstance(node, Function):
            module.scopes[node].is_method = isinstance(getattr(node, "parent_class", None), ast.ClassDef)
            note_parametrized(node, module.scopes[node])
        elif isinstance(node, ast.Import):
            module.packages |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module.imported[alias.asname or alias.name] = (node.module.rpartition(".")[2], alias.name)
        else:
            for target, value, from_each in list_bindings(node):
                note_binding(target, Taken(value, from_each), scope)
    return module


def walk(node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """Return every node below with its scope; a function belongs to the scope around it, its body to its own."""
    for child in ast.iter_child_nodes(node):
        yield child, scope_of(child, scope) if isinstance(child, Function) else scope
        if isinstance(child, ast.ClassDef):
            for part in child.body:
                part.parent_class = child  # type: ignore[attr-defined]  # a mark of ours on the node
        yield from walk(child, scope_of(child, scope) if isinstance(child, Function) else scope)


def scope_of(function: Function, around: Scope) -> Scope:
    known = around.module.scopes.get(function)
    if known is None:
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        apart = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
        names = [argument.arg for argument in (*named, *apart)]
        known = around.module.scopes[function] = Scope(around.module, around, function, parameters=names)
    return known


def list_bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr, bool]]:
    """Return target, value and whether the target takes each element of the value in turn."""
    if isinstance(node, ast.Assign):
        yield from ((target, node.value, False) for target in node.targets)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value, False
    elif isinstance(node, ast.For | ast.comprehension):
        yield node.target, node.iter, True


def note_binding(target: ast.expr, taken: Taken, scope: Scope) -> None:
    if isinstance(target, ast.Name):
        scope.bound[target.id].append(taken)
    elif isinstance(target, ast.Tuple | ast.List):
        for place, part in enumerate(target.elts):
            if isinstance(part, ast.Name):
                scope.bound[part.id].append(Taken(taken.expression, taken.from_each, place))


def note_parametrized(function: Function, scope: Scope) -> None:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and name_of(decorator.func) == "parametrize":
            names, values = decorator.args[:2]
            many = not isinstance(names, ast.Constant) or "," in str(names.value)
            listed = names.elts if isinstance(names, ast.Tuple | ast.List) else [names]
            words = [
                word.strip() for part in listed if isinstance(part, ast.Constant) for word in part.value.split(",")
            ]
            for place, name in enumerate(words):
                scope.bound[name].append(Taken(values, True, place if many else None))


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
