import threading

import pytest

from t2m_bench.data.prefetch import prefetch


def test_the_next_is_made_while_the_present_one_is_used_and_no_further() -> None:
    begun = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        begun[number].set()
        return number

    made = prefetch(make, range(4))
    for number in range(3):
        assert next(made) == number
        assert begun[number + 1].wait(10)
        assert not any(event.is_set() for event in begun[number + 2 :])
    assert list(made) == [3]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_each_is_made_once_and_in_order(count: int) -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        return -number

    assert list(prefetch(make, range(count))) == [-number for number in range(count)]
    assert begun == list(range(count))


def test_what_cannot_be_made_is_raised_in_its_turn() -> None:
    made = prefetch(lambda item: 6 // item, [3, 2, 0, 1])
    assert [next(made), next(made)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_one_that_is_left_early_makes_no_more() -> None:
    begun: list[int] = []
    made = prefetch(begun.append, range(100))
    next(made)
    made.close()
    assert begun == [0, 1]
