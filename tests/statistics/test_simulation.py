"""Verdicts on simulated suites: a few in every test run, all settings of docs/statistics.md in `make soak`."""

import numpy as np
import pytest
from scipy import stats
from simulated_differences import CROSS_VALIDATED, FAMILIES, NORMAL
from verdict_table import BEGIN, DRAWS, END, PAGE, SEED, Rates, measure, measure_all, write_table

MANY_FOLDS = ("4 folds", "5 folds", "10 folds")


def test_a_few_suites_are_missed_as_often_as_promised() -> None:
    draws = 300
    found = measure(NORMAL["50 patients, 4 folds, 5 runs"], draws, 1)
    assert stats.binomtest(round(found.default * draws), draws, 0.05).pvalue > 1e-3
    assert found.deciding <= found.default
    assert found.patients_alone > found.deciding, "runs are random too"


def test_folds_that_share_training_patients_need_the_wider_interval() -> None:
    found = measure(CROSS_VALIDATED["60 patients, 4 folds, 5 runs"], 300, 1)
    assert found.default > 0.07
    assert found.deciding < 0.07


def test_the_page_has_the_table_of_these_settings() -> None:
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    zero = {family: dict.fromkeys(settings, Rates(DRAWS, *[0.0] * 9)) for family, settings in FAMILIES.items()}
    expected = write_table(zero, DRAWS, SEED)
    assert list_names(table) == list_names(expected)
    assert f"--draws {DRAWS} --seed {SEED}" in table


def list_names(table: str) -> list[str]:
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]


@pytest.fixture(scope="module")
def rates() -> dict[str, dict[str, Rates]]:
    """All settings with seed and draws of the page; the table is printed to be compared with it."""
    found = measure_all()
    print(write_table(found, DRAWS, SEED))
    return found


@pytest.mark.soak
def test_false_verdicts_are_rare_in_normal_suites_and_cross_validation(rates: dict[str, dict[str, Rates]]) -> None:
    """At most 3 % a side, and 1.96 Monte Carlo errors."""
    crossed = {name: found for name, found in rates["cross-validation"].items() if any(f in name for f in MANY_FOLDS)}
    assert len(crossed) == len(CROSS_VALIDATED) - 1
    for name, found in (rates["normal"] | crossed).items():
        assert max(found.gain, found.loss) <= 0.03 + found.error, name


@pytest.mark.soak
def test_intervals_miss_as_rarely_as_the_page_says(rates: dict[str, dict[str, Rates]]) -> None:
    for name, found in rates["normal"].items():
        assert found.default <= 0.05 + 1.96 * np.sqrt(0.05 * 0.95 / found.draws), name
        assert found.folds_differ <= 0.075, name
    for name in ("213 patients, 4 folds, 3 runs", "213 patients, 4 folds, 2 runs"):
        assert rates["few runs"][name].deciding <= 0.05, "two runs are enough of four folds"
    assert rates["few runs"]["213 patients, 1 fold, 2 runs"].deciding > 0.06, "and too few of one"


@pytest.mark.soak
def test_one_sided_suites_are_withheld_in_part(rates: dict[str, dict[str, Rates]]) -> None:
    """A claim is withheld or counted; what is left stands in the page's table."""
    for family in ("one-sided patients", "collapsing runs"):
        for name, found in rates[family].items():
            assert found.gain + found.loss <= found.deciding, name
    large = rates["one-sided patients"]["213 patients, 4 folds, 5 runs"]
    assert large.withheld > large.gain + large.loss
