import stat
from pathlib import Path

import pytest
from messages import raises_naming

from t2m_bench.data.case import Case
from t2m_bench.data.pseudonyms import KEY_NAME, Pseudonyms, load_or_create_pseudonyms, pseudonymise
from t2m_bench.errors import DatasetError


def test_the_key_is_kept_and_private(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "pseudonyms.key"
    first = load_or_create_pseudonyms(path)
    assert load_or_create_pseudonyms(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_pseudonyms(tmp_path / "other.key") != first


def test_names_depend_on_key_and_kind_and_hide_the_identifier() -> None:
    one, other = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)
    name = one.of("bus_0001-l", "case")
    assert name == one.of("bus_0001-l", "case") != other.of("bus_0001-l", "case")
    assert name != one.of("bus_0001-l", "patient").replace("patient", "case")
    assert "0001" not in name


def test_colliding_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2m_bench.data.pseudonyms.DIGITS", 1)
    with raises_naming(DatasetError, "case", KEY_NAME):
        Pseudonyms(b"1" * 32).of_all([str(number) for number in range(17)], "case")


def test_strata_stay_with_the_case_and_its_own_text_does_not() -> None:
    case = Case(
        "c", "p", Path("i"), Path("m"), 9, 9, (1, 1, 5, 5), {"birads": "4"}, 1, None, (), "", "",
        source="Mrs Doe", strata={"scanner": "A"}, text="Mrs Doe has a mass.",
    )  # fmt: skip
    (hidden,) = pseudonymise([case], Pseudonyms(b"1" * 32))
    assert hidden.strata == {"scanner": "A"}
    assert (hidden.text, hidden.source) == ("", "")
    assert "Doe" not in repr(hidden)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("gone")
    with raises_naming(DatasetError, tmp_path / "key"):
        load_or_create_pseudonyms(tmp_path / "key")
