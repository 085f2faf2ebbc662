"""What the check of compared phrases sees, and what it lets pass."""

from pathlib import Path

import pytest
from count_phrases import ALLOWED, count_words, find_phrases, main

HELPER = """
def check(message, *parts):
    assert not [part for part in parts if part not in message]

class Lab:
    def wait(self, text):
        while text not in self.read():
            pass
"""

SEEN = {
    "equal": "assert text == 'the text helps'",
    "contained": "assert 'the text helps' in text",
    "absent": "assert 'the text helps' not in text",
    "inside any": "assert any('the text helps' in line for line in lines)",
    "in a list": "assert lines == ['ok', 'the text helps']",
    "in a table": "assert told == {'help': 'the text helps'}",
    "a subset": "assert {'the text helps'} <= lines",
    "formatted": "assert f'{name}: the text helps' in text",
    "match": "with pytest.raises(ValueError, match='the text helps'): run()",
    "match with wildcards": r"with pytest.raises(ValueError, match=r'a\.b .*does not.*c'): run()",
    "start": "assert text.startswith('the text helps')",
    "expression": "assert re.search('the text helps', text)",
    "no assert": "if 'the text helps' not in text: pytest.fail()",
    "variable": "wanted = 'the text helps'\nassert wanted in text",
    "loop": "for name, wanted in [('a', 'the text helps')]:\n    assert wanted in read(name)",
    "items": "for name, wanted in {'a': 'the text helps'}.items():\n    assert wanted in read(name)",
    "helper": "from helper import check\ncheck(text, 'a', 'the text helps')",
    "method": "lab.wait('the text helps')",
    "helper of a helper": "def outer(part):\n    lab.wait(part)\nouter('the text helps')",
    "parametrized": "@pytest.mark.parametrize(('a', 'b'), [(1, 'the text helps')])\ndef test(a, b): assert b in run(a)",
    "parametrized alone": "@pytest.mark.parametrize('b', ['the text helps'])\ndef test(b): assert b in run()",
    "parametrized match": (
        "@pytest.mark.parametrize('a, b', [pytest.param(1, 'the text helps', id='x')])\n"
        "def test(a, b):\n    with pytest.raises(ValueError, match=b): run(a)"
    ),
    "row of a table": (
        "BAD = {'one': (1, 'the text helps')}\n@pytest.mark.parametrize('name', BAD)\n"
        "def test(name):\n    value, wanted = BAD[name]\n    assert wanted in run(value)"
    ),
}

UNSEEN = {
    "two words": "assert 'text helps' in line",
    "names and numbers": "assert 'adapter.fine.heads = 7' in text",
    "an input": "assert run('the text helps') == 3",
    "a message of the assertion": "assert done, 'the text helps'",
    "the key of a table": "assert table['the text helps'] == 3",
    "ids of a table": (
        "BAD = {'the text helps': 1}\n@pytest.mark.parametrize('name', BAD)\n"
        "def test(name):\n    assert run(BAD[name]) == 2"
    ),
    "inputs beside": (
        "@pytest.mark.parametrize(('a', 'b'), [('the text helps', 1)])\ndef test(a, b): assert run(a) == b"
    ),
    "not compared by the helper": "def show(text): print(text)\nshow('the text helps')",
    "a name of its own": "text = text[0]\nassert text == 'ok'",
}


def find(source: str) -> list[str]:
    sources = {Path("helper.py"): HELPER, Path("test_it.py"): source}
    return [phrase.reason for phrase in find_phrases(sources)]


@pytest.mark.parametrize("name", SEEN)
def test_a_compared_phrase_is_found_once(name: str) -> None:
    assert find(SEEN[name]) == [""]


@pytest.mark.parametrize("name", UNSEEN)
def test_what_pins_no_wording_is_let_pass(name: str) -> None:
    assert find(UNSEEN[name]) == []


@pytest.mark.parametrize(
    "source",
    [
        "assert 'the text helps' in text  # phrase: promised",
        "# phrase: promised\nassert 'the text helps' in text",
        "# phrase: promised\nassert text == [\n    'ok',\n    'the text helps',\n]",
        "assert text == [\n    'ok',\n    # phrase: promised\n    'the text helps',\n]",
    ],
)
def test_the_reason_stands_beside_or_above(source: str) -> None:
    assert find(source) == ["promised"]
    assert find(source.replace("phrase:", "note:")) == [""]


def test_wildcards_part_words() -> None:
    assert [count_words(text) for text in ("a.b.c", r"a\.b .*c", r"(a|b)\s+c", "3 of 4")] == [1, 2, 3, 1]


@pytest.mark.parametrize(
    ("number", "comment", "code"),
    [(ALLOWED, "# phrase: promised", 0), (ALLOWED + 1, "# phrase: promised", 1), (1, "", 1), (0, "", 0)],
)
def test_too_many_and_those_without_a_reason_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, comment: str, code: int
) -> None:
    (tmp_path / "test_it.py").write_text(f"assert 'the text helps' in text  {comment}\n" * number)
    assert main(tmp_path) == code
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == number
    assert all(line.startswith(f"{tmp_path / 'test_it.py'}:") for line in lines)
    assert last.split()[0] == str(number)
