"""The table of measures: how each is computed of one pair of masks, which values it can have, and how it is shown."""

from dataclasses import dataclass
from typing import Literal

from t2m_bench.recipe.registry import Registry

INF = float("inf")

DICE = "dice"
"""The measure of every comparison and verdict; the only one that each results table must have."""

HD95 = "hd95"
"""The distance between outlines that page one of a report shows."""

BOX_DIAGONAL = "box_diagonal"
"""Column of which distances are shown as a share."""

DISTANCE = "px or mm"
"""The unit of distances: millimetres where the spacing of pixels is known."""

_SHOW = "t2m_bench.reporting.measure_columns:"


@dataclass(frozen=True)
class MeasureEntry:
    """One measure of a predicted mask beside its reference: a column of the results table and of the report.

    Attributes:
        name: of the column.
        compute: "module:function" from a `metrics.measures.MaskPair` to a float; NaN where it is undefined.
        label: what the report calls it; label_mm: the same where distances are millimetres and it is called otherwise.
        unit: as the report shows it, DISTANCE for that of the case; empty for shares and counts.
        better: which values are better; empty where neither are.
        low, high: the values that it can have, both included.
        is_always: whether it is computed for every condition and box, and never undefined; all others are computed for
            the conditions and the box that are measured in full.
        in_headline: whether the first table of the report shows it, as mean and SD.
        show: "module:function" from this entry and a `reporting.measure_columns.ArmRows` to its columns in the table of
            measures; empty where it has none.
        counts_undefined: whether the report counts the predictions of which it is undefined.
    """

    name: str
    compute: str
    label: str = ""
    label_mm: str = ""
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    low: float = 0.0
    high: float = 1.0
    is_always: bool = False
    in_headline: bool = False
    show: str = f"{_SHOW}show_mean"
    counts_undefined: bool = False

    def name_column(self, distance_unit: str) -> str:
        """Return what the report calls it where distances have a unit, px or mm."""
        label = (self.label_mm if distance_unit == "mm" else "") or self.label or self.name
        unit = distance_unit if self.unit == DISTANCE else self.unit
        return f"{label}, {unit}" if unit else label


_OF = "t2m_bench.metrics.measures:"

MEASURE_TABLE: Registry[MeasureEntry] = Registry(
    "measure",
    "t2m_bench.measures",
    (
        MeasureEntry(DICE, f"{_OF}get_dice", "Dice", better="higher", is_always=True, in_headline=True, show=""),
        MeasureEntry("iou", f"{_OF}get_iou", "IoU", better="higher", is_always=True, in_headline=True, show=""),
        MeasureEntry(
            HD95,
            f"{_OF}get_hd95",
            "HD95",
            unit=DISTANCE,
            better="lower",
            high=INF,
            show=f"{_SHOW}show_quartiles_and_difference",
        ),
        MeasureEntry(
            "assd", f"{_OF}get_assd", "ASSD", unit=DISTANCE, better="lower", high=INF, show=f"{_SHOW}show_median"
        ),
        MeasureEntry("surface_dice_1", f"{_OF}get_surface_dice_1", "Surface Dice, 1 %", better="higher"),
        MeasureEntry(
            "surface_dice", f"{_OF}get_surface_dice", "Surface Dice, 2 %", "Surface Dice, 1 mm", better="higher"
        ),
        MeasureEntry("surface_dice_2", f"{_OF}get_surface_dice_2", "Surface Dice, 2 mm", better="higher"),
        MeasureEntry("surface_dice_5", f"{_OF}get_surface_dice_5", "Surface Dice, 5 %", better="higher"),
        MeasureEntry("precision", f"{_OF}get_precision", "Precision", better="higher", counts_undefined=True),
        MeasureEntry("recall", f"{_OF}get_recall", "Recall", better="higher", counts_undefined=True),
        MeasureEntry(
            "area_error",
            f"{_OF}get_area_error",
            "Area error, signed / absolute",
            low=-1.0,
            high=INF,
            show=f"{_SHOW}show_signed_and_absolute",
        ),
        MeasureEntry(BOX_DIAGONAL, f"{_OF}get_box_diagonal", "Box diagonal", unit=DISTANCE, high=INF, show=""),
    ),
)
