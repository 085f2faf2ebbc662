from pathlib import Path

import pytest

from t2m_bench import load_results
from t2m_bench.errors import RunFolderError
from t2m_bench.metrics.results import list_columns


def test_results_are_one_table_with_the_verdicts_beside_it(whole_suite: Path) -> None:
    table = load_results(whole_suite)
    assert set(table.columns) == {*list_columns(), "run"}
    assert set(table["arm"]) >= {"text_free", "hierarchical", "baseline"}
    help_ = table.verdicts[0]
    assert help_.keys() == {"about", "question", "outcome", "headline", "sentences"}
    assert (help_["about"], help_["outcome"]) == ("help", "gain")
    chosen = table[table["arm"] == "hierarchical"]
    assert chosen.verdicts == table.verdicts
    assert 0.5 < chosen.groupby("condition")["dice"].mean()["right"] < 1.0


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        load_results(tmp_path)
