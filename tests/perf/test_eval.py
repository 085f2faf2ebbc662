import pytest
from messages import check_names
from torch import Tensor

from t2m_bench.data.frame import Frame
from t2m_bench.models.segmenter import restore_mask
from t2m_bench.perf.eval import measure_one
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN


def test_all_conditions_are_compared_at_equal_dice_with_both_ways_of_asking_one() -> None:
    found = measure_one("cpu", num_cases=3, grid=4, repeats=1)
    for one in found:
        assert [row.way for row in one.rows] == [PLAIN, OURS, LIMIT]
    # right, three other classes, held-out sentence, unknown and random vector; the others repeat one of these
    check_names(found[0].setting, "3 cases", "33 questions", "7.00")
    assert found[0].rows[1:] == found[1].rows[1:]


def test_other_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def turn_round(low_res_logits: Tensor, frame: Frame, height: int, width: int) -> Tensor:
        return restore_mask(-low_res_logits, frame, height, width)

    monkeypatch.setattr("t2m_bench.evaluation.evaluate.restore_mask", turn_round)
    with pytest.raises(AssertionError):
        measure_one("cpu", num_cases=2, grid=4, repeats=1)
