import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages import check_names, is_named
from simulated_suite import GAIN, Suite

from t2m_bench.reporting.comparisons import FAMILY, PRIMARY, make_comparisons
from t2m_bench.reporting.ladder import make_ladder_table
from t2m_bench.reporting.results import Results, load_experiment
from t2m_bench.reporting.verdicts import Outcome, Verdict, judge, make_verdicts
from t2m_bench.statistics.crossed import Contrast, estimate_crossed

ARMS = ("baseline", "text_free", "label", "gated", "hierarchical")
TIGHT = {"tight": 0.0}


def contrast(mean: float, error: float) -> Contrast:
    return Contrast(mean, error, 1000.0, 100, 5, 4)


@pytest.mark.parametrize(
    ("mean", "error", "outcome"),
    [
        (0.02, 0.005, Outcome.HELPS),
        (0.003, 0.001, Outcome.HELPS),  # small, and surely above 0
        (0.001, 0.002, Outcome.NEGLIGIBLE),
        (-0.003, 0.001, Outcome.NEGLIGIBLE),
        (-0.02, 0.005, Outcome.HURTS),
        (0.003, 0.002, Outcome.UNDECIDED),
        (-0.004, 0.005, Outcome.UNDECIDED),
    ],
)
def test_the_three_outcomes_and_the_loss(mean: float, error: float, outcome: Outcome) -> None:
    assert judge(contrast(mean, error), margin=0.005) is outcome


def test_a_member_of_the_family_must_stand_after_adjustment() -> None:
    assert judge(contrast(0.02, 0.008), 0.005, p_adjusted=0.03) is Outcome.HELPS
    assert judge(contrast(0.02, 0.008), 0.005, p_adjusted=0.06) is Outcome.UNDECIDED
    assert judge(contrast(-0.02, 0.008), 0.005, p_adjusted=0.06) is Outcome.UNDECIDED


def test_without_an_interval_nothing_is_decided() -> None:
    assert judge(estimate_crossed([np.zeros((2, 5))]), 0.005) is Outcome.UNDECIDED


def load(folder: Path, **given: object) -> Results:
    return load_experiment(Suite(ARMS, patients=24, boxes=TIGHT, **given).write(folder))  # type: ignore[arg-type]  # Suite checks


def find(results: Results) -> dict[str, Verdict]:
    return {verdict.key: verdict for verdict in make_verdicts(results, make_comparisons(results))}


def test_a_planted_help_is_found_and_said(tmp_path: Path) -> None:
    found = find(load(tmp_path, help_=0.03))
    assert found["help"].outcome is Outcome.HELPS
    check_names(found["help"].headline, "helps")
    assert found["reliance"].outcome is Outcome.HELPS
    assert found["paraphrase"].outcome is Outcome.NEGLIGIBLE
    check_names(found["paraphrase"].headline, "equivalent")
    check_names(found["paraphrase"].sentences[0], "trained models")
    assert len(found["paraphrase"].sentences) == 2
    assert found["language"].outcome is Outcome.HELPS
    assert not any("trained model" in sentence for sentence in found["help"].sentences), "five seeds allow the claim"


def test_reliance_without_help_is_called_a_liability(tmp_path: Path) -> None:
    found = find(load(tmp_path, help_=0.0, draw=1))
    assert found["help"].outcome is Outcome.NEGLIGIBLE
    assert found["reliance"].outcome is Outcome.HELPS
    assert any("liability" in sentence for sentence in found["reliance"].sentences)
    assert found["paraphrase"].outcome is Outcome.NEGLIGIBLE, "the model reads its text, so wordings could differ"


@pytest.mark.parametrize(("method", "levels"), [("gated", "two levels"), ("hierarchical", "same levels")])
def test_too_few_patients_and_what_else_differs_from_the_reference(tmp_path: Path, method: str, levels: str) -> None:
    suite = Suite(("baseline", "text_free", method), folds=(1,), seeds=(0,), patients=2, boxes=TIGHT)
    found = find(load_experiment(suite.write(tmp_path)))["help"]
    assert found.outcome is Outcome.UNDECIDED
    check_names(found.sentences[0], "text_free", levels, "contrastive")
    assert "nan" not in " ".join(found.sentences)


def test_training_runs_are_drawn_among_three_or_more(tmp_path: Path) -> None:
    suite = Suite(("floor_ellipse", "baseline", "text_free", "gated"), (1,), (0, 1), patients=8, boxes=TIGHT)
    results = load_experiment(suite.write(tmp_path))
    table = make_ladder_table(results, make_comparisons(results))
    shown = {row[0]: row[table.columns.index("Bootstrap check")] for row in table.rows}
    assert shown["gated - text_free"] == "-"
    assert shown["gated: right - wrong"].startswith("[")
    assert shown["baseline - floor_ellipse"].startswith("[")


def test_without_a_reference_it_is_not_known_whether_wordings_could_differ(tmp_path: Path) -> None:
    suite = Suite(("baseline", "hierarchical"), folds=(1,), seeds=(0,), patients=8, boxes=TIGHT)
    results = load_experiment(suite.write(tmp_path))
    results = replace(results, table=results.table[results.table["condition"] != "wrong"])
    found = find(results)["paraphrase"]
    check_names(found.headline, "equivalent")
    check_names(found.sentences[1], "wrong text", "text_free", "margin")


def test_one_patient_shows_no_equivalence(tmp_path: Path) -> None:
    suite = Suite(("baseline", "hierarchical"), folds=(1,), seeds=(0,), patients=1, boxes=TIGHT)
    assert find(load_experiment(suite.write(tmp_path)))["paraphrase"].outcome is Outcome.UNDECIDED


def test_the_primary_contrast_is_the_suite_s_not_of_what_has_finished(tmp_path: Path) -> None:
    results = load(tmp_path, help_=0.03)
    asked = {"arms": ["text_free", "label", "gated", "hierarchical"], "folds": [1, 2], "seeds": [0, 1, 2, 3, 4]}
    results = replace(results, experiment=results.experiment | {"suite": asked})
    whole = {item.key: item for item in make_comparisons(results)}
    runs = tuple(run for run in results.runs if run.arm != "hierarchical")
    part = replace(results, table=results.table[results.table["arm"] != "hierarchical"], runs=runs)
    (gated,) = [item for item in make_comparisons(part) if item.key == "gated - text_free"]
    assert gated.role == FAMILY
    assert gated.p_adjusted == pytest.approx(min(4 * whole["gated - text_free"].contrast.p, 1.0)), "four members asked"
    verdict = find(part)["help"]
    assert verdict.outcome is Outcome.UNDECIDED
    check_names(verdict.headline, "hierarchical")


def test_a_second_arm_is_told_with_what_differs_and_controls_with_what_they_are(tmp_path: Path) -> None:
    suite = Suite(("baseline", "text_free", "text_train_only", "gated", "hierarchical"), patients=24, boxes=TIGHT)
    suite.gain = suite.gain | {"gated": suite.gain["text_free"] - 0.03}
    said = " ".join(find(load_experiment(suite.write(tmp_path)))["help"].sentences)
    check_names(said, "two levels", "text_train_only - text_free", "arm label")


def test_a_sure_loss_within_the_margin_is_called_one_as_a_sure_gain_is(tmp_path: Path) -> None:
    results = load(tmp_path / "loss", help_=0.0)
    arms = results.table["arm"]
    worse = results.table.assign(dice=results.table["dice"].where(arms != "hierarchical", shift(results, -0.003)))
    found = find(replace(results, table=worse))["help"]
    assert found.outcome is Outcome.NEGLIGIBLE
    check_names(found.headline, "worse", "margin")
    better = results.table.assign(dice=results.table["dice"].where(arms != "hierarchical", shift(results, 0.003)))
    assert find(replace(results, table=better))["help"].outcome is Outcome.HELPS


def shift(results: Results, by: float) -> pd.Series:
    """Return hierarchical's Dice at a sure distance from text_free's: each run's own mean of it, moved."""
    keys = ["fold", "seed", "case"]
    free = results.select_main("text_free").set_index(keys)["dice"]
    rows = results.table.join(free.rename("free"), on=keys)
    noise = np.random.default_rng(0).normal(0, 0.002, len(rows))
    return (rows["free"] + by + noise).clip(0, 1)


def test_the_verdict_names_what_the_rest_of_the_family_found(tmp_path: Path) -> None:
    suite = Suite(ARMS, patients=24, boxes={"tight": 0.0, "loose_20": 0.05}, help_=0.03)
    suite.gain = suite.gain | {"gated": suite.gain["text_free"] - 0.03}
    sentences = find(load_experiment(suite.write(tmp_path)))["help"].sentences
    (of_gated,) = [sentence for sentence in sentences if is_named(sentence, "gated")]
    (of_box,) = [sentence for sentence in sentences if is_named(sentence, "loose_20")]
    check_names(of_gated, "worse")
    assert re.search(r"-0\.0\d+ Dice", of_gated)
    check_names(of_box, "hierarchical", "helps")
    assert re.search(r"\+0\.0\d+ Dice", of_box)
    assert not any(is_named(sentence, "label") for sentence in sentences)


def test_text_that_is_not_looked_at_is_no_reliance(tmp_path: Path) -> None:
    """Nor can its wordings differ, even where the arm gains over its reference by something else than its text."""
    found = find(load(tmp_path, help_=0.03, cost=0.0, draw=1))
    assert found["reliance"].outcome is Outcome.NEGLIGIBLE
    assert found["paraphrase"].outcome is Outcome.UNDECIDED
    check_names(found["paraphrase"].headline, "Uninformative", "margin")
    check_names(found["paraphrase"].sentences[1], "hierarchical", "right - wrong")


def test_one_seed_speaks_for_this_trained_model_only(tmp_path: Path) -> None:
    found = find(load(tmp_path, help_=0.03, seeds=(0,)))
    assert any(is_named(sentence, "trained model") for sentence in found["help"].sentences)
    check_names(found["help"].headline, "helps", "trained model")
    check_names(found["language"].headline, "trained models")


@pytest.mark.parametrize(
    ("seeds", "said"),
    [((0,), "one training"), ((0, 1), "two runs"), ((0, 1, 2), "4 to 6 %")],
)
def test_what_the_interval_promises_hangs_on_the_training_runs(
    tmp_path: Path, seeds: tuple[int, ...], said: str
) -> None:
    results = load(tmp_path, seeds=seeds)
    note = make_ladder_table(results, make_comparisons(results)).note
    assert [promise for promise in ("one training", "two runs", "4 to 6 %") if is_named(note, promise)] == [said]


def test_the_text_is_compared_with_the_same_loss_without_its_content_too(tmp_path: Path) -> None:
    controls = ("text_train_only", "text_input_only", "shuffled")
    suite = Suite(("baseline", "text_free", *controls, "hierarchical"), patients=24, boxes=TIGHT)
    results = load_experiment(suite.write(tmp_path))
    comparisons = {item.key: item for item in make_comparisons(results)}
    pairs = [*(("hierarchical", control) for control in controls), ("text_input_only", "text_free")]
    for one, other in pairs:
        found = comparisons[f"{one} - {other}"]
        assert found.role not in {PRIMARY, FAMILY}
        assert found.contrast.mean == pytest.approx(GAIN[one] - GAIN[other], abs=0.004)
    shown = {row[0] for row in make_ladder_table(results, list(comparisons.values())).rows}
    assert shown >= {f"{one} - {other}" for one, other in pairs}
    said = " ".join(find(results)["help"].sentences)
    check_names(said, "text_input_only - text_free", "text_train_only - text_free")


def test_the_interval_s_promise_speaks_of_unequal_runs_as_such(tmp_path: Path) -> None:
    results = load(tmp_path)
    lacks = (results.table["arm"] == "label") & (results.table["seed"] > 0)
    note = make_ladder_table(results, make_comparisons(replace(results, table=results.table[~lacks]))).note
    check_names(note, "several runs")
    second = (results.table["fold"] == 2) & (results.table["seed"] > 0)
    note = make_ladder_table(results, make_comparisons(replace(results, table=results.table[~second]))).note
    check_names(note, "several runs")


def test_one_primary_contrast_and_one_family(whole_suite: Path) -> None:
    comparisons = {item.key: item for item in make_comparisons(load_experiment(whole_suite))}
    assert [key for key, item in comparisons.items() if item.role == PRIMARY] == ["hierarchical - text_free"]
    # phrase: keys of comparisons, by which the spreadsheet is read
    assert {key for key, item in comparisons.items() if item.role == FAMILY} == {
        "gated - text_free",
        "hierarchical - gated",
        "hierarchical - label",
        "hierarchical: right - wrong",
        "hierarchical - text_free (loose_20)",
    }
    primary = comparisons["hierarchical - text_free"]
    assert primary.p_adjusted == primary.contrast.p
    for item in comparisons.values():
        if item.role == FAMILY:
            assert item.p_adjusted >= item.contrast.p
    assert np.isnan(comparisons["label - text_free"].p_adjusted)
    within = comparisons["hierarchical: right - wrong"]
    assert within.within_models
    assert {table.shape[1] for table in within.tables} == {1}
