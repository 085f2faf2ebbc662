from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages import check_names
from simulated_suite import Suite

from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.results import Results, load_experiment
from t2m_bench.reporting.verdicts import make_verdicts
from t2m_bench.reporting.wording import (
    WordingTables,
    collect_tables,
    estimate_wordings,
    judge_wording,
    list_wordings,
)
from t2m_bench.statistics.decision import Outcome, Reason

ARMS = ("baseline", "text_free", "hierarchical")
TIGHT = {"tight": 0.0}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load_experiment(Suite(ARMS, patients=48, boxes=TIGHT).write(tmp_path_factory.mktemp("wording")))


def change(results: Results, condition: str, by: pd.Series | float) -> Results:
    """Return results in which the Dice of a condition is moved."""
    table = results.table
    return replace(results, table=table.assign(dice=table["dice"] + np.where(table["condition"] == condition, by, 0.0)))


def test_wordings_that_cost_nothing_are_equivalent_by_the_text_effect(results: Results) -> None:
    found = judge_wording(results, "hierarchical")
    assert found is not None
    assert found.outcome is Outcome.NO_DIFFERENCE
    assert found.decision is not None
    assert found.decision.margin == pytest.approx(0.2 * 0.04, abs=0.0005), "20 % of what any other class costs"


def test_one_sentence_that_is_misread_forbids_the_claim(results: Results) -> None:
    """All patients agree, so that only the spread between sentences can tell."""
    found = judge_wording(change(results, "paraphrase:2", -0.018), "hierarchical")
    assert found is not None
    assert found.decision is not None
    assert found.decision.contrast is not None
    assert found.decision.contrast.mean == pytest.approx(0.0065, abs=0.001), "within the margin by itself"
    assert found.outcome is not Outcome.NO_DIFFERENCE


def test_wordings_that_all_cost_a_third_of_the_text_effect_cost(results: Results) -> None:
    moved = results
    for number in (1, 2, 3):
        moved = change(moved, f"paraphrase:{number}", -0.013)
    found = judge_wording(moved, "hierarchical")
    assert found is not None
    assert found.outcome is Outcome.GAIN, "right text gains over its rewording"


def test_equivalence_that_a_few_patients_pay_for_is_withheld(results: Results) -> None:
    table = results.table
    few = table["patient"].isin(sorted(table["patient"].unique())[::12])
    moved = results
    for number in (1, 2, 3):
        moved = change(moved, f"paraphrase:{number}", pd.Series(np.where(few, -0.03, 0.0032), table.index))
    found = judge_wording(moved, "hierarchical")
    assert found is not None
    assert found.decision is not None
    assert found.decision.outlying_patients == pytest.approx(4 / 48)
    assert (found.outcome, found.decision.reason) == (Outcome.WITHHELD, Reason.FEW_DECIDE)


def test_wordings_that_no_patient_has_beside_another_text_have_no_margin(results: Results) -> None:
    """As of free text whose reworded patients are those without a class."""
    table = results.table
    some = table["patient"].isin(sorted(table["patient"].unique())[:24])
    is_worded = table["condition"].str.startswith("paraphrase")
    is_other = table["condition"].str.startswith(("swap", "wrong", "other_patient"))
    kept = table[~(is_worded & ~some) & ~(is_other & some)]
    found = judge_wording(replace(results, table=kept), "hierarchical")
    assert found is not None
    assert found.decision is not None
    assert found.decision.reason is Reason.NO_EFFECT_KNOWN
    assert judge_wording(replace(results, table=kept[~(kept["condition"] == "right")]), "hierarchical") is None


def test_a_single_held_out_sentence_of_an_older_run_is_reported_and_proves_nothing(tmp_path: Path) -> None:
    suite = Suite(ARMS, patients=48, boxes=TIGHT, wordings=("paraphrase",))
    old = load_experiment(suite.write(tmp_path))
    experiment = {name: value for name, value in old.experiment.items() if name != "prompts"}
    old = replace(old, experiment=experiment)
    found = {verdict.key: verdict for verdict in make_verdicts(old, make_comparisons(old))}["paraphrase"]
    assert found.outcome is Outcome.WITHHELD
    assert found.decision is not None
    assert found.decision.reason is Reason.FEW_WORDINGS
    assert found.decision.contrast is not None
    assert found.decision.contrast.mean == pytest.approx(0.0005, abs=0.0005)
    check_names(" ".join(found.sentences), "not recorded")


def test_sentences_that_name_their_class_are_told(results: Results) -> None:
    noted = results.experiment | {"prompts": {"num_wordings": 3, "num_held_out": 15, "num_naming": 12}}
    found = judge_wording(replace(results, experiment=noted), "hierarchical")
    assert found is not None
    check_names(" ".join(found.sentences), "12 of 15")


def test_differences_are_those_of_a_plain_table(results: Results) -> None:
    names = list_wordings(results, "hierarchical")
    assert names == ["paraphrase:1", "paraphrase:2", "paraphrase:3"]
    wrong = results.select("hierarchical", "wrong")
    tables = collect_tables(results, "hierarchical", names, wrong)
    rows = results.table[results.table["arm"] == "hierarchical"]
    dice = rows.pivot_table(index=["patient", "seed", "case"], columns="condition", values="dice")
    means = dice.groupby(["patient", "seed"]).mean().groupby("patient").mean()
    for name in names:
        expected = (means["right"] - means[name]).to_numpy()
        np.testing.assert_allclose(tables.lost[name].sort_index().to_numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(
        tables.effect.sort_index().to_numpy(), (means["right"] - means["wrong"]).to_numpy(), atol=1e-12
    )
    estimate = estimate_wordings(tables)
    assert estimate.contrast.mean == pytest.approx(float(tables.lost.to_numpy().mean()))


def draw_tables(rng: np.random.Generator, cost: float, between_sentences: float, num: int = 12) -> WordingTables:
    """Draw 4 classes of `num` patients and 3 sentences; the text effect is 0.006."""
    classes = np.repeat(np.arange(4), num)
    sentences = rng.normal(cost, between_sentences, (4, 3))
    effect = rng.normal(0.006, 0.004, len(classes))
    lost = sentences[classes] + rng.normal(0, 0.003, (len(classes), 1)) + rng.normal(0, 0.002, (len(classes), 3))
    own = pd.Series(classes.astype(str))
    return WordingTables(pd.DataFrame(lost), pd.Series(effect), {"birads": own})


@pytest.mark.parametrize(("cost", "highest"), [(0.0012, 0.08), (0.004, 0.02)])
@pytest.mark.parametrize("between_sentences", [0.0, 0.002])
def test_equivalence_is_seldom_claimed_of_wordings_that_cost_the_margin_or_more(
    cost: float, highest: float, between_sentences: float
) -> None:
    """At a fifth of the text effect at most 5 % (8 % with 1.96 Monte Carlo errors), at two thirds of it hardly ever."""
    rng = np.random.default_rng(5)
    claims = [estimate_wordings(draw_tables(rng, cost, between_sentences)).equivalence_p < 0.05 for _ in range(300)]
    assert np.mean(claims) <= highest


def test_equivalence_is_mostly_found_where_it_is() -> None:
    rng = np.random.default_rng(6)
    claims = [estimate_wordings(draw_tables(rng, 0.0, 0.0005, num=40)).equivalence_p < 0.05 for _ in range(100)]
    assert np.mean(claims) > 0.8
