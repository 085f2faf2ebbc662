"""Distances between edges, precision, recall and areas of each arm."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from t2m_bench.reporting.arms import REFERENCE, is_trained
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import (
    ABSENT,
    BOXES,
    Table,
    make_table,
    show_number,
    show_p,
    show_percent,
)
from t2m_bench.statistics import tests
from t2m_bench.statistics.intervals import compute_patient_means


def make_measures_table(results: Results) -> Table | None:
    """Distances, precision, recall and areas of each arm; None for results without them."""
    if results.table["hd95"].isna().all():
        return None
    unit = str(results.table["distance_unit"].mode().iloc[0])
    foreign = results.table[results.table["distance_unit"] != unit]
    results = replace(results, table=results.table.drop(foreign.index))
    dices = {"px": ("surface_dice_1", "surface_dice", "surface_dice_5"), "mm": ("surface_dice", "surface_dice_2")}[unit]
    rows, numbers = [], []
    for arm in results.arms:
        found = _summarise_measures(results, arm, dices)
        numbers.append({"arm": arm, **found})
        share = f" ({show_percent(found['hd95_share'], signed=False)})" if unit == "px" else ""
        quartiles = f"[{found['hd95_q1']:.2f}, {found['hd95_q3']:.2f}]"
        rows.append(
            (
                results.name_arm(arm),
                ABSENT if math.isnan(found["hd95"]) else f"{found['hd95']:.2f} {quartiles}{share}",
                show_p(found["hd95_p"]),
                show_number(found["assd"], 2),
                *(show_number(found[name], 3) for name in dices),
                show_number(found["precision"], 3),
                show_number(found["recall"], 3),
                f"{show_percent(found['area_error'])} / {show_percent(found['area_error_absolute'], signed=False)}",
                f"{found['empty_predictions']} / {found['undefined']} of {found['predictions']}",
            )
        )
    tolerances = {"px": ("1 %", "2 %", "5 %"), "mm": ("1 mm", "2 mm")}[unit]
    columns = (
        "Arm",
        f"HD95, {unit}: median [quartiles]",
        "p",
        f"ASSD, {unit}: median",
        *(f"Surface Dice, {tolerance}" for tolerance in tolerances),
        "Precision",
        "Recall",
        "Area error, signed / absolute",
        "Empty / undefined predictions",
    )
    where = (
        "Distances in pixels, and HD95 as a share of the box's diagonal; surface Dice within a share of that diagonal."
        if unit == "px"
        else "Distances in millimetres in the image's plane (2D)."
    )
    note = (
        f"{where} HD95 is the larger of the two directed 95th percentiles, on edge pixels (MONAI's definition). "
        "Medians and "
        "Wilcoxon's signed-rank p against text_free are over patients, given these trained models, not adjusted. "
        "An empty "
        "prediction counts with the image's diagonal; precision or recall without a denominator is undefined and "
        "left out. Both are counted over cases and seeds. "
        f"{BOXES}"
    )
    if len(foreign):
        note += f" {foreign['case'].nunique()} cases with distances in {foreign['distance_unit'].iloc[0]} are left out."
    return make_table("measures", "Distances and areas", note, columns, rows, numbers)


def _summarise_measures(results: Results, arm: str, dices: Sequence[str]) -> dict[str, Any]:
    rows = results.select_main(arm)
    hd95 = compute_patient_means(rows, "hd95")
    share = compute_patient_means(rows.assign(share=rows["hd95"] / rows["box_diagonal"]), "share")
    free = results.select_main(REFERENCE)
    p = math.nan
    if arm != REFERENCE and is_trained(arm) and len(free):
        paired = pd.concat([hd95, compute_patient_means(free, "hd95")], axis=1, join="inner").dropna()
        p = tests.rank_signs(paired.iloc[:, 0].to_numpy() - paired.iloc[:, 1].to_numpy()) if len(paired) else math.nan
    q1, median, q3 = hd95.quantile([0.25, 0.5, 0.75])
    averaged = (*dices, "precision", "recall", "area_error")
    means = {name: float(compute_patient_means(rows, name).mean()) for name in averaged}
    return {
        "hd95": float(median),
        "hd95_q1": float(q1),
        "hd95_q3": float(q3),
        "hd95_share": float(share.median()),
        "hd95_p": p,
        "assd": float(compute_patient_means(rows, "assd").median()),
        **means,
        "area_error_absolute": float(compute_patient_means(rows.assign(a=rows["area_error"].abs()), "a").mean()),
        "predictions": len(rows),
        "empty_predictions": int(rows["pred_empty"].sum()),
        "undefined": int((rows["precision"].isna() | rows["recall"].isna()).sum()),
    }
