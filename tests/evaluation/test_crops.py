"""Which cases have pictures."""

import itertools

import pytest

from t2m_bench.evaluation.crops import MAX_SHOWN, choose_shown


@pytest.mark.parametrize("count", [0, 1, 365, MAX_SHOWN])
def test_every_case_of_a_fold_may_be_shown(count: int) -> None:
    """Else the best and the worst that a report shows would be those of a few."""
    assert choose_shown(count) == list(range(count))


def test_of_a_large_fold_as_many_are_spread_evenly() -> None:
    chosen = choose_shown(100_000)
    assert len(chosen) == MAX_SHOWN
    assert (chosen[0], chosen[-1]) == (0, 99_999)
    steps = {after - before for before, after in itertools.pairwise(chosen)}
    assert max(steps) - min(steps) <= 1
