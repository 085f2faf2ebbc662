"""Says what stands behind a difference: its folds, outlying patients and runs, and runs that start alike."""

import math

from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import REFERENCE
from t2m_bench.reporting.comparisons import Comparison
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import show_change, show_interval, show_p, show_percent
from t2m_bench.statistics.crossed import FEWEST_FOLDS, Contrast, NoTest, SharedSeeds, find_shared_seeds
from t2m_bench.statistics.decision import ALPHA, Decision
from t2m_bench.statistics.outliers import FEWEST_VALUES

FIRST_WEIGHTS, OF_SEED_ALONE = "first_weights", "seed"
"""The recipe's field that says from what runs draw their first weights, and its value in all older runs."""


def tell_patients(contrast: Contrast) -> str:
    """Return over how many patients a difference is, and that there is no test where they are too few for one."""
    if contrast.num_patients == 1:
        return "one patient: no test"
    number = f"{contrast.num_patients} patients"
    if contrast.no_test is NoTest.FEW_PATIENTS:
        return f"{number} in {contrast.num_folds} test folds, too few: no test"
    return f"{number}, all with the same difference: no test" if contrast.no_test else number


def tell_evidence(results: Results, comparison: Comparison, decision: Decision, method: str) -> list[str]:
    """Return sentences on folds, outlying values, runs left out and runs that start alike, those that apply."""
    shared = find_shared_start(results, method)
    said = [
        _tell_folds(comparison.contrast),
        _tell_outlying(decision),
        _tell_unpaired(comparison),
        _tell_shared(shared) if shared else "",
    ]
    return [sentence for sentence in said if sentence]


def _tell_folds(contrast: Contrast) -> str:
    """Say each fold's mean, whether they differ, and what other splits may bring."""
    if contrast.num_folds < 2:
        return "One test fold: other splits may give another answer, and nothing here says how far."
    means = ", ".join(show_change(mean) for mean in contrast.fold_means)
    said = f"By test fold: {means}"
    if not math.isnan(contrast.heterogeneity_p):
        said += f" (no difference between folds: p {show_p(contrast.heterogeneity_p)}, F test of Cochran's Q)"
    if contrast.no_test or math.isnan(contrast.folds_error):
        return f"{said}."
    default, folds = contrast.find_default_interval(), contrast.find_folds_interval()
    said += f". For these splits {show_interval(*default)}, with folds random {show_interval(*folds)}"
    if contrast.num_folds >= FEWEST_FOLDS:
        return f"{said}; the wider of both decides."
    return f"{said}, which decides from {FEWEST_FOLDS} folds on."


def _tell_outlying(decision: Decision) -> str:
    if decision.contrast is None or decision.contrast.no_test:
        return ""
    parts = [
        f"{what} {show_percent(share, signed=False)}"
        for what, share in (("patients", decision.outlying_patients), ("training runs", decision.outlying_runs))
        if not math.isnan(share)
    ]
    if math.isnan(decision.outlying_runs):
        parts.append(f"training runs not known (fewer than {FEWEST_VALUES}: one that collapsed would not be seen)")
    flipped = (
        "" if math.isnan(decision.sign_flip_p) else f"; sign flips over patients: p {show_p(decision.sign_flip_p)}"
    )
    return f"Outlying on one side more than on the other: {', '.join(parts)}{flipped}."


def _tell_unpaired(comparison: Comparison) -> str:
    if not comparison.num_unpaired:
        return ""
    return f"Training runs left out, because the other arm has none of that fold and seed: {comparison.num_unpaired}."


def find_shared_start(results: Results, method: str) -> SharedSeeds | None:
    """Return the test of what runs of one seed number share; None where each fold starts from weights of its own."""
    starts_alike = results.experiment["recipe"].get(FIRST_WEIGHTS, OF_SEED_ALONE) == OF_SEED_ALONE
    if len(results.folds) < 2 or not starts_alike:
        return None
    return find_shared_seeds(results.select_main(method), results.select_main(REFERENCE), DICE)


def _tell_shared(shared: SharedSeeds) -> str:
    start = "Runs of one seed number start every fold from the same weights"
    if math.isnan(shared.p):
        return f"{start}; with these runs it cannot be tested whether they share an effect."
    found = f"a shared effect is {show_percent(shared.share, signed=False)} of the variance between runs"
    said = f"{start}: {found} (none: p {show_p(shared.p)})"
    return f"{said}, so that the interval is too narrow." if shared.p < ALPHA else f"{said}."
