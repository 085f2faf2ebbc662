"""The table of data sets: how a folder is read, its phantoms, and what was published on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from t2m_bench.recipe.encoders import DEFAULT_ENCODER
from t2m_bench.recipe.registry import Registry

DEFAULT_DATA_SET = "bus_bra"
"""The kind of a recipe that names none."""


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
        field_labels: text field -> what a reader calls it, where its name does not say it.
        unseen_by: image encoder -> a sentence on what its weights never saw of such images, for the report's warning.
        prompts: its shipped prompt file; empty where a recipe names a file of its own.
        fetch: "module:function" from a folder and a `terminal.Terminal` to a `fetching.fetch.Fetched`; empty where
            `t2m-bench fetch` cannot get it.
        modality: of its images, as DICOM writes it (US, CT); empty where it may be any.
        slices: neighbouring slices that make an image; the middle one is segmented.
        reads_table: whether its cases are the rows of `dataset.table`.
        has_old_stamps: whether folders were prepared from it before stamps named kind and version of the reader; its
            first version keeps the stamps of then.
    """

    name: str
    label: str
    reader: str
    phantom: str = ""
    phantom_cases: int = 0
    phantom_unit: str = "images"
    published_dice: Mapping[str, float] = field(default_factory=dict)
    published_note: str = ""
    field_labels: Mapping[str, str] = field(default_factory=dict)
    unseen_by: Mapping[str, str] = field(default_factory=dict)
    prompts: str = ""
    fetch: str = ""
    modality: str = ""
    slices: int = 1
    reads_table: bool = False
    has_old_stamps: bool = False

    @property
    def verb_name(self) -> str:
        """Its name on the command line: `phantom` and `fetch` write a hyphen."""
        return self.name.replace("_", "-")


DATA_SETS: Registry[DataSet] = Registry(
    "data set",
    "t2m_bench.datasets",
    (
        DataSet(
            name=DEFAULT_DATA_SET,
            label="BUS-BRA",
            modality="US",
            has_old_stamps=True,
            reader="t2m_bench.data.datasets.bus_bra:BusBra",
            phantom="t2m_bench.data.phantoms.bus_bra:write_bus_bra_phantom",
            phantom_cases=600,
            published_dice={"baseline": 0.7945, "gated": 0.8951, "hierarchical": 0.9131},
            published_note="Two thirds of the validation images share a patient with training. On that split an "
            "ellipse in the box scores 0.8913 and a mean mask of each BI-RADS class 0.8962, with no image at all.",
            field_labels={"birads": "BI-RADS category"},
            prompts="birads",
            fetch="t2m_bench.fetching.fetch:fetch_bus_bra",
        ),
        DataSet(
            name="nsclc",
            has_old_stamps=True,
            label="NSCLC-Radiogenomics",
            modality="CT",
            slices=3,
            reader="t2m_bench.data.datasets.nsclc.data_set:Nsclc",
            phantom="t2m_bench.data.phantoms.nsclc:write_nsclc_phantom",
            phantom_cases=120,
            phantom_unit="patients with CT",
            published_dice={"baseline": 0.8025, "gated": 0.8272, "hierarchical": 0.8581},
            unseen_by={DEFAULT_ENCODER: "These were of ultrasound: it never saw a bright lesion, as CT has them."},
            field_labels={"t_stage": "T stage"},
            prompts="nsclc",
            fetch="t2m_bench.fetching.fetch:fetch_nsclc",
        ),
        DataSet(
            name="table",
            label="Your own data",
            reader="t2m_bench.data.datasets.table.data_set:OwnTable",
            reads_table=True,
        ),
    ),
)
