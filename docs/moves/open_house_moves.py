"""Move the modules of t2m_bench to the folders that answer "where is ...?", and names to the modules they belong in.

Run it at the root of a clean checkout, with the Python that has the project's own ruff beside it:

    python docs/moves/open_house_moves.py move     # `git mv` and imports, nothing else; commit what it did
    python docs/moves/open_house_moves.py split    # then names from one module to another; commit that too
    python docs/moves/open_house_moves.py check    # what still names a module, a name or a path that is not there

The tables below say what moves. Files may have changed, and others may have come, since they were written: what is not
there is passed over, what is done already is not done again, and lines that begin with "by hand" name what a person has
to see to. Nothing is committed. `git log --follow` and `git blame` then see through the move.
"""

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

PACKAGE = "t2m_bench"

MODULES = {
    "atomic": "files",
    "config": "recipe/schema",
    "defaults": "recipe/defaults",
    "typed_yaml": "recipe/typed_yaml",
    "pipeline/terminal": "terminal",
    "pipeline/fetch": "fetching/fetch",
    "pipeline/fetch_wheel": "fetching/fetch_wheel",
    "pipeline/download": "fetching/download",
    "pipeline/unpack": "fetching/unpack",
    "pipeline/datasets": "data/datasets/registry",
    "data/bus_bra": "data/datasets/bus_bra",
    "data/nsclc": "data/datasets/nsclc/reader",
    "data/nsclc_clinical": "data/datasets/nsclc/clinical",
    "data/dicom_series": "data/datasets/nsclc/dicom_series",
    "data/ct_volume": "data/datasets/nsclc/ct_volume",
    "data/seg": "data/datasets/nsclc/seg",
    "data/phantom": "data/phantoms/bus_bra",
    "data/hidden_shape": "data/phantoms/hidden_shape",
    "data/nsclc_phantom": "data/phantoms/nsclc",
    "data/nsclc_phantom_dicom": "data/phantoms/nsclc_dicom",
    "data/nsclc_phantom_table": "data/phantoms/nsclc_table",
    "data/phantom_folder": "data/phantoms/folder",
    "shards/prompt_bank": "embedding/prompt_bank",
    "training/ahead": "data/prefetch",
    "training/embed": "embedding/encode",
    "training/images": "embedding/image_source",
    "training/conditions": "evaluation/conditions",
    "training/evaluate": "evaluation/evaluate",
    "training/probe": "evaluation/probe",
    "training/overlays": "evaluation/crops",
    "training/reference": "runs/reference",
    "training/setup": "runs/setup",
    "training/job": "runs/job",
    "training/cell": "runs/cell",
    "training/trial": "runs/trial",
    "training/run_folder": "runs/run_folder",
    "training/ranks": "training/process_group",
}
"""Below t2m_bench/, without .py. tests/FOLDER/test_NAME.py goes along."""

FOLDERS = {"t2m_bench/shards": "t2m_bench/embedding/shards", "tests/shards": "tests/embedding/shards"}
"""All that is left in them once the modules above are gone."""

OTHERS = {
    "t2m_bench/defaults_v1.json": "t2m_bench/recipe/defaults_v1.json",
    "tests/test_hashes.py": "tests/recipe/test_hashes.py",
    "tests/test_registry.py": "tests/recipe/test_registry.py",
}
"""Files that are no modules, and tests whose names do not follow their modules'."""

HELPERS = "tests/helpers"
HELPERS_FROM = ("tests/training", "tests/cluster", "tests/data", "tests/pipeline", "tests/reporting")
"""Folders on pytest's path, whose modules that are no tests are imported by their bare names."""

PACKAGES = {
    "recipe": "Everything that decides a result: the recipe's schema, its YAML, and tables that import nothing heavy.",
    "data/datasets": "The readers of data sets, and which there are.",
    "data/datasets/nsclc": "NSCLC-Radiogenomics: CT series, segmentations and a clinical table.",
    "data/phantoms": "Data sets drawn here, whose effect of the text is known.",
    "embedding": "From cases and sentences to what the frozen encoders make of them, stored.",
    "evaluation": "Puts conditions to a trained arm and measures its answers.",
    "fetching": "Downloads, continued where they were cut and checked.",
    "runs": "A run as data, and from its recipe to its results.",
}
"""New packages and the docstrings of their __init__.py."""

LAYERS = (
    "cli",
    "pipeline",
    "cluster",
    "perf",
    "runs",
    "evaluation",
    "training",
    "embedding",
    "models | reporting | fetching",
    "statistics",
    "data | metrics | search",
    "recipe",
    "shipped",
    "files | terminal",
    "errors",
)

FORMER_LAYERS = {
    "config": "recipe",
    "defaults": "recipe",
    "typed_yaml": "recipe",
    "shards": "embedding",
    "atomic": "files",
    "saved": "files",
}
"""Maps a name in the import contracts to what it has become."""

GROWN_CONTRACTS = {
    "The table chain never imports torch": {"recipe"},
    "Ray lives in cluster alone": {"evaluation", "fetching", "runs"},
    "HDF5 lives in shards alone": {"fetching"},
}
"""Sources that a contract gains; passed over where there is no such package."""

TREE_FOLDERS = (
    "",
    "recipe",
    "data",
    "data/datasets",
    "data/datasets/nsclc",
    "data/phantoms",
    "models",
    "models/pretrain",
    "embedding",
    "embedding/shards",
    "training",
    "evaluation",
    "runs",
    "metrics",
    "statistics",
    "reporting",
    "search",
    "cluster",
    "perf",
    "pipeline",
    "fetching",
)
"""The order of the file tree in the pages; a folder that is not here comes last."""

TREE_LINES = {
    "files.py": "files that are whole or not there, their locks and names",
    "recipe/schema.py": "the recipe",
    "cluster/tune_demand.py": "what a trial takes, and how many fit",
    "data/frame.py": "how a box goes into an encoder's square input",
    "data/datasets/nsclc/reader.py": "from DICOM to cases",
    "data/prefetch.py": "making the next thing while the present one is used",
    "embedding/text_table.py": "sentences as vectors, and which a case may be given",
    "training/shares.py": "which cases of a batch a rank computes",
}
"""Descriptions of what is new, or told otherwise where it now lies; the others keep theirs."""

EDITS = (
    ("t2m_bench/training/__init__.py", "The training loop, its state on disk, and evaluation.", "The training loop."),
    ("tests/helpers/ranks_bench.py", "; used by tests of this folder", ""),
    ("tests/training/test_compiling.py", "sys.path.insert(0, sys.argv[1])", "sys.path[:0] = sys.argv[1:]"),
    ("tests/training/test_compiling.py", "WITHOUT_COMPILER, here]", 'WITHOUT_COMPILER, here, here.parent / "helpers"]'),
    ("tests/cluster/test_slurm.py", "cwd=Path(__file__).parent)", 'cwd=Path(__file__).parents[1] / "helpers")'),
)
"""(file after the move, text, text in its place), where a text depends on the folder it lies in."""


@dataclass(frozen=True)
class Split:
    """Names that leave one module for another.

    Attributes:
        names: in the order they are to have in a new module.
        after: the class or function of an existing module that they follow; at the end where it is empty.
    """

    source: str
    target: str
    names: tuple[str, ...]
    after: str = ""


SPLITS = (
    Split("saved", "files", ("VARIABLE", "tell_saved")),
    Split("reporting/results", "files", ("EXPERIMENT_NAME",)),
    Split("runs/run_folder", "files", ("load_json",), after="write_json"),
    Split("cluster/tune_job", "cluster/tune_demand", ("IsSet", "OnChange", "Demand", "find_demand")),
    Split("embedding/encode", "data/frame", ("scale_box",)),
    Split("training/batches", "embedding/text_table", ("RowsOf", "TextTable")),
    Split("training/batches", "embedding/shards/reader", ("CaseSource",), after="EmbeddedBatch"),
    Split("training/batches", "training/shares", ("share_positions",)),
    Split("training/step", "models/segmenter", ("VALUES_AT_ONCE", "split_for_cache")),
    Split("training/updater", "training/optim", ("find_state_keys",)),
    Split("runs/job", "evaluation/crops", ("find_shown",), after="choose_shown"),
    Split("models/fusion", "models/arm", ("seeded", "count_trainable_parameters")),
)
"""Modules after the move."""

MADE_UP = ("t2m_bench.nowhere", "t2m_bench.image_encoders", "t2m_bench.test_things", "t2m_bench.__file__")
"""Lists names that no module has: those of tests, groups of entry points, and what Python adds to every module."""

NEW_MODULES = {
    "cluster/tune_demand": "Says what one trial of a sweep takes of a cluster, and how many fit beside each other.",
    "data/frame": "How a case's geometry goes into an encoder's square input.",
    "embedding/text_table": "Sentences as vectors, and which of them each case may be given.",
    "training/shares": "Which cases of a global batch each rank computes.",
}
"""Their docstrings."""

RENAMED = {("files", "VARIABLE"): "SAVED_VARIABLE"}
"""Names that say too little in their new module."""

SPLIT_EDITS = (
    (
        "t2m_bench/files.py",
        '"""Files that are whole or not there, and the locks of those who write them."""',
        '"""Files that are whole or not there, their names, and the locks of those who write them."""',
    ),
    (
        "t2m_bench/files.py",
        "Touch the job's file, where there is one; work never fails for it.",
        "Touch the job's file, by which its script knows a loss after saved work; work never fails for it.",
    ),
)

Place = Callable[[str, str], tuple[str, str]]
"""From a module and a name of it to where they are now."""


def main(arguments: Sequence[str]) -> None:
    """Do one step."""
    steps = {"move": move, "split": split, "check": check}
    if len(arguments) != 1 or arguments[0] not in steps:
        raise SystemExit(f"give one of {', '.join(steps)}")
    if not Path(PACKAGE, "__init__.py").is_file():
        raise SystemExit("run it at the root of the checkout")
    if arguments[0] != "check" and run("git", "status", "--porcelain").strip():
        raise SystemExit("the checkout has changes: commit them, or put them aside, first")
    steps[arguments[0]]()


def move() -> None:
    """Move files, and mend whatever names them."""
    moves = find_moves()
    move_files(moves)
    add_packages()
    names = {dot(old): dot(new) for old, new in MODULES.items()}
    names |= {old.replace("/", "."): new.replace("/", ".") for old, new in FOLDERS.items() if old.startswith(PACKAGE)}
    for path in list_sources():
        change(path, lambda text: rewrite_imports(text, lambda module, name: place_module(names, module, name)))
    change(Path("pyproject.toml"), partial(mend_contracts, names=names))
    change(Path("pyproject.toml"), mend_pytest_path)
    replace_everywhere(names, moves)
    for old, new in moves.items():
        if new.endswith(".py"):
            change(Path(new), partial(mend_depth, old=old, new=new))
    make_edits(EDITS)
    write_trees({f"{old}.py": f"{new}.py" for old, new in MODULES.items()} | {"shards/": "embedding/shards/"})
    tidy()
    check()


def split() -> None:
    """Bring names to other modules, and mend whatever imports them."""
    if find_moves():
        raise SystemExit("files are not moved yet: run `move` first")
    moved: dict[tuple[str, str], str] = {}
    for each in SPLITS:
        taken = move_names(each)
        moved |= {(dot(each.source), name): dot(each.target) for name in taken}

    def place(module: str, name: str) -> tuple[str, str]:
        target = moved.get((module, name), module)
        return target, RENAMED.get((undot(target), name), name) if target != module else name

    for path in list_sources():
        change(path, lambda text: rewrite_imports(text, place))
    names = {f"{module}.{name}": ".".join(place(module, name)) for module, name in moved}
    names |= {f"{module} import {name}": " import ".join(place(module, name)) for module, name in moved}  # in strings
    replace_everywhere(names, {})
    for (target, old), new in RENAMED.items():
        change(to_path(target), partial(re.sub, rf"\b{old}\b", new))
    make_edits(SPLIT_EDITS)
    write_trees({})
    tidy()
    check()


def find_moves() -> dict[str, str]:
    """Return old -> new path of each tracked file that is to move."""
    wanted = dict(OTHERS)
    for old, new in MODULES.items():
        wanted[f"{PACKAGE}/{old}.py"] = f"{PACKAGE}/{new}.py"
        wanted[str(Path("tests", old).parent / f"test_{Path(old).name}.py")] = str(
            Path("tests", new).parent / f"test_{Path(new).name}.py"
        )
    moves: dict[str, str] = {}
    there = set(list_tracked())
    for file in sorted(there):
        folder, name = str(Path(file).parent), Path(file).name
        if file in wanted:
            moves[file] = wanted[file]
        elif folder in HELPERS_FROM and name.endswith(".py") and not name.startswith(("test_", "conftest")):
            moves[file] = f"{HELPERS}/{name}"
        else:
            for old, new in FOLDERS.items():
                if file.startswith(f"{old}/"):
                    moves[file] = new + file.removeprefix(old)
    for old, new in list(moves.items()):
        if new in there or list(moves.values()).count(new) > 1:
            print(f"by hand: {old} was to become {new}, which another file is or becomes")
            del moves[old]
    return moves


def move_files(moves: Mapping[str, str]) -> None:
    """`git mv` each file, and remove what Python left in folders that are empty now."""
    for old, new in moves.items():
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        run("git", "mv", old, new)
    for folder in {str(Path(old).parent) for old in moves}:
        if all(path.name == "__pycache__" for path in Path(folder).glob("*")):
            shutil.rmtree(folder, ignore_errors=True)


def add_packages() -> None:
    """Make the new packages' __init__.py."""
    for folder, docstring in PACKAGES.items():
        path = Path(PACKAGE, folder, "__init__.py")
        if not path.exists() and path.parent.is_dir():
            path.write_text(f'"""{docstring}"""\n', encoding="utf-8")
            run("git", "add", str(path))


def place_module(names: Mapping[str, str], package: str, name: str) -> tuple[str, str]:
    """Place `from PACKAGE import MODULE`; from other modules names come as before, since these follow as text."""
    new = names.get(f"{package}.{name}")
    if new is None:
        return package, name
    folder, _, base = new.rpartition(".")
    return folder, base


def rewrite_imports(text: str, place: Place) -> str:
    """Return a source whose `from t2m_bench... import ...` name where things are now."""
    lines = text.splitlines(keepends=True)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    for node in sorted(nodes, key=lambda node: -node.lineno):
        module = node.module or ""
        if node.level or module.split(".")[0] != PACKAGE:
            continue
        groups: dict[str, list[str]] = {}
        for alias in node.names:
            target, name = place(module, alias.name)
            known_as = alias.asname or alias.name
            groups.setdefault(target, []).append(name if name == known_as else f"{name} as {known_as}")
        if set(groups) == {module}:
            continue
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        comments = list_comments("".join(lines[first : last + 1]).strip())
        made = [f"{' ' * node.col_offset}from {target} import {', '.join(names)}" for target, names in groups.items()]
        made[0] += "  " + "  ".join(comments) if comments else ""
        lines[first : last + 1] = ["\n".join(made) + "\n"]
    return "".join(lines)


def list_comments(source: str) -> list[str]:
    """Return the comments of a statement."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def replace_everywhere(names: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Replace dotted names and paths in every text: code, strings of code, pages, scripts."""
    paths = (
        {f"{PACKAGE}/{old}.py": f"{PACKAGE}/{new}.py" for old, new in MODULES.items()} | dict(files) | FOLDERS | OTHERS
    )
    paths |= {"t2m_bench/defaults_v": "t2m_bench/recipe/defaults_v"}
    paths |= {f"{old}.py": f"{new}.py" for old, new in MODULES.items() if "/" in old}
    dotted = compile_any(names, before=r"(?<![\w.])", after=r"(?!\w)")
    slashed = compile_any(paths, before=r"(?<![\w/.-])", after=r"(?!\w|[.-]\w)")
    for file in list_tracked():
        path = Path(file)
        if path.resolve() == Path(__file__).resolve() or file == "CHANGELOG.md" or path.is_symlink():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, IsADirectoryError):
            continue
        kept = find_trees(text)
        pieces = [
            piece
            if number % 2
            else slashed.sub(lambda found: paths[found[0]], dotted.sub(lambda found: names[found[0]], piece))
            for number, piece in enumerate(cut(text, kept))
        ]
        if (new := "".join(pieces)) != text:
            path.write_text(new, encoding="utf-8")


def compile_any(words: Iterable[str], before: str, after: str) -> re.Pattern[str]:
    """Return a pattern of any of the words, the longest first, so that one pass replaces each once."""
    anything = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(f"{before}(?:{anything or '(?!)'}){after}")


def mend_depth(text: str, old: str, new: str) -> str:
    """Return a moved file's text in which `Path(__file__)...parents[N]` is the folder it was."""
    deeper = new.count("/") - old.count("/")
    pattern = re.compile(r"(Path\(__file__\)(?:\.resolve\(\))?\.parents\[)(\d+)\]")
    text = pattern.sub(lambda found: f"{found[1]}{int(found[2]) + deeper}]", text)
    if re.search(r"Path\(__file__\)(?:\.resolve\(\))?\.parent\b", text):
        print(f"by hand: {new} looks for something beside itself, and was {old}")
    return text


def make_edits(edits: Iterable[tuple[str, str, str]]) -> None:
    """Replace single texts; where neither the old nor the new one is there, say so."""
    for file, old, new in edits:
        path = Path(file)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if old in text:
            path.write_text(text.replace(old, new), encoding="utf-8")
        elif new not in text or not text:
            print(f"by hand: {file} has no {old!r}, which was to become {new!r}")


def mend_contracts(text: str, names: Mapping[str, str]) -> str:
    """Return pyproject.toml with the layers of the new house, and the other contracts in its names."""

    def rename(module: str) -> str:
        top = module.removeprefix(f"{PACKAGE}.")
        return f"{PACKAGE}.{FORMER_LAYERS[top]}" if top in FORMER_LAYERS else names.get(module, module)

    def mend(found: re.Match[str]) -> str:
        contract = found[0]
        name = re.search(r'^name = "(.*)"', contract, re.MULTILINE)
        if 'type = "layers"' in contract:
            return re.sub(r"layers = \[\n(.*?)\n\]", mend_layers, contract, flags=re.DOTALL)
        grown = GROWN_CONTRACTS.get(name[1], set()) if name else set()
        return re.sub(
            r"(source_modules|forbidden_modules) = \[(.*?)\]",
            lambda it: mend_list(it, grown),
            contract,
            flags=re.DOTALL,
        )

    def mend_list(found: re.Match[str], grown: set[str]) -> str:
        modules = list(dict.fromkeys(map(rename, re.findall(r'"([^"]+)"', found[2]))))
        if found[1] == "source_modules":
            more = (f"{PACKAGE}.{name}" for name in sorted(grown) if Path(PACKAGE, name).is_dir())
            modules += [module for module in more if module not in modules]
        return write_list(found[1], modules)

    return re.sub(r"\[\[tool\.importlinter\.contracts\]\]\n.*?(?=\n\[|\Z)", mend, text, flags=re.DOTALL)


def mend_layers(found: re.Match[str]) -> str:
    """Return the list of layers, with those that came since this was written under the ones they lay under."""
    layers, above = list(LAYERS), LAYERS[0]
    known = {name for layer in LAYERS for name in layer.split(" | ")}
    for line in re.findall(r'"([^"]+)"', found[1]):
        for module in line.split(" | "):
            top = FORMER_LAYERS.get(module.removeprefix(f"{PACKAGE}."), module.removeprefix(f"{PACKAGE}."))
            if top not in known:
                place = next(number for number, layer in enumerate(layers) if above in layer.split(" | "))
                layers.insert(place + 1, top)
                known.add(top)
                print(f"by hand: see where {top} belongs among the layers in pyproject.toml")
            above = top
    there = [
        " | ".join(
            f"{PACKAGE}.{name}"
            for name in layer.split(" | ")
            if to_path(name).exists() or to_path(name).with_suffix("").is_dir()
        )
        for layer in layers
    ]
    return "layers = [\n" + "".join(f'    "{layer}",\n' for layer in there if layer) + "]"


def write_list(name: str, items: Sequence[str]) -> str:
    """Return a list as pyproject.toml has it, on one line where it fits."""
    line = f"{name} = [{', '.join(map(quote, items))}]"
    return line if len(line) <= 120 else f"{name} = [\n" + "".join(f"    {quote(item)},\n" for item in items) + "]"


def mend_pytest_path(text: str) -> str:
    """Return pyproject.toml with the folder of helpers on pytest's path."""
    found = re.search(r"^pythonpath = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    if found is None:
        print(f"by hand: {HELPERS} belongs on pytest's pythonpath")
        return text
    folders = [folder for folder in re.findall(r'"([^"]+)"', found[1]) if folder not in HELPERS_FROM]
    folders += [HELPERS] if HELPERS not in folders else []
    return text.replace(found[0], write_list("pythonpath", folders))


def write_trees(renamed: Mapping[str, str]) -> None:
    """Write the package's files anew into every page that has their tree, in the order of folders."""
    files = [str(path.relative_to(PACKAGE)) for path in Path(PACKAGE).rglob("*.py") if path.name != "__init__.py"]
    for page in (Path(file) for file in list_tracked() if file.endswith(".md")):
        text = page.read_text(encoding="utf-8")
        for start, end in find_trees(text)[:1]:
            lines = [line.split(None, 1) for line in text[start:end].splitlines()]
            if any(name.endswith("/") for name, *_ in lines):
                print(f"by hand: the tree in {page} names folders")
                continue
            told = {rename_file(name, renamed): (rest or [""])[0] for name, *rest in lines}
            page.write_text(text[:start] + make_tree(files, told) + text[end:], encoding="utf-8")


def find_trees(text: str) -> list[tuple[int, int]]:
    """Return start and end of the lines below `t2m_bench/` in each tree of a page."""
    pattern = re.compile(rf"^```text\n{PACKAGE}/\n((?:  .*\n)+)", re.MULTILINE)
    return [found.span(1) for found in pattern.finditer(text)]


def rename_file(file: str, renamed: Mapping[str, str]) -> str:
    """Return a file's new path below the package."""
    for old, new in renamed.items():
        if file == old:
            return new
    for old, new in renamed.items():
        if old.endswith("/") and file.startswith(old):
            return new + file.removeprefix(old)
    return file


def make_tree(files: Sequence[str], told: Mapping[str, str]) -> str:
    """Return a tree's lines: the folders in their order, their files as they were told before, new ones after."""
    before = {file: number for number, file in enumerate(told)}

    def order(file: str) -> tuple[int, str, int, str]:
        folder = "" if "/" not in file else file.rpartition("/")[0]
        place = TREE_FOLDERS.index(folder) if folder in TREE_FOLDERS else len(TREE_FOLDERS)
        return place, folder, before.get(file, len(before)), file

    width = max(map(len, files)) + 2
    lines = []
    for file in sorted(files, key=order):
        description = TREE_LINES.get(file) or told.get(file) or read_first_words(Path(PACKAGE, file))
        lines.append(f"  {file:{width}}{description}".rstrip())
    for line in lines:
        if len(line) > 120:
            print(f"by hand: a line of the tree is too long: {line}")
    return "\n".join(lines) + "\n"


def read_first_words(path: Path) -> str:
    """Return a module's subject from its docstring, for a tree that did not tell it."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    words = re.split(r"[.:\n]", docstring)[0]
    print(f"by hand: a tree describes {path} by its docstring: {words}")
    return words[:1].lower() + words[1:]


def move_names(each: Split) -> list[str]:
    """Bring names from one module to another; return those that the source no longer has."""
    source, target = to_path(each.source), to_path(each.target)
    before = read_definitions(source)
    there = read_definitions(target)
    done = [name for name in each.names if name not in before and RENAMED.get((each.target, name), name) in there]
    names = [name for name in each.names if name in before and name not in there]
    for name in each.names:
        if name not in done and name not in names:
            print(f"by hand: {name} is in {'both' if name in before else 'neither'} of {source} and {target}")
    if names:
        text = source.read_text(encoding="utf-8")
        segments = [take(text, before[name]) for name in names]
        needed = find_imports(text, segments, set(names) | set(there), each)
        if not target.exists():
            target.write_text(f'"""{NEW_MODULES[each.target]}"""\n', encoding="utf-8")
            run("git", "add", "--intent-to-add", str(target))
        rest = drop(text, [before[name] for name in names])
        used = [name for name in names if re.search(rf"\b{name}\b", strip_imports(rest))]
        back = [f"from {dot(each.target)} import {name}" for name in used]
        change(target, lambda old: insert(old, needed, names, segments, each.after))
        source.write_text(add_imports(rest, back), encoding="utf-8")
        if is_empty(rest):
            run("git", "rm", "--force", "--quiet", str(source))
    return done + names


def read_definitions(path: Path) -> dict[str, tuple[int, int]]:
    """Return name -> first and last line, counted from 0 and last excluded, of a module's own top-level names."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    lines, body = text.splitlines(), ast.parse(text).body
    found = {}
    for node, following in pairwise([*body, ast.Pass()]):
        end = node.end_lineno if hasattr(node, "end_lineno") else 0
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            assigned = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if not isinstance(assigned, ast.Name):
                continue
            name, start = assigned.id, node.lineno
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                end = following.end_lineno
        else:
            continue
        while start > 1 and lines[start - 2].startswith("#"):
            start -= 1
        found[name] = (start - 1, end or start)
    return found


def take(text: str, span: tuple[int, int]) -> str:
    """Return the lines of a definition."""
    return "\n".join(text.splitlines()[span[0] : span[1]]) + "\n"


def drop(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a source without some definitions."""
    gone = {line for start, end in spans for line in range(start, end)}
    return "".join(line for number, line in enumerate(text.splitlines(keepends=True)) if number not in gone)


def find_imports(text: str, segments: Iterable[str], known: set[str], each: Split) -> list[str]:
    """Return the imports that definitions need in another module.

    Raises:
        SystemExit: they use what stays behind.
    """
    used = set()
    for node in ast.walk(ast.parse("\n".join(segments))):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            used.add(node.value)  # an annotation in quotes
    imports = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                known_as = (alias.asname or alias.name).split(".")[0]
                if known_as not in used or known_as in known:
                    continue
                known.add(known_as)
                name = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                origin = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
                if origin != f"from {dot(each.target)} ":
                    imports.append(f"{origin}import {name}")
    left = sorted(used & set(read_definitions(to_path(each.source))) - known)
    if left:
        raise SystemExit(f"{each.names} cannot leave {each.source} without {left}: add them to the split")
    return imports


def insert(text: str, imports: Sequence[str], names: Sequence[str], segments: Sequence[str], after: str) -> str:
    """Return a module with more definitions: constants above its first class or function, others after `after`."""
    text = add_imports(text, imports)
    lines = text.splitlines(keepends=True)
    body = ast.parse(text).body
    definitions = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    starts = [min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1 for node in definitions]
    top = min(starts, default=len(lines))
    ends = [node.end_lineno or 0 for node in definitions if node.name == after]
    end = ends[0] if ends else len(lines)
    constants = [segment for segment in segments if not segment.startswith(("def ", "class ", "@"))]
    others = [segment for segment in segments if segment not in constants]
    if not definitions:  # a new module: as told
        return "".join([*lines, "\n", *(f"\n{each}" if each in others else space(each) for each in segments)])
    lines[end:end] = ["\n\n" + "\n\n".join(others)] if others else []
    above, below = "".join(lines[:top]).rstrip("\n"), "".join(lines[top:])
    return "".join([above, "\n\n", *map(space, constants), "\n\n", below])


def space(constant: str) -> str:
    """Return a constant's lines, with a blank one below its docstring."""
    return f"{constant}\n" if '"""' in constant else constant


def add_imports(text: str, imports: Sequence[str]) -> str:
    """Return a source with more imports, below its docstring; ruff sorts and joins them."""
    if not imports:
        return text
    body = ast.parse(text).body
    has_docstring = bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    line = (body[0].end_lineno or 0) if has_docstring else 0
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:line], "\n", *(f"{each}\n" for each in imports), *lines[line:]])


def strip_imports(text: str) -> str:
    """Return what a source does, without its imports, docstrings and comments."""
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def is_empty(text: str) -> bool:
    """Return whether a module has a docstring and imports alone."""
    return all(isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) for node in ast.parse(text).body)


def tidy() -> None:
    """Sort imports, drop those no longer used, and format."""
    ruff = Path(sys.executable).with_name("ruff")
    command = str(ruff) if ruff.is_file() else shutil.which("ruff")
    if command is None:
        raise SystemExit("ruff is not installed beside this Python")
    run(command, "check", "--quiet", "--select", "I,F401", "--fix", ".")
    run(command, "format", "--quiet", ".")


def check() -> None:
    """Print what names a module, a name or a path that is not there."""
    whole = re.compile(rf"(?<![\w./-]){PACKAGE}((?:\.[A-Za-z_]\w*)+)")
    imported = re.compile(rf"from ({PACKAGE}[\w.]*) import ([A-Za-z_][\w, ]*)")
    slashed = re.compile(rf"(?<![\w./-])(?:{PACKAGE}|tests)/[\w/]+\.py\b")
    for file in list_tracked():
        path = Path(file)
        if path.resolve() == Path(__file__).resolve() or file == "CHANGELOG.md" or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lost = [found[0] for found in whole.finditer(text) if not is_there(PACKAGE, found[1].strip(".").split("."))]
        for found in imported.finditer(text):
            names = [name.split(" as ")[0].strip() for name in found[2].split(",")]
            lost += [f"{found[1]}.{name}" for name in names if name and not is_there(found[1], [name])]
        lost += [found[0] for found in slashed.finditer(text) if not Path(found[0]).exists()]
        for each in dict.fromkeys(name for name in lost if name not in MADE_UP):
            print(f"by hand: {file} names {each}, which is not there")


def is_there(module: str, parts: Sequence[str]) -> bool:
    """Return whether a dotted name is a package, a module, or a name of a module; attributes of names are not asked."""
    place = Path(*module.split("."))
    for part in parts:
        if (place / part).is_dir() or (place / f"{part}.py").is_file():
            place /= part
            continue
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        return has_name(source, part)
    return place.is_dir() or place.with_suffix(".py").is_file()


def has_name(path: Path, name: str) -> bool:
    """Return whether a module defines or imports a name at its top."""
    if not path.is_file():
        return False
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = {node.name}
        else:
            stored = (each for each in ast.walk(node) if isinstance(each, ast.Name))
            names = {each.id for each in stored if isinstance(each.ctx, ast.Store)}
        if name in names:
            return True
    return False


def change(path: Path, edit: Callable[[str], str]) -> None:
    """Write a text anew where an edit changes it."""
    text = path.read_text(encoding="utf-8")
    if (new := edit(text)) != text:
        path.write_text(new, encoding="utf-8")


def cut(text: str, spans: Iterable[tuple[int, int]]) -> list[str]:
    """Return a text in pieces, of which every second is a span."""
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def list_tracked() -> list[str]:
    """Return the files that git knows and that are there."""
    return [file for file in run("git", "ls-files").splitlines() if Path(file).is_file()]


def list_sources() -> list[Path]:
    """Return Python files, but for this one."""
    own = Path(__file__).resolve()
    return [Path(file) for file in list_tracked() if file.endswith(".py") and Path(file).resolve() != own]


def dot(module: str) -> str:
    """Return the dotted name of a module below the package."""
    return f"{PACKAGE}.{module.replace('/', '.')}"


def undot(module: str) -> str:
    """Return a module's path below the package, without .py."""
    return module.removeprefix(f"{PACKAGE}.").replace(".", "/")


def to_path(module: str) -> Path:
    """Return the file of a module below the package."""
    return Path(PACKAGE, f"{module}.py")


def quote(text: str) -> str:
    """Return a text as TOML has it."""
    return f'"{text}"'


def run(*command: str) -> str:
    """Run a program and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
