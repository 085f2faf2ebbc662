"""Compares the spreadsheets of a report with figures that a script recomputed apart from the package."""

from pathlib import Path

import pandas as pd
import pytest
import recompute as apart

GAINS = ("over_baseline", "over_floor", "help", "cost_of_wrong", "cost_of_plausible")


def check_report(experiment: Path) -> int:
    """Assert that every figure of the arms, distances and harm is the recomputed one; return how many gains were."""
    tables = {path.stem: pd.read_csv(path) for path in (experiment / "report" / "tables").glob("*.csv")}
    arms = tables["arms"][~tables["arms"]["published"]].set_index("arm")
    measures, harm = (tables[name].set_index("arm") for name in ("measures", "harm"))
    found = apart.recompute(experiment)
    assert set(found) == set(arms.index)
    compared = 0
    for arm, figures in found.items():
        for name in ("dice", "dice_sd"):
            assert figures[name] == pytest.approx(arms.loc[arm, name], abs=1e-9)
        for name in (name for name in GAINS if name in figures):
            shown = arms.loc[arm, [name, f"{name}_low", f"{name}_high"]].astype(float)
            assert shown.tolist() == pytest.approx([figures[name][key] for key in ("mean", "low", "high")], abs=1e-9)
            compared += 1
        if "hd95_difference" in figures:
            assert figures["hd95_difference"] == pytest.approx(measures.loc[arm, "hd95_difference"], abs=1e-9)
        if "wrong_text_harmed" in figures and arm in harm.index:
            assert figures["wrong_text_harmed"] == harm.loc[arm, "wrong_text_harmed"]
    (primary,) = tables["ladder"][tables["ladder"]["role"] == "primary"].to_dict("records")
    assert primary["difference_p"] == pytest.approx(found["hierarchical"]["help"]["p"], rel=1e-6)
    return compared
