"""The table of data sets: how a folder is read, its phantoms, and what was published on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from t2m_bench.recipe.registry import Registry


@dataclass(frozen=True)
class DataSet:
    """One kind of data set.

    Attributes:
        name: as `dataset.kind` has it.
        label: what people call it.
        reader: "module:object", a `data.datasets.registry.Reader`.
        phantom: "module:function" that writes phantoms in its layout (`write(root, num_cases=, seed=, text_effect=,
            text_visible=)`); empty where there is none.
        phantom_cases: how many the verb `phantom` writes by default. phantom_unit: what they are, in the plural.
        published_dice: arm -> Dice as Talk2MedSAM published it (Zhang 2024, BME 590 final project report, Duke
            University). published_note: what was measured on that split.
        unlike_mini: what the shipped mini model, trained on phantoms of ultrasound, never saw; empty where nothing.
    """

    name: str
    label: str
    reader: str
    phantom: str = ""
    phantom_cases: int = 0
    phantom_unit: str = "images"
    published_dice: Mapping[str, float] = field(default_factory=dict)
    published_note: str = ""
    unlike_mini: str = ""


DATA_SETS: Registry[DataSet] = Registry(
    "data set",
    "t2m_bench.datasets",
    (
        DataSet(
            name="bus_bra",
            label="BUS-BRA",
            reader="t2m_bench.data.datasets.bus_bra:BusBra",
            phantom="t2m_bench.data.phantoms.bus_bra:write_bus_bra_phantom",
            phantom_cases=600,
            published_dice={"baseline": 0.7945, "gated": 0.8951, "hierarchical": 0.9131},
            published_note="Two thirds of the validation images share a patient with training. On that split an "
            "ellipse in the box scores 0.8913 and a mean mask of each BI-RADS class 0.8962, with no image at all.",
        ),
        DataSet(
            name="nsclc",
            label="NSCLC-Radiogenomics",
            reader="t2m_bench.data.datasets.nsclc.data_set:Nsclc",
            phantom="t2m_bench.data.phantoms.nsclc:write_nsclc_phantom",
            phantom_cases=120,
            phantom_unit="patients with CT",
            published_dice={"baseline": 0.8025, "gated": 0.8272, "hierarchical": 0.8581},
            unlike_mini="These were of ultrasound: it never saw a bright lesion, as CT has them.",
        ),
    ),
)
