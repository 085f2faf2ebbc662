"""Measures how often verdicts are wrong in simulated suites; run as a script it writes the table.

SectionT verdicts are drawn, with the rule of `statistics.decision`. The table goes between the marks in
docs/statistics.md.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from simulated_differences import FAMILIES, Setting

from t2m_bench.statistics.crossed import average_seeds, estimate_crossed
from t2m_bench.statistics.decision import Outcome, decide

PAGE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
BEGIN, END = "<!-- verdict-table -->", "<!-- verdict-table-end -->"
DRAWS = 1000
SEED = 20
MARGIN = 0.005


@dataclass(frozen=True)
class Rates:
    """Shares of drawn suites, the true difference being 0.

    Attributes:
        default, deciding, patients_alone: 95 % intervals without the truth.
        above, below: deciding intervals above and below it. gain, loss: such verdicts. withheld: verdicts withheld.
        folds_differ: heterogeneity tests below 5 %.
    """

    draws: int
    default: float
    deciding: float
    patients_alone: float
    above: float
    below: float
    gain: float
    loss: float
    withheld: float
    folds_differ: float

    @property
    def error(self) -> float:
        """1.96 Monte Carlo standard errors of a share of 3 %."""
        return float(1.96 * np.sqrt(0.03 * 0.97 / self.draws))


def measure(setting: Setting, draws: int, seed: int) -> Rates:
    """Draw suites and judge each as a report does."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(9)
    for _ in range(draws):
        tables = setting(rng)
        contrast = estimate_crossed(tables)
        decision = decide(contrast, tables, MARGIN, rng)
        low, high = contrast.find_interval()
        inner_low, inner_high = contrast.find_default_interval()
        naive_low, naive_high = estimate_crossed(average_seeds(tables), folds_vary=False).find_interval()
        counts += [
            inner_low > 0 or inner_high < 0,
            low > 0 or high < 0,
            naive_low > 0 or naive_high < 0,
            low > 0,
            high < 0,
            decision.outcome is Outcome.GAIN,
            decision.outcome is Outcome.LOSS,
            decision.outcome is Outcome.WITHHELD,
            contrast.heterogeneity_p < 0.05,
        ]
    return Rates(draws, *(counts / draws))


def measure_all(draws: int = DRAWS, seed: int = SEED) -> dict[str, dict[str, Rates]]:
    """Measure every setting of every family."""
    found: dict[str, dict[str, Rates]] = {}
    for family, settings in FAMILIES.items():
        for name, setting in settings.items():
            found.setdefault(family, {})[name] = measure(setting, draws, seed)
            print(f"{family}: {name}", file=sys.stderr)
    return found


def write_table(found: Mapping[str, Mapping[str, Rates]], draws: int, seed: int) -> str:
    """Return the table in Markdown, in per cent."""
    columns = (
        "Setting", "Default misses", "Deciding misses", "above / below", "Patients alone miss", "False gain",
        "False loss", "Withheld", "Folds differ",
    )  # fmt: skip
    lines = [
        f"Written by `python tests/helpers/verdict_table.py --draws {draws} --seed {seed}`; per cent of {draws} "
        f"suites a setting, each without any true difference (1.96 Monte Carlo standard errors of 3 %: "
        f"{100 * 1.96 * np.sqrt(0.03 * 0.97 / draws):.1f}; of 5 %: {100 * 1.96 * np.sqrt(0.05 * 0.95 / draws):.1f}).",
        "",
        f"| {' | '.join(columns)} |",
        "|---" + "|---:" * (len(columns) - 1) + "|",
    ]
    for family, settings in found.items():
        lines.append(f"| **{family}** |" + " |" * (len(columns) - 1))
        for name, rates in settings.items():
            shares = (rates.default, rates.deciding, None, rates.patients_alone, rates.gain, rates.loss)
            sides = f"{100 * rates.above:.1f} / {100 * rates.below:.1f}"
            cells = [sides if share is None else f"{100 * share:.1f}" for share in (*shares, rates.withheld)]
            cells.append(f"{100 * rates.folds_differ:.1f}" if " 1 fold" not in name else "-")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all settings and put the table into the page."""
    parser = argparse.ArgumentParser(description="Measure the error rates of verdicts and write them into the page.")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    table = write_table(measure_all(given.draws, given.seed), given.draws, given.seed)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
