"""When a message names a part."""

import pytest
from messages import check_names, is_named, raises_naming


@pytest.mark.parametrize(
    ("message", "part", "named"),
    [
        ("a.heads = 7.", 7, True),
        ("a.heads = 17", 7, False),
        ("a.gate = 0.7", 7, False),
        ("a.gate = 7.5", 7, False),
        ("a.overheads", "heads", False),
        ("/data/x.csv: absent", "x.csv", True),
        ("found [0, 1]", "[0, 1]", True),
        ("line 41", "line 4", False),
    ],
)
def test_a_part_stands_on_its_own(message: str, part: object, named: bool) -> None:
    assert is_named(message, str(part)) == named


def test_what_is_not_named_fails_and_so_does_another_exception() -> None:
    check_names("a.heads = 7", "a.heads", 7)
    with pytest.raises(AssertionError):
        check_names("a.heads = 7", "a.heads", 8)
    with pytest.raises(AssertionError), raises_naming(ValueError, "heads"):
        raise ValueError("tokens")
    with pytest.raises(KeyError), raises_naming(ValueError, "heads"):
        raise KeyError("heads")
    with pytest.raises(pytest.fail.Exception), raises_naming(ValueError, "heads"):
        pass
