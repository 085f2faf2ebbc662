"""The table of what each deviation from the clean protocol is worth."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from t2m_bench.metrics.results import RESULTS_NAME, load_results
from t2m_bench.statistics.intervals import Estimate, compute_patient_means, estimate_mean

SEED = 0
"""Of the bootstrap."""


@dataclass(frozen=True)
class ProtocolRow:
    """Dice of each arm under one protocol, on that protocol's own test cases; None where it was not measured."""

    name: str
    dice: dict[str, Estimate] | None


@dataclass(frozen=True)
class Deviations:
    """All protocols, the clean one first."""

    image_encoder: str
    arms: tuple[str, ...]
    rows: tuple[ProtocolRow, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return protocol, and of each arm Dice, its interval, and its difference to the clean protocol."""
        clean = self.rows[0].dice or {}
        records = []
        for row in self.rows:
            record: dict[str, object] = {"protocol": row.name, "measured": row.dice is not None}
            for arm in self.arms:
                found = (row.dice or {}).get(arm)
                record[f"{arm}_dice"] = found.mean if found else np.nan
                record[f"{arm}_low"] = found.low if found else np.nan
                record[f"{arm}_high"] = found.high if found else np.nan
                record[f"{arm}_worth"] = found.mean - clean[arm].mean if found and arm in clean else np.nan
            records.append(record)
        return pd.DataFrame(records)

    def to_markdown(self) -> str:
        """Return the table with what must be known to read it."""
        lines = ["| Protocol | " + " | ".join(f"{arm} | worth" for arm in self.arms) + " |"]
        lines.append("|---|" + "---:|---:|" * len(self.arms))
        for row, numbers in zip(self.rows, self.to_frame().to_dict("records"), strict=True):
            cells = [row.name]
            for arm in self.arms:
                if row.dice is None:
                    cells += [f"not measured with {self.image_encoder}", "-"]
                elif arm not in row.dice:
                    cells += ["failed", "-"]
                else:
                    low, high = numbers[f"{arm}_low"], numbers[f"{arm}_high"]
                    cells.append(f"{numbers[f'{arm}_dice']:.4f} [{low:.4f}, {high:.4f}]")
                    is_clean = row is self.rows[0]
                    cells.append("-" if is_clean else f"{numbers[f'{arm}_worth']:+.4f}")
            lines.append("| " + " | ".join(cells) + " |")
        note = (
            "Dice with right text and tight boxes, mean over patients, 95 % bootstrap interval over patients, seeds "
            "averaged. Worth is the difference to the clean protocol; another split has other test cases: there it is "
            "no paired difference. A protocol that leaks gives no honest test figure."
        )
        return "\n".join([*lines, "", note, ""])


def measure_protocol(name: str, folder: Path | None, arms: Sequence[str]) -> ProtocolRow:
    """Read an experiment's runs and estimate each arm's Dice; no folder means that it was not measured.

    Raises:
        RunFolderError: a results table cannot be read.
    """
    if folder is None:
        return ProtocolRow(name, None)
    rng = np.random.default_rng(SEED)
    dice = {}
    for arm in arms:
        tables = [load_results(path) for path in sorted(folder.glob(f"{arm}-fold*-seed*/{RESULTS_NAME}"))]
        if tables:
            table = pd.concat(tables, ignore_index=True)
            asked = table[table["condition"].isin(["right", "none"]) & (table["box"] == "tight")]
            dice[arm] = estimate_mean(compute_patient_means(asked, "dice"), rng)
    return ProtocolRow(name, dice)


def write_deviations(folder: Path, table: Deviations) -> Path:
    """Write deviations.md and .csv by atomic rename; return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"deviations.csv": table.to_frame().to_csv(index=False), "deviations.md": table.to_markdown()}
    for name, content in contents.items():
        partial = folder / f".{name}.{os.getpid()}.partial"
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, folder / name)
    return folder / "deviations.md"
