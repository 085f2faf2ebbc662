"""The table of what each deviation from the clean protocol is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from t2m_bench.files import write_text
from t2m_bench.metrics.results import load_results
from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.arms import TEXT_CONDITION, TEXTLESS_CONDITION
from t2m_bench.reporting.table import ABSENT, BOXES, show_change, show_interval, show_number
from t2m_bench.statistics.crossed import Contrast, estimate_crossed, make_fold_tables
from t2m_bench.statistics.intervals import Estimate, compute_patient_means, estimate_mean

LEAKS = "(leaks)"
SEED = 0
"""Seed of the bootstrap."""


@dataclass(frozen=True)
class ProtocolRow:
    """Results of one protocol.

    Attributes:
        results: arm -> rows of its runs, right text and tight boxes; None: it was not measured.
        leaks: whether test cases shared patients with training, or chose the epoch.
    """

    name: str
    results: dict[str, pd.DataFrame] | None
    leaks: bool = False

    def estimate(self, arm: str) -> Estimate | None:
        """Return an arm's Dice on this protocol's own test cases."""
        rows = (self.results or {}).get(arm)
        return None if rows is None else estimate_mean(compute_patient_means(rows, DICE), np.random.default_rng(SEED))

    def compare(self, arm: str, clean: "ProtocolRow") -> Contrast | None:
        """Return the paired difference to the clean protocol; None where test cases differ."""
        one, other = (row.results[arm] if row.results and arm in row.results else None for row in (self, clean))
        if one is None or other is None or _list_cases(one) != _list_cases(other):
            return None
        tables = make_fold_tables(one, other, DICE)
        return estimate_crossed(tables) if tables else None

    def count_runs(self) -> int:
        """Return the fewest runs of an arm."""
        counts = [len(rows[["fold", "seed"]].drop_duplicates()) for rows in (self.results or {}).values()]
        return min(counts, default=0)


def _list_cases(rows: pd.DataFrame) -> set[tuple[int, str]]:
    return set(zip(rows["fold"], rows["case"], strict=True))


@dataclass(frozen=True)
class Deviations:
    """All protocols, the clean one first."""

    image_encoder: str
    arms: tuple[str, ...]
    rows: tuple[ProtocolRow, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return protocol, and of each arm Dice and its difference to the clean protocol, with intervals."""
        clean = {arm: self.rows[0].estimate(arm) for arm in self.arms}
        records = []
        for row in self.rows:
            record: dict[str, object] = {"protocol": row.name, "measured": row.results is not None}
            record["leaks"] = row.leaks
            for arm in self.arms:
                found, reference = row.estimate(arm), clean[arm]
                paired = None if row is self.rows[0] else row.compare(arm, self.rows[0])
                record[f"{arm}_{DICE}"] = found.mean if found else np.nan
                record[f"{arm}_low"] = found.low if found else np.nan
                record[f"{arm}_high"] = found.high if found else np.nan
                record[f"{arm}_worth"] = found.mean - reference.mean if found and reference else np.nan
                record[f"{arm}_worth_low"] = paired.low if paired else np.nan
                record[f"{arm}_worth_high"] = paired.high if paired else np.nan
            records.append(record)
        return pd.DataFrame(records)

    def to_markdown(self) -> str:
        """Return the table with what must be known to read it."""
        lines = ["| Protocol | " + " | ".join(f"{arm} | worth" for arm in self.arms) + " |"]
        lines.append("|---|" + "---:|---:|" * len(self.arms))
        for row, numbers in zip(self.rows, self.to_frame().to_dict("records"), strict=True):
            cells = [row.name + (f" {LEAKS}" if row.leaks else "")]
            for arm in self.arms:
                if row.results is None:
                    cells += [f"not measured with {self.image_encoder}", "-"]
                elif arm not in row.results:
                    cells += ["failed", "-"]
                else:
                    low, high = numbers[f"{arm}_low"], numbers[f"{arm}_high"]
                    dice, interval = (
                        show_number(numbers[f"{arm}_{DICE}"]),
                        show_interval(low, high, signed=False, digits=3),
                    )
                    cells.append(" ".join([dice, interval][: 1 + (interval != ABSENT)]))
                    worth = show_change(numbers[f"{arm}_worth"])
                    interval = show_interval(numbers[f"{arm}_worth_low"], numbers[f"{arm}_worth_high"])
                    is_clean = row is self.rows[0]
                    cells.append(ABSENT if is_clean else " ".join([worth, interval][: 1 + (interval != ABSENT)]))
            lines.append("| " + " | ".join(cells) + " |")
        runs = min((row.count_runs() for row in self.rows if row.results), default=0)
        note = (
            f"{runs} training run(s) a protocol and arm. Dice with right text and tight boxes, mean over patients, "
            "95 % interval over patients (BCa bootstrap; fewer than 30: t; fewer than 10: none), seeds averaged, given "
            "these trained models. Worth is the "
            "difference to the clean protocol; its interval takes patients and training runs as random (one run a "
            "fold: patients alone, given these trained models). Another split has other test cases: there it is no "
            f"paired difference and has no interval. {LEAKS}: images of test patients are trained on, or test cases "
            f"choose the epoch, so that these are no honest test figures. {BOXES}"
        )
        return "\n".join([*lines, "", note, ""])


def measure_protocol(name: str, paths: Sequence[Path], leaks: bool = False) -> ProtocolRow:
    """Read the results of one suite's runs; others in the same experiment, of earlier commands, are not looked at.

    Raises:
        RunFolderError: a results table cannot be read.
    """
    if not paths:
        return ProtocolRow(name, {}, leaks)
    table = pd.concat([load_results(path) for path in paths], ignore_index=True)
    asked = table[table["condition"].isin([TEXT_CONDITION, TEXTLESS_CONDITION]) & (table["box"] == "tight")]
    return ProtocolRow(name, {str(arm): rows for arm, rows in asked.groupby("arm")}, leaks)


def write_deviations(folder: Path, table: Deviations) -> Path:
    """Write deviations.md and .csv by atomic rename; return the first."""
    contents = {"deviations.csv": table.to_frame().to_csv(index=False), "deviations.md": table.to_markdown()}
    for name, content in contents.items():
        write_text(folder / name, content)
    return folder / "deviations.md"
