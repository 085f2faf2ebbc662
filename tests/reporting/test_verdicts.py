import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages import check_names, is_named
from simulated_suite import COST, GAIN, Suite

from t2m_bench.recipe.arms import ARMS as ARM_TABLE
from t2m_bench.reporting.comparison_table import make_ladder_table
from t2m_bench.reporting.comparisons import EXPLORATORY, FAMILY, PRIMARY, find_comparison, make_comparisons
from t2m_bench.reporting.evidence import find_shared_start
from t2m_bench.reporting.results import Results, load_experiment
from t2m_bench.reporting.verdict import Verdict
from t2m_bench.reporting.verdicts import make_verdicts
from t2m_bench.statistics.decision import Outcome, Reason, Size

ARMS = ("baseline", "text_free", "label", "gated", "hierarchical", "text_free_one_level")
TIGHT = {"tight": 0.0}


def load(folder: Path, **given: object) -> Results:
    return load_experiment(Suite(ARMS, patients=24, boxes=TIGHT, **given).write(folder))  # type: ignore[arg-type]  # Suite checks


def find(results: Results) -> dict[str, Verdict]:
    return {verdict.key: verdict for verdict in make_verdicts(results, make_comparisons(results))}


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results in which hierarchical gains 0.03 over text_free; nobody may change them."""
    # of the draws before it, which are as normal, some have two patients of 24 far off, and verdicts withheld
    return load(tmp_path_factory.mktemp("helped"), help_=0.03, draw=3)


def name_language_model(results: Results) -> Results:
    """Return the results as of a text encoder that is a language model."""
    models = results.experiment["models"] | {"text_encoder": "weights/pubmedbert"}
    return replace(results, experiment=results.experiment | {"models": models})


def test_a_planted_help_is_found_and_said(helped: Results) -> None:
    found = find(name_language_model(helped))
    decision = found["help"].decision
    assert decision is not None
    assert (found["help"].outcome, decision.size) == (Outcome.GAIN, Size.MORE)
    check_names(found["help"].headline, "0.005", "splits")
    assert found["reliance"].outcome is Outcome.GAIN
    assert found["paraphrase"].outcome is Outcome.NO_DIFFERENCE
    check_names(found["paraphrase"].headline, "equivalent")
    check_names(found["paraphrase"].sentences[0], "trained models")
    assert found["language"].outcome is Outcome.GAIN
    assert not any("trained model" in sentence for sentence in found["help"].sentences), "five seeds allow the claim"


def test_the_headline_names_the_best_shape_and_the_frozen_model(whole_suite: Path) -> None:
    results = load_experiment(whole_suite)
    headline = find(results)["help"].headline
    for arm in ("floor_class_mask", "baseline", "hierarchical"):
        mean = results.select_main(arm).groupby("case")["dice"].mean()
        patients = results.table.drop_duplicates("case").set_index("case")["patient"]
        check_names(headline, f"{mean.groupby(patients).mean().mean():.3f}")


def test_a_stand_in_withholds_the_verdict_on_language(helped: Results) -> None:
    found = find(helped)["language"]
    assert found.outcome is Outcome.WITHHELD
    assert found.decision is not None
    assert found.decision.reason is Reason.NO_LANGUAGE_MODEL


def test_each_fold_s_gain_is_told_with_a_test_of_their_difference(helped: Results) -> None:
    comparison = find_comparison(make_comparisons(helped), "hierarchical - text_free")
    assert comparison is not None
    said = " ".join(find(helped)["help"].sentences)
    check_names(said, *(f"{mean:+.4f}" for mean in comparison.contrast.fold_means))
    check_names(said, f"{comparison.contrast.heterogeneity_p:.3f}")
    assert len(comparison.contrast.fold_means) == 2


def test_arms_without_a_shared_repeat_are_said_to_have_none(helped: Results) -> None:
    results = helped
    table = results.table
    lacks = (table["arm"] == "text_free") & (table["seed"] > 1) | (table["arm"] == "hierarchical") & (table["seed"] < 2)
    found = find(replace(results, table=table[~lacks]))["help"]
    assert found.outcome is Outcome.UNDECIDED
    assert found.decision is not None
    assert found.decision.reason is Reason.NO_SHARED_REPEATS
    check_names(" ".join(found.sentences), "hierarchical", "text_free", "fold 1 seed 0", "fold 1 seed 2")


def test_runs_without_a_partner_are_told(helped: Results) -> None:
    results = helped
    lacks = (results.table["arm"] == "text_free") & (results.table["seed"] == 4)
    (said,) = [
        sentence
        for sentence in find(replace(results, table=results.table[~lacks]))["help"].sentences
        if is_named(sentence, "left out")
    ]
    check_names(said, 2)


def test_what_runs_of_one_seed_share_is_tested_where_they_start_alike(helped: Results) -> None:
    results = helped
    table = results.table
    shared = table["seed"].map({0: 0.01, 1: -0.01, 2: 0.02, 3: -0.02, 4: 0.0}).fillna(0)
    moved = table.assign(dice=table["dice"] + shared.where(table["arm"] == "hierarchical", 0.0))
    alike = replace(results, table=moved)
    found = find_shared_start(alike, "hierarchical")
    assert found is not None
    assert found.p < 0.01
    assert any(is_named(sentence, "too narrow") for sentence in find(alike)["help"].sentences)
    apart = results.experiment["recipe"] | {"first_weights": "seed_and_fold"}
    apart_results = replace(alike, experiment=alike.experiment | {"recipe": apart})
    assert find_shared_start(apart_results, "hierarchical") is None
    assert not any(is_named(sentence, "too narrow") for sentence in find(apart_results)["help"].sentences)


def test_plausible_wrong_text_leads_and_the_published_map_is_called_extreme(helped: Results) -> None:
    found = find(helped)["reliance"]
    assert found.decision is not None
    assert found.decision.contrast is not None
    assert found.decision.contrast.mean == pytest.approx(COST["plausible"], abs=0.001)
    check_names(found.headline, "plausible")
    check_names(found.sentences[0], "plausible", f"{found.decision.contrast.mean:+.4f}")
    extreme = find_comparison(make_comparisons(helped), "hierarchical: right - wrong")
    assert extreme is not None
    check_names(found.sentences[1], "extreme", f"{extreme.contrast.mean:+.4f}")


def test_runs_from_before_plausible_text_rest_on_the_extreme_one(tmp_path: Path) -> None:
    results = load(tmp_path, help_=0.03, plausible=False)
    found = find(results)["reliance"]
    assert found.decision is not None
    assert found.decision.contrast is not None
    assert found.decision.contrast.mean == pytest.approx(COST["wrong"], abs=0.001)
    check_names(found.headline, "extreme")
    assert len([item for item in make_comparisons(results) if item.within_models]) == 1


def test_reliance_without_help_is_called_a_liability(tmp_path: Path) -> None:
    found = find(load(tmp_path, help_=0.0, draw=1))
    assert found["help"].outcome is Outcome.NO_DIFFERENCE
    assert found["reliance"].outcome is Outcome.GAIN
    assert any("liability" in sentence for sentence in found["reliance"].sentences)
    assert found["paraphrase"].outcome is Outcome.NO_DIFFERENCE, "the model reads its text, so wordings could differ"


@pytest.mark.parametrize(("method", "levels"), [("gated", "two levels"), ("hierarchical", "same levels")])
def test_too_few_patients_and_what_else_differs_from_the_reference(tmp_path: Path, method: str, levels: str) -> None:
    suite = Suite(("baseline", "text_free", method), folds=(1,), seeds=(0,), patients=2, boxes=TIGHT)
    found = find(load_experiment(suite.write(tmp_path)))["help"]
    assert found.outcome is Outcome.UNDECIDED
    check_names(found.sentences[0], "text_free", levels, "contrastive")
    assert "nan" not in " ".join(found.sentences)


def test_without_a_reference_it_is_not_known_whether_wordings_could_differ(tmp_path: Path) -> None:
    suite = Suite(("baseline", "hierarchical"), folds=(1,), seeds=(0,), patients=8, boxes=TIGHT)
    results = load_experiment(suite.write(tmp_path))
    kept = results.table["condition"].isin(["none", "right"]) | results.table["condition"].str.startswith("paraphrase")
    found = find(replace(results, table=results.table[kept]))["paraphrase"]
    assert found.outcome is Outcome.WITHHELD
    check_names(found.sentences[1], "text_free", "margin")


def test_one_patient_shows_no_equivalence(tmp_path: Path) -> None:
    suite = Suite(("baseline", "hierarchical"), folds=(1,), seeds=(0,), patients=1, boxes=TIGHT)
    assert find(load_experiment(suite.write(tmp_path)))["paraphrase"].outcome is Outcome.UNDECIDED


def test_the_primary_contrast_is_the_suite_s_not_of_what_has_finished(tmp_path: Path) -> None:
    results = load(tmp_path, help_=0.03)
    asked = {
        "arms": ["text_free", "text_free_one_level", "label", "gated", "hierarchical"],
        "folds": [1, 2],
        "seeds": [0, 1, 2, 3, 4],
    }
    results = replace(results, experiment=results.experiment | {"suite": asked})
    whole = {item.key: item for item in make_comparisons(results)}
    runs = tuple(run for run in results.runs if run.arm != "hierarchical")
    part = replace(results, table=results.table[results.table["arm"] != "hierarchical"], runs=runs)
    (gated,) = [item for item in make_comparisons(part) if item.key == "gated - text_free_one_level"]
    assert gated.role == FAMILY
    plain = whole["gated - text_free_one_level"].contrast.p
    assert gated.p_adjusted == pytest.approx(min(3 * plain, 1.0)), "three members asked"
    verdict = find(part)["help"]
    assert verdict.outcome is Outcome.UNDECIDED
    check_names(verdict.headline, "hierarchical")


def test_a_second_arm_is_told_with_what_differs_and_controls_with_what_they_are(tmp_path: Path) -> None:
    strong = ("tuned_text_free", "tuned_hierarchical")
    arms = ("baseline", "text_free", "text_free_one_level", "text_train_only", "gated", "hierarchical", *strong)
    suite = Suite(arms, patients=24, boxes=TIGHT)
    suite.gain = suite.gain | {"gated": suite.gain["text_free_one_level"] - 0.03}
    said = " ".join(find(load_experiment(suite.write(tmp_path)))["help"].sentences)
    check_names(said, "text_free_one_level", "text_train_only - text_free", "arm label")
    check_names(said, "tuned_hierarchical - tuned_text_free")


def test_text_beside_the_box_is_compared_for_its_help_and_its_place(tmp_path: Path) -> None:
    suite = Suite((*ARMS, "text_prompt_free", "text_prompt"), patients=24, boxes=TIGHT)
    results = load_experiment(suite.write(tmp_path))
    comparisons = make_comparisons(results)
    found = {item.key: item for item in comparisons}
    for other in ("text_prompt_free", "hierarchical"):
        contrast = found[f"text_prompt - {other}"]
        assert contrast.role == EXPLORATORY, "the plan's tests stay as they were"
        assert contrast.contrast.mean == pytest.approx(suite.gain["text_prompt"] - suite.gain[other], abs=0.01)
    said = " ".join(find(results)["help"].sentences)
    check_names(said, "text_prompt - text_prompt_free", "text_prompt - hierarchical")
    note = make_ladder_table(results, comparisons).note
    check_names(note, f"text_prompt: {ARM_TABLE.find('text_prompt').note}")


def test_a_sure_loss_within_the_margin_is_called_one_as_a_sure_gain_is(tmp_path: Path) -> None:
    results = load(tmp_path / "loss", help_=0.0)
    arms = results.table["arm"]
    worse = results.table.assign(dice=results.table["dice"].where(arms != "hierarchical", shift(results, -0.003)))
    found = find(replace(results, table=worse))["help"]
    assert (found.outcome, getattr(found.decision, "size", None)) == (Outcome.LOSS, Size.LESS)
    check_names(found.headline, "less", "0.005")
    better = results.table.assign(dice=results.table["dice"].where(arms != "hierarchical", shift(results, 0.003)))
    gained = find(replace(results, table=better))["help"]
    assert (gained.outcome, getattr(gained.decision, "size", None)) == (Outcome.GAIN, Size.LESS)


def shift(results: Results, by: float) -> pd.Series:
    """Return hierarchical's Dice at a sure distance from text_free's: each run's own mean of it, moved."""
    keys = ["fold", "seed", "case"]
    free = results.select_main("text_free").set_index(keys)["dice"]
    rows = results.table.join(free.rename("free"), on=keys)
    noise = np.random.default_rng(0).normal(0, 0.002, len(rows))
    return (rows["free"] + by + noise).clip(0, 1)


def test_the_verdict_names_what_the_rest_of_the_family_found(tmp_path: Path) -> None:
    suite = Suite(ARMS, patients=24, boxes={"tight": 0.0, "loose_20": 0.05}, help_=0.03, draw=8)
    suite.gain = suite.gain | {"gated": suite.gain["text_free"] - 0.03}
    sentences = find(load_experiment(suite.write(tmp_path)))["help"].sentences
    (of_gated,) = [sentence for sentence in sentences if is_named(sentence, "gated")]
    (of_box,) = [sentence for sentence in sentences if is_named(sentence, "loose_20")]
    check_names(of_gated, "loss")
    assert re.search(r"-0\.0\d+ Dice", of_gated)
    check_names(of_box, "hierarchical", "gain")
    assert re.search(r"\+0\.0\d+ Dice", of_box)
    assert not any(is_named(sentence, "label") for sentence in sentences)


def test_text_that_is_not_looked_at_is_no_reliance(tmp_path: Path) -> None:
    """Nor can its wordings differ, even where the arm gains over its reference by something else than its text."""
    found = find(load(tmp_path, help_=0.03, cost=0.0, draw=1))
    assert found["reliance"].outcome is Outcome.NO_DIFFERENCE
    assert found["paraphrase"].outcome is Outcome.UNDECIDED
    check_names(found["paraphrase"].headline, "Uninformative", "margin")
    check_names(found["paraphrase"].sentences[1], "class", "20 %")


def test_one_seed_speaks_for_this_trained_model_only(tmp_path: Path) -> None:
    found = find(load(tmp_path, help_=0.03, seeds=(0,)))
    assert any(is_named(sentence, "trained model") for sentence in found["help"].sentences)
    check_names(found["help"].headline, "trained model")
    check_names(found["language"].headline, "trained models")


@pytest.mark.parametrize(
    ("seeds", "folds", "said"),
    [((0,), (1, 2), "one training"), ((0, 1), (1,), "2 runs"), ((0, 1, 2), (1,), "3 runs"), ((0, 1), (1, 2), "")],
)
def test_what_the_interval_promises_hangs_on_runs_and_folds(
    tmp_path: Path, seeds: tuple[int, ...], folds: tuple[int, ...], said: str
) -> None:
    """Two runs are too few of one fold, and enough of several."""
    results = load(tmp_path, seeds=seeds, folds=folds)
    note = make_ladder_table(results, make_comparisons(results)).note
    promises = [promise for promise in ("one training", "2 runs", "3 runs") if is_named(note, promise)]
    assert promises == ([said] if said else [])


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
        "gated - text_free_one_level",
        "hierarchical - gated",
        "hierarchical - label",
        "hierarchical: right - plausible",
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
    assert (within.family_size, comparisons["gated - text_free_one_level"].family_size) == (2, 4), "two families"
    assert within.p_adjusted >= within.contrast.p
    member = comparisons["gated - text_free_one_level"]
    assert member.p_adjusted == pytest.approx(min(1.0, 4 * member.contrast.p))
    low, high = member.simultaneous_interval
    assert (low, high) == member.contrast.find_interval(1 - 0.05 / 4)
    assert low < member.contrast.low
