"""How often an arm fails, and how bad its worst cases are: a mean of Dice hides both."""

import pandas as pd

from t2m_bench.recipe.measures import DICE
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import BOXES, LACKING_MEAN, Table, make_table, show_number, show_percent

FAILED = 0.7
"""Dice below which a case counts as failed, often asked of segmentation for clinical use."""

LOW_SHARE = 0.05
"""Share of the cases that lie below the low end that is shown."""


def make_failure_table(results: Results) -> Table:
    """Table of the cases below FAILED and of the 5th percentile of Dice, a row an arm; seeds averaged in each case."""
    rows, numbers, is_whole = [], [], True
    for arm in results.arms:
        good = results.select_main(arm)
        dice = good.groupby("case")[DICE].mean()
        if dice.empty:
            continue
        failed, low = int((dice < FAILED).sum()), float(dice.quantile(LOW_SHARE))
        lacking = results.tell_lacking(good)
        is_whole = is_whole and not lacking
        share = show_percent(failed / len(dice), signed=False)
        rows.append(
            (
                results.name_arm(arm) + lacking,
                f"{failed} of {len(dice)} ({share})",
                str(_count_patients(good, dice[dice < FAILED])),
                show_number(low),
                show_number(float(dice.min())),
            )
        )
        numbers.append(
            {"arm": arm, "failed": failed, "cases": len(dice), "dice_p5": low, "dice_least": float(dice.min())}
        )
    note = (
        f"A case fails where its Dice, averaged over seeds, is below {FAILED:g}; 5 % of the cases lie below the 5th "
        f"percentile. With right text where an arm reads one. {BOXES}" + ("" if is_whole else f" {LACKING_MEAN}")
    )
    columns = ("Arm", f"Cases below {FAILED:g}", "Their patients", "5th percentile of Dice", "Lowest Dice")
    return make_table("failures", "Failures", note, columns, rows, numbers)


def _count_patients(rows: pd.DataFrame, failed: pd.Series) -> int:
    return int(rows[rows["case"].isin(failed.index)]["patient"].nunique())
