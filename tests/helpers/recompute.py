"""Recomputes the figures of a report from the tables of its runs, with pandas and SciPy alone.

`python tests/helpers/recompute.py EXPERIMENT` prints them. It shares no code with the package, whose report a test
compares with it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

FLOORS = ("floor_box", "floor_ellipse", "floor_mean_mask", "floor_class_mask")
UNTRAINED = (*FLOORS, "baseline")


def load(experiment):
    """Return all rows of all runs."""
    return pd.concat([pd.read_parquet(path) for path in sorted(Path(experiment).glob("*/cases.parquet"))])


def select(table, arm, condition=None, box="tight"):
    """Return the rows of an arm with one text, right text or none where no condition is given."""
    rows = table[(table["arm"] == arm) & (table["box"] == box)]
    if condition is None:
        condition = "right" if (rows["condition"] == "right").any() else "none"
    return rows[rows["condition"] == condition]


def average_patients(rows, measure="dice"):
    """Return one mean a patient: runs first, then cases."""
    return rows.groupby(["patient", "case"])[measure].mean().groupby("patient").mean()


def subtract(one, other, given_models=False):
    """Return fold -> table of patients by runs."""
    keys = ["fold", "patient", "case"]
    if (other["seed"] == -1).all():
        both = one.merge(other.drop(columns="seed"), on=keys)
    else:
        both = one.merge(other, on=[*keys, "seed"])
    both["difference"] = both["dice_x"] - both["dice_y"]
    tables = {}
    for fold, rows in both.groupby("fold"):
        table = rows.pivot_table(index="patient", columns="seed", values="difference", aggfunc="mean").dropna()
        tables[fold] = table.mean(axis=1).to_frame() if given_models else table
    return tables


def estimate(tables, folds_decide):
    """Return the mean, its 95 % interval, p and fold means of balanced tables of three patients a fold or more."""
    sizes = np.array([len(table) for table in tables.values()])
    means = np.array([table.to_numpy().mean() for table in tables.values()])
    share = sizes / sizes.sum()
    of_patients = of_runs = spread = raised_sum = 0.0
    parts = []
    repeated = [table for table in tables.values() if table.shape[1] > 1]
    runs = sum(table.shape[1] - 1 for table in repeated)
    given = sum(w**2 / table.shape[1] for w, table in zip(share, tables.values(), strict=True))
    for w, table in zip(share, tables.values(), strict=True):
        n, s = table.shape
        value = w**2 * table.mean(axis=1).var(ddof=1) / n
        of_patients += value
        parts.append((value, n - 1))
    for table in repeated:
        n, s = table.shape
        values = table.to_numpy()
        square = n * values.mean(axis=0).var(ddof=1)
        rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        residual = (rest**2).sum() / ((n - 1) * (s - 1))
        part = given / len(repeated) / n
        of_runs += part * (square - residual)
        raised = part * square * (1 + 0.5 * np.sqrt(2 / runs))
        raised_sum += raised - part * residual
        parts += [(raised, s - 1), (part * residual, (n - 1) * (s - 1))]
    error = np.sqrt(of_patients + max(0.0, of_runs))
    top = max(of_patients, of_patients + raised_sum)
    degrees = top**2 / sum(value**2 / df for value, df in parts)
    mean = float(share @ means)
    halves = [stats.t.ppf(0.975, degrees) * error]
    p = [2 * stats.t.sf(abs(mean) / error, degrees)]
    if folds_decide and len(tables) >= 4:
        spread = np.sqrt((share**2 * (means - mean) ** 2).sum() * len(tables) / (len(tables) - 1))
        halves.append(stats.t.ppf(0.975, len(tables) - 1) * spread)
        p.append(2 * stats.t.sf(abs(mean) / spread, len(tables) - 1))
    return {"mean": mean, "low": mean - max(halves), "high": mean + max(halves), "p": max(p), "folds": list(means)}


def compare(table, one, other):
    """Return what an arm gains over another, in the words of `estimate`."""
    return estimate(subtract(select(table, one), select(table, other)), folds_decide=True)


def find_location(values):
    """Return the median of the means of all pairs of patients' differences."""
    pairs = [(a + b) / 2 for place, a in enumerate(values) for b in values[place:]]
    return float(np.median(pairs))


def recompute(experiment):
    """Return arm -> mean, SD, gains and costs."""
    table = load(experiment)
    arms = list(dict.fromkeys(table["arm"]))
    means = {arm: average_patients(select(table, arm)) for arm in arms}
    floors = [arm for arm in FLOORS if arm in arms]
    best = max(floors, key=lambda arm: means[arm].mean()) if floors else None
    found = {}
    for arm in arms:
        figures = found[arm] = {"dice": means[arm].mean(), "dice_sd": means[arm].std(ddof=1)}
        if arm not in UNTRAINED:
            figures["over_baseline"] = compare(table, arm, "baseline")
            if best:
                figures["over_floor"] = compare(table, arm, best)
        if arm not in (*UNTRAINED, "text_free"):
            figures["help"] = compare(table, arm, "text_free")
            hd95 = [average_patients(select(table, name), "hd95") for name in (arm, "text_free")]
            figures["hd95_difference"] = find_location((hd95[0] - hd95[1]).dropna().to_numpy())
        right, wrong = select(table, arm, "right"), select(table, arm, "wrong")
        if len(right) and len(wrong):
            plausible = select(table, arm, "plausible")
            if len(plausible):
                lost = subtract(right, plausible, given_models=True)
                figures["cost_of_plausible"] = estimate(lost, folds_decide=False)
            figures["cost_of_wrong"] = estimate(subtract(right, wrong, given_models=True), folds_decide=False)
            lost = (right.groupby("case")["dice"].mean() - wrong.groupby("case")["dice"].mean()).dropna()
            figures["wrong_text_harmed"] = int((lost > 0.1).sum())
    return found


if __name__ == "__main__":
    print(json.dumps(recompute(sys.argv[1]), indent=2, default=float))
