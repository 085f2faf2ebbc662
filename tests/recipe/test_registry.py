"""Tables that packages outside may add to, with real installed metadata."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from messages import check_names, raises_naming

from t2m_bench.errors import RecipeError
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.registry import Registry, load_object


@dataclass(frozen=True)
class Entry:
    name: str
    value: int = 0


def make_table() -> Registry[Entry]:
    return Registry("thing", "t2m_bench.test_things", (Entry("apple"), Entry("pear", 2)), reserved=("none",))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str, code: str) -> None:
    """Put a package with entry points on the path, as an installer does."""
    (folder / "added_things.py").write_text(code)
    info = folder / "added_things-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added-things\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[t2m_bench.test_things]\n{points}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "added_things", raising=False)


def test_ours_keep_their_order_and_unknown_names_get_the_nearest() -> None:
    table = make_table()
    assert table.names == ("apple", "pear")
    assert [entry.value for entry in table] == [0, 2]
    with pytest.raises(RecipeError) as raised:
        table.find("aple")
    assert {"aple", "apple?"} <= set(str(raised.value).split())


def test_an_installed_package_adds_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from tests_entry import Entry\nPLUM = Entry('plum', 7)\n"
    monkeypatch.setitem(sys.modules, "tests_entry", sys.modules[__name__])
    install(tmp_path, monkeypatch, "plum = added_things:PLUM", code)
    table = make_table()
    assert table.names == ("apple", "pear", "plum")
    assert "plum" in table
    assert table.find("plum") == Entry("plum", 7)


def test_ours_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "pear = added_things:PEAR", "raise RuntimeError('never imported')")
    assert make_table().find("pear") == Entry("pear", 2)


@pytest.mark.parametrize("code", ["raise RuntimeError('broken')", "PLUM = 'no entry'", ""])
def test_a_package_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    install(tmp_path, monkeypatch, "plum = added_things:PLUM", code)
    with pytest.raises(RecipeError) as raised:
        make_table().find("plum")
    assert "plum" in str(raised.value)
    assert "added_things:PLUM" in str(raised.value)


def test_every_encoder_names_code_that_exists() -> None:
    for entry in IMAGE_ENCODERS:
        for code in (entry.build, entry.rename, entry.finish):
            assert not code or callable(load_object(code))


@pytest.mark.parametrize("name", ["none", "Plum", "red-plum"])
def test_names_that_results_cannot_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    code = f"from tests_entry import Entry\nPLUM = Entry({name!r})\n"
    monkeypatch.setitem(sys.modules, "tests_entry", sys.modules[__name__])
    install(tmp_path, monkeypatch, f"{name} = added_things:PLUM", code)
    with raises_naming(RecipeError, name, "added_things:PLUM", "added-things"):
        make_table().find(name)


def test_code_that_an_entry_names_and_that_is_not_there_is_named() -> None:
    for code in ("no_such_module:build", "t2m_bench.files:no_such_function"):
        with raises_naming(RecipeError, code):
            load_object(code)


def test_our_own_entries_are_read_without_importing_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "plum = added_things:PLUM", "raise RuntimeError('imported')")
    table = make_table()
    assert [entry.name for entry in table.own] == ["apple", "pear"]
    assert (table.get("pear"), table.get("plom"), table.names[-1]) == (Entry("pear", 2), None, "plum")


def test_a_broken_entry_is_left_out_with_one_line_where_the_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch, "plum = added_things:PLUM", "raise RuntimeError('broken')")
    table = make_table()
    assert "plum" in table
    assert [entry.name for entry in table] == [entry.name for entry in table.own]
    assert list(table) == list(table.own)
    (line,) = capsys.readouterr().err.splitlines()
    check_names(line, "plum", "added_things:PLUM", "RuntimeError")
    assert table.broken.keys() == {"plum"}
    with raises_naming(RecipeError, "plum"):
        table.find("plum")
