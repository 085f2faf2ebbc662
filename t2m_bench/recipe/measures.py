"""The table of measures: how each is computed of one pair of masks, and which values it can have."""

from dataclasses import dataclass

from t2m_bench.recipe.registry import Registry

INF = float("inf")


@dataclass(frozen=True)
class MeasureEntry:
    """One measure of a predicted mask beside its reference; a column of the results table.

    Attributes:
        name: of the column.
        compute: "module:function" from a `metrics.measures.MaskPair` to a float; NaN where it is undefined.
        low, high: the values that it can have, both included.
        is_always: whether it is computed for every condition and box, and never undefined; all others are computed for
            the conditions and the box that are measured in full.
    """

    name: str
    compute: str
    low: float = 0.0
    high: float = 1.0
    is_always: bool = False


_OF = "t2m_bench.metrics.measures:"

MEASURE_TABLE: Registry[MeasureEntry] = Registry(
    "measure",
    "t2m_bench.measures",
    (
        MeasureEntry("dice", f"{_OF}get_dice", is_always=True),
        MeasureEntry("iou", f"{_OF}get_iou", is_always=True),
        MeasureEntry("precision", f"{_OF}get_precision"),
        MeasureEntry("recall", f"{_OF}get_recall"),
        MeasureEntry("hd95", f"{_OF}get_hd95", high=INF),
        MeasureEntry("assd", f"{_OF}get_assd", high=INF),
        MeasureEntry("surface_dice", f"{_OF}get_surface_dice"),
        MeasureEntry("surface_dice_1", f"{_OF}get_surface_dice_1"),
        MeasureEntry("surface_dice_2", f"{_OF}get_surface_dice_2"),
        MeasureEntry("surface_dice_5", f"{_OF}get_surface_dice_5"),
        MeasureEntry("area_error", f"{_OF}get_area_error", low=-1.0, high=INF),
        MeasureEntry("box_diagonal", f"{_OF}get_box_diagonal", high=INF),
    ),
)
