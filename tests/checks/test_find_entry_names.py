"""The check of entries' names finds names outside their tables and lets the exceptions pass."""

import shutil
from pathlib import Path

import pytest
from find_entry_names import ALLOWED, EXCEPTIONS, find_names, list_homes, main

PACKAGE = Path(__file__).resolve().parents[2] / "t2m_bench"


def write(folder: Path, file: str, code: str) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return folder


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("if kind == 'nsclc': pass", "nsclc"),
        ("if arm in ('gated', other): pass", "gated"),
        ("table = {'vit_b': 1}", "vit_b"),
        ("def ask(condition='wrong'): pass", "wrong"),
        ("rows['dice']", "dice"),
        ("f'{rows[\"dice\"]}'", "dice"),
        ("match kind:\n    case 'mini': pass", "mini"),
        ("match kind:\n    case {'arm': 'gated' | 'hierarchical'}: pass", "gated"),
        ("f'{field}:wrong'", "wrong"),
        ("f'gated-{seed}'", "gated"),
        ("f'{arm}_dice'", "dice"),
        ("f'run image_encoder.preset=vit_b with {folder}'", "vit_b"),
        ("name.startswith('adapter.gated.')", "gated"),
    ],
)
def test_a_name_is_found(tmp_path: Path, code: str, name: str) -> None:
    found, *_ = find_names(write(tmp_path, "runs/any.py", code), list_homes())
    assert (found.file, found.name, found.exempt) == ("runs/any.py", name, None)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("recipe/arms.py", "A = 'gated'"),
        ("evaluation/conditions.py", "yield_ = 'wrong'"),
        ("metrics/measures.py", "A = 'surface_dice'"),
        ("data/datasets/nsclc/data_set.py", "A = 'nsclc'"),
        ("runs/any.py", "A = 'wrong text'\n'a docstring of dice'\nwrong = gated = 1"),
        ("runs/any.py", "B = f'{x}: the wrong text'\nC = f'\\\\label{{{x}}}'\nD = 'mini.json'\n'bench.arms=gated'"),
    ],
)
def test_tables_and_own_files_may_name_an_entry(tmp_path: Path, file: str, code: str) -> None:
    assert not list(find_names(write(tmp_path, file, code), list_homes()))


def test_an_own_file_may_not_name_others(tmp_path: Path) -> None:
    assert [found.name for found in find_names(write(tmp_path, "metrics/measures.py", "A = 'gated'"), list_homes())]


def test_the_check_fails_for_a_name_and_for_an_idle_exception(tmp_path: Path) -> None:
    assert main(PACKAGE) == 0
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "t2m_bench", ignore=shutil.ignore_patterns("weights")))
    write(copy, "runs/more.py", "if arm == 'gated': pass")
    assert main(copy) == 1
    (copy / "runs/more.py").unlink()
    assert main(copy) == 0
    (copy / "search/samplers.py").unlink()
    assert main(copy) == 1


def test_exceptions_are_few_and_reasoned() -> None:
    assert len(EXCEPTIONS) <= ALLOWED <= 5
    assert all(item.reason and item.files for item in EXCEPTIONS)
