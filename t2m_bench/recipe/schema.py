"""The recipe: everything that decides a result, as typed data that refuses what it does not know."""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Sequence
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from t2m_bench.recipe.arms import ARMS, DEFAULT_ARM, DEFAULT_ARMS, LEVELS, ONE_LEVEL, UNTRAINED_ARMS, Texts
from t2m_bench.recipe.conditions import CONDITIONS, DEFAULT_CONDITIONS, RIGHT
from t2m_bench.recipe.datasets import DATA_SETS, DEFAULT_DATA_SET
from t2m_bench.recipe.defaults import keep_decisive, load_defaults
from t2m_bench.recipe.encoders import DEFAULT_ENCODER, IMAGE_ENCODERS, InputRange
from t2m_bench.recipe.typed_yaml import (
    DISTINCT,
    NO_REPEATS,
    AnyPath,
    NameOrPath,
    Section,
    Seed,
    apply_override,
    list_values,
    load_mapping,
    set_dotted,
    validate,
)

Zero = Literal["zero1", "zero2"]
Precision = Literal["no", "bf16", "fp16"]
Tracking = Literal["tensorboard", "wandb", "mlflow"]
Start = Literal["frozen", "unscaled"]
FirstWeights = Literal["seed", "seed_and_fold"]
Opening = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

IMAGE_WIDTH = 256
"""D, the width of SAM's image embedding in every preset (segment_anything/build_sam.py)."""

NOT_IN_HASH = ("root", "clinical", "table", "columns", "strict")
"""Excluded from the hash: location, names of columns and strictness. The content is hashed through the manifest."""

UNDECIDING = (
    *(f"dataset.{name}" for name in NOT_IN_HASH),
    "image_encoder.checkpoint",
    "bench",
    "cluster",
    "deviations",
)
"""Fields that decide no result; a checkpoint's content enters the hashes of embeddings."""

TIGHT = "tight"
BOX_NAME = re.compile(r"tight|(jitter|loose|shift)_([1-9]\d?|100)")
ARM_NAME = re.compile(r"[a-z][a-z0-9_]*")

STAND_IN = "stand-in"
"""The text encoder that is shipped: small, and no language model."""

PUBMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


class PhantomSection(Section):
    """Phantoms written into `dataset.root` when it does not exist yet; `cases` are images, or patients with CT."""

    cases: Annotated[int, Field(ge=5)]
    """Number of images, or of patients with CT."""
    seed: Seed = 0
    """Seed of the phantoms."""
    text_effect: Fraction = 1.0
    """Probability that the text names the hidden class; otherwise it names a random class."""
    text_visible: bool = False
    """Let the image show the class too, so that the text is redundant."""


class CtSection(Section):
    """Selects the CT slices that become cases, and the window in Hounsfield units that is mapped to 0 to 255."""

    window: Literal["lung", "mediastinal"] | tuple[Annotated[float, Field(gt=0.0)], float] = "lung"
    """A preset, or [width, level]."""
    slices_per_patient: Positive = 5
    """Largest number of slices drawn from one patient."""
    min_pixels: Positive = 16
    """Slices with fewer marked pixels are never chosen."""
    slice_seed: Seed = 0
    """Seed of the draw of slices."""


class ColumnsSection(Section):
    """Names the columns of a data set's own table.

    Columns with the names below are used if the table has them; `image`, `mask` and `patient` are required. A column
    that the recipe names must be in the table. `label: null` ignores a column of that name with another meaning.
    """

    image: str = "image"
    """Path of the image, from `dataset.root`; `file.nii.gz#z=41` is one slice of a volume."""
    mask: str = "mask"
    """Path of the reference mask, from `dataset.root`."""
    patient: str = "patient"
    """Identifier of the patient; rows of one patient never stand on two sides of a split."""
    case: str | None = "case"
    """Name of the case, unique in the table; without it, rows are numbered."""
    fold: str | None = "fold"
    """Test fold, from 1; without it, folds are derived by patient and class."""
    spacing_mm: str | tuple[str, str] | None = "spacing_mm"
    """One column with one number, or with row and column spacing, or two columns [row, column]."""
    box: str | None = "box"
    """x0, y0, x1, y1 in pixels, half open, origin top left; without it, the tight box of the mask."""
    label: str | None = "label"
    """Value of the lesion in the mask file; several values make several cases."""
    exclude: str | None = "exclude"
    """Rows with yes, true or 1 are left out."""
    strata: Annotated[tuple[str, ...], NO_REPEATS] = ()
    """Columns that put cases into groups, such as the scanner."""
    text: dict[str, str] = Field(default_factory=dict)
    """Field of the prompt file -> column, where the names differ."""


class DatasetSection(Section):
    """Selects the cases and their split by patient."""

    kind: str = DEFAULT_DATA_SET
    """An entry of the table of data sets."""
    root: AnyPath
    """Folder of the data set."""
    clinical: AnyPath | None = None
    """The clinical table of `nsclc`; searched for in `root` if not set."""
    table: AnyPath | None = None
    """The table of your own data (`kind: table`), CSV or Parquet: in `root`, or a path."""
    columns: ColumnsSection = ColumnsSection()
    """Names of the table's columns."""
    intensity: Literal["minmax"] | tuple[Annotated[float, Field(gt=0.0)], float] = "minmax"
    """How images of your own with more than 8 bits become 8 bits: by their lowest and highest value, or [width, level].

    CT in DICOM files is windowed as `ct.window` says.
    """
    ct: CtSection = CtSection()
    """Choice of CT slices and their window."""
    strict: bool = False
    """Refuse a data set if any case is left out, or flagged by the image audit."""
    test_fold: Annotated[int, Field(ge=1, le=10)] = 1
    """Fold whose patients are the test set."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    """Share of the patients outside the test fold that choose the best epoch."""
    fold_seed: Seed = 0
    """Seed of the folds that are derived where no official ones exist; the test patients of a fold depend on nothing
    else.
    """
    split_seed: Seed = 0
    """Seed of the validation patients.

    It is independent of the training seed, so that all seeds of a suite share their splits.
    """
    split_by: Literal["patient", "image"] = "patient"
    """`image` splits by image, as published: patients are then on both sides, and test_fold numbers the draw."""
    validation: Literal["apart", "test"] = "apart"
    """`test` chooses the best epoch on the test cases, as published, and trains on the validation cases."""
    phantom: PhantomSection | None = None
    """Phantoms to write where `root` does not exist."""

    @model_validator(mode="after")
    def _fits_its_table(self) -> "DatasetSection":
        if self.kind not in DATA_SETS:
            raise ValueError(f"dataset.kind: {DATA_SETS.describe_unknown(self.kind)}")
        if self.phantom is not None and not DATA_SETS.find(self.kind).phantom:
            raise ValueError(f"dataset.phantom: there are no phantoms of {self.kind}")
        reads_table = {entry.name: entry.reads_table for entry in DATA_SETS.own}.get(self.kind)
        if reads_table and self.table is None:
            raise ValueError("dataset.table is required and missing: the table with a row for each image and mask")
        if reads_table is False and self.table is not None:
            kinds = ", ".join(entry.name for entry in DATA_SETS.own if entry.reads_table)
            raise ValueError(f"dataset.table means nothing to dataset.kind = {self.kind}; set dataset.kind to {kinds}")
        return self


class PromptsSection(Section):
    """Selects the sentences: those of a prompt file that stand for the text fields, or each case's own (`column`)."""

    file: NameOrPath | None = "birads"
    """A shipped prompt file by its name, or a path; none where `column` is set."""
    family: str = "category"
    """Family of sentences in the prompt file."""
    text_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of training texts that are replaced by the text that says unknown."""
    column: str | None = None
    """Free text: the column of your own table that holds a sentence for each case, such as a report."""
    class_column: str | None = None
    """With free text: a column of classes, for splits, positive pairs, the arm `label` and texts of another class."""
    paraphrase_column: str | None = None
    """With free text: a column with the same in other words, never used in training."""
    unknown: Annotated[str, Field(min_length=1)] = "Not recorded."
    """With free text: the sentence for a case without one."""
    long_text: Literal["refuse", "average"] = "refuse"
    """Free text that is longer than the encoder takes: `average` cuts it into pieces and weights them by tokens."""
    strip_numbers: bool = False
    """Mask digits and units of free text, which may reveal the size and the place of a lesion."""

    @model_validator(mode="before")
    @classmethod
    def _has_one_source(cls, raw: Any) -> Any:
        """Leave the default file out where a column is named."""
        has_column = isinstance(raw, dict) and raw.get("column") is not None
        return {"file": None} | raw if has_column else raw

    @model_validator(mode="after")
    def _agrees(self) -> "PromptsSection":
        if self.column is not None and self.file is not None:
            raise ValueError(
                f"prompts.file = {self.file} and prompts.column = {self.column}: sentences come from a prompt file or "
                "from a column; leave one out"
            )
        if self.column is None and self.file is None:
            raise ValueError("prompts.file or prompts.column is required: the source of the sentences")
        if self.column is None:
            for name in ("class_column", "paraphrase_column", "strip_numbers"):
                if getattr(self, name):
                    raise ValueError(f"prompts.{name} means nothing without prompts.column, a column of free text")
        columns = [name for name in (self.column, self.class_column, self.paraphrase_column) if name is not None]
        if len(set(columns)) < len(columns):
            raise ValueError(f"prompts names the column {columns[-1]} twice; text, class and paraphrase are three")
        return self


class ImageEncoderSection(Section):
    """The frozen SAM: the weights of `mini` are shipped, the others need a checkpoint file."""

    preset: str = DEFAULT_ENCODER
    """An entry of the table of image encoders."""
    checkpoint: AnyPath | None = None
    """Weights file; `mini` has its own."""
    input_range: InputRange = "unit"
    """Range of the pixels: 0 to 1, as SAM and MedSAM are trained, or 0 to 255, as was published."""

    @model_validator(mode="after")
    def _fits_its_table(self) -> "ImageEncoderSection":
        if self.preset not in IMAGE_ENCODERS:
            raise ValueError(f"image_encoder.preset: {IMAGE_ENCODERS.describe_unknown(self.preset)}")
        allowed = IMAGE_ENCODERS.find(self.preset).input_ranges
        if self.input_range not in allowed:
            raise ValueError(
                f"image_encoder.input_range = {self.input_range} means nothing for the weights of {self.preset}; "
                f"set {' or '.join(allowed)}"
            )
        return self


class TextEncoderSection(Section):
    """The frozen text encoder: `stand-in` is shipped, others are Hugging Face names or folders."""

    name: NameOrPath = PUBMEDBERT
    """`stand-in`, a Hugging Face name, or a folder."""
    pooling: Literal["cls", "mean"] = "cls"
    """How token vectors become one: the first token's (`cls`) or their mean."""


def _sigmoid(raw: float) -> float:
    return 1.0 / (1.0 + math.exp(-raw))


PUBLISHED_ADAPTER: dict[str, Any] = {
    "norm": "output",
    "start": "unscaled",
    "inner_width": IMAGE_WIDTH,
    ONE_LEVEL: {"tokens": 1, "heads": 1, "gate_init": _sigmoid(1.0)},
    "coarse": {"tokens": 1, "heads": 4, "gate_init": _sigmoid(0.5)},
    "fine": {"tokens": 2, "heads": 8, "gate_init": _sigmoid(0.8)},
}
"""Values of `adapter.preset: published` where the recipe gives no others (Talk2MedSAM's code)."""


class LevelSection(Section):
    """One level of an adapter: K text tokens, H heads, the gate's opening at the start."""

    tokens: Positive
    """Number K of text tokens."""
    heads: Positive
    """Number H of attention heads; must divide the inner width."""
    gate_init: Opening
    """Opening of the gate at the start, as a share from 0 to 1."""


class PromptSection(Section):
    """The text tokens of an arm that puts them into the decoder's sparse prompt."""

    gate_init: Opening = 0.5
    """Opening of the gate at the start, as a share from 0 to 1: the size of the tokens beside the box's."""


class AdapterSection(Section):
    """The trainable adapter; the arms of the table differ in it."""

    kind: str = DEFAULT_ARM
    """An entry of the table of arms."""
    preset: Literal["default", "published"] = "default"
    """`published` takes the values of Talk2MedSAM's code where the recipe gives no others."""
    norm: Literal["branch", "output"] = "branch"
    """`branch` adds gate x LN(attention), as in the published figure; `output`, as in the published code, is
    LN(x + gate x attention).
    """
    start: Start = "frozen"
    """`frozen` starts at the frozen model: the branch is a share of the embeddings' own spread, and small at first.
    `unscaled` starts as published, from a branch of its own size; the norm form `output` always does.
    """
    inner_width: Positive = IMAGE_WIDTH // 2
    """Width C of the attention."""
    gated: LevelSection = LevelSection(tokens=1, heads=1, gate_init=0.5)
    """The one level of `gated`."""
    coarse: LevelSection = LevelSection(tokens=1, heads=4, gate_init=0.5)
    """The first level of `hierarchical`."""
    fine: LevelSection = LevelSection(tokens=2, heads=8, gate_init=0.8)
    """The second level of `hierarchical`."""
    prompt: PromptSection = PromptSection()
    """The tokens of `text_prompt`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, raw: Any) -> Any:
        """Let a recipe name one key of a level and keep the level's other defaults, which the preset decides."""
        if not isinstance(raw, dict):
            return raw
        published = raw.get("preset") == "published"
        filled = (PUBLISHED_ADAPTER if published else {}) | raw
        if filled.get("norm") == "output":
            filled = {"start": "unscaled"} | filled
        for name in [level for level in LEVELS if level in filled]:
            if isinstance(filled[name], dict):
                default = cls.model_fields[name].get_default().model_dump()
                filled[name] = default | (PUBLISHED_ADAPTER[name] if published else {}) | filled[name]
        return filled

    def list_said(self) -> dict[str, Any]:
        """Return the preset and the values that differ from it, so that another preset may replace it."""
        implied = AdapterSection(preset=self.preset, norm=self.norm).model_dump()
        norm = {} if self.norm == AdapterSection(preset=self.preset).norm else {"norm": self.norm}
        return {"preset": self.preset} | norm | _subtract(self.model_dump(), implied)

    @model_validator(mode="after")
    def _fits_its_table(self) -> "AdapterSection":
        if self.kind not in ARMS:
            raise ValueError(f"adapter.kind: {ARMS.describe_unknown(self.kind)}")
        return self

    @model_validator(mode="after")
    def _output_norm_has_no_branch(self) -> "AdapterSection":
        if self.norm == "output" and self.start == "frozen":
            raise ValueError(
                "adapter.start = frozen needs adapter.norm = branch: the output norm rewrites the embedding itself; "
                "leave adapter.start out, or set it to unscaled"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> "AdapterSection":
        width = IMAGE_WIDTH if self.preset == "published" else self.inner_width
        for name in LEVELS:
            heads = getattr(self, name).heads
            if width % heads:
                raise ValueError(f"adapter.{name}.heads = {heads} does not divide the inner width {width}")
        return self


class LossSection(Section):
    """L = dice_weight * dice + bce_weight * bce + contrastive_weight * contrastive (the method's lambda)."""

    dice_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the Dice loss."""
    bce_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of binary cross-entropy."""
    contrastive_weight: Annotated[float, Field(ge=0.0)] = 2.0
    """Weight of the contrastive loss between lesion and text (lambda)."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.07
    """Temperature that divides cosine similarities in the contrastive loss."""


class OptimSection(Section):
    """AdamW with linear warm-up and a cosine to zero."""

    epochs: Positive = 20
    """Largest number of passes over the training cases."""
    global_batch_size: Positive = 16
    """Cases in a step, over all workers."""
    micro_batch_size: Positive = 16
    """Cases in one pass of a worker; a step accumulates the gradients of its passes."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Learning rate after warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """AdamW's weight decay."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Steps of linear warm-up."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest norm of the gradient."""
    patience: Positive = 5
    """Epochs without a better validation Dice after which training stops."""
    box_jitter: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Each side of a training box moves by a uniform share of the box's size up to this, in or out."""
    mixed_precision: Precision = "no"
    """Precision of the step; `fp16` needs a GPU."""


class NamedArm(Section):
    """An arm of a recipe's own: what differs from the shared recipe.

    All arms share the recipe but the adapter block; one whose optim, loss or prompts differ too is compared fairly only
    with arms given as many trials, so it must say that it is `differently_tuned`.
    """

    adapter: dict[str, Any] = Field(default_factory=dict)
    """What differs in `adapter`."""
    optim: dict[str, Any] = Field(default_factory=dict)
    """What differs in `optim`."""
    loss: dict[str, Any] = Field(default_factory=dict)
    """What differs in `loss`."""
    prompts: dict[str, Any] = Field(default_factory=dict)
    """What differs in `prompts`."""
    differently_tuned: bool = False
    """Says that the arm was tuned by itself."""
    trials: Positive = 1
    """Trials of the sweep that chose it; the report prints them."""

    @model_validator(mode="after")
    def _says_what_it_is(self) -> "NamedArm":
        tuned = [name for name in ("optim", "loss", "prompts") if getattr(self, name)]
        if tuned and not self.differently_tuned:
            raise ValueError(
                f"bench.named: an arm changes {tuned[0]}, which all arms share; say differently_tuned: true there, and "
                "trials: how many its sweep had"
            )
        if self.differently_tuned and "trials" not in self.model_fields_set:
            raise ValueError("bench.named: an arm is differently_tuned; say trials: how many its sweep had")
        return self


class BenchSection(Section):
    """Settings of `bench`: the runs, and the questions that a trained arm answers."""

    arms: Annotated[tuple[str, ...], *DISTINCT] = DEFAULT_ARMS
    """Arms to train."""
    named: dict[str, NamedArm] = Field(default_factory=dict)
    """Arms of your own by name."""
    seeds: Annotated[tuple[Seed, ...], *DISTINCT] = (0,)
    """Seeds; each arm is trained once with each."""
    margin: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.005
    """Dice within which a difference does not matter; fix it before looking at results."""
    folds: Annotated[tuple[Annotated[int, Field(ge=1, le=10)], ...], NO_REPEATS] = ()
    """Test folds, one after the other; if empty, dataset.test_fold alone."""
    conditions: Annotated[tuple[str, ...], NO_REPEATS] = DEFAULT_CONDITIONS
    """Entries of the table of conditions."""
    boxes: Annotated[tuple[str, ...], NO_REPEATS] = (TIGHT, "jitter_20", "loose_20")
    """Boxes that arms are given: tight, jitter_P, loose_P, shift_P (P percent)."""
    keep_masks: bool = False
    """Keep every predicted mask at the image's own resolution, in predicted_masks.parquet of its run."""

    @model_validator(mode="after")
    def _knows_its_names(self) -> "BenchSection":
        for name, named in self.named.items():
            is_tuned = named.differently_tuned and named.adapter.get("kind", name) == name
            if not ARM_NAME.fullmatch(name) or name in UNTRAINED_ARMS or (_is_kind(name) and not is_tuned):
                raise ValueError(
                    f"bench.named.{name}: choose a name of a-z, 0-9 and _ that no arm has yet, or tune an arm of that "
                    "name: differently_tuned: true, and no other kind"
                )
        for arm in self.arms:
            if arm not in ARMS and arm not in self.named:
                known = [*ARMS.names, *self.named]
                near = difflib.get_close_matches(arm, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                raise ValueError(f"bench.arms: {arm} is no arm; {hint}")
        for condition in self.conditions:
            if condition not in CONDITIONS:
                raise ValueError(f"bench.conditions: {CONDITIONS.describe_unknown(condition)}")
        for box in self.boxes:
            if not BOX_NAME.fullmatch(box):
                raise ValueError(
                    f"bench.boxes: {box} is no box; write tight, jitter_P, loose_P or shift_P, P in percent"
                )
        if RIGHT not in self.conditions or TIGHT not in self.boxes:
            raise ValueError(
                f"bench.conditions needs {RIGHT} and bench.boxes needs tight: all else is compared with them"
            )
        return self


def list_default_suite() -> dict[str, list[str]]:
    """Return the conditions and boxes that a run is asked where its recipe names none."""
    defaults = BenchSection()
    return {"conditions": list(defaults.conditions), "boxes": list(defaults.boxes)}


class ClusterSection(Section):
    """Workers and devices; results do not depend on them beyond rounding."""

    num_train_workers: Annotated[int, Field(ge=0)] | tuple[Positive, Positive] = 0
    """Number of Ray Train workers; 0 trains in the calling process, [min, max] adapts to the cluster."""
    deepspeed: Zero | None = None
    """Spread AdamW's state (`zero1`), or the summed gradients too (`zero2`), over the workers."""
    cpus_per_worker: Annotated[float, Field(gt=0.0)] = 1.0
    """CPUs of each worker."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    compile: bool = False
    """Compile adapter and decoder by torch.compile; if it fails, training continues without it and says so."""
    num_embed_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that encode images; 0 encodes in the calling process."""
    num_bench_workers: Annotated[int, Field(ge=0)] = 0
    """Processes of `bench` that train a run each, side by side; 0 trains one run after the other."""
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 10.0
    """Minutes between checkpoints."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Losses of workers in a row after which training gives up."""
    shard_mib: Positive = 256
    """Size of a shard in MiB."""
    tracking: Annotated[tuple[Tracking, ...], NO_REPEATS] = ("tensorboard",)
    """Trackers of each run. wandb works offline unless WANDB_MODE says otherwise, mlflow in a local store unless
    MLFLOW_TRACKING_URI names a server.
    """

    @property
    def gpus_per_worker(self) -> int:
        """Number of GPUs of each worker: one or none."""
        return 1 if self.use_gpu else 0

    @property
    def min_train_workers(self) -> int:
        """The fewest workers that train; with fewer the run waits, then gives up."""
        return self.num_train_workers if isinstance(self.num_train_workers, int) else self.num_train_workers[0]

    @field_validator("num_train_workers", mode="before")
    @classmethod
    def _is_number_or_range(cls, raw: Any) -> Any:
        """Give the allowed forms in one sentence; pydantic would write one for each form."""
        low, high = raw if isinstance(raw, list | tuple) and len(raw) == 2 else (raw, raw)
        are_counts = all(isinstance(count, int) and not isinstance(count, bool) for count in (low, high))
        if not are_counts or low < (0 if low is raw else 1) or low > high:
            shown = list(raw) if isinstance(raw, tuple) else raw
            raise ValueError(
                f"cluster.num_train_workers = {shown}: write a number of workers (0 trains in the calling process), or "
                "[min, max] with 1 <= min <= max"
            )
        return raw

    @model_validator(mode="after")
    def _workers_fit(self) -> "ClusterSection":
        if self.num_bench_workers > 0 and self.num_train_workers != 0:
            raise ValueError(
                f"cluster.num_bench_workers = {self.num_bench_workers} trains each run in one process; set "
                "cluster.num_train_workers to 0, or num_bench_workers to 0"
            )
        if self.deepspeed is not None and self.min_train_workers == 0:
            raise ValueError(f"cluster.deepspeed = {self.deepspeed} needs workers; set cluster.num_train_workers")
        return self


class Recipe(Section):
    """A whole recipe; see `launch/` for examples."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Names the experiment; part of its folder's name. Letters a to z, digits, hyphen and underscore."""
    seed: Seed = 0
    """Seed of training: first weights, order of cases, draws of sentences and of jittered boxes."""
    first_weights: FirstWeights = "seed_and_fold"
    """Source of the first weights. From the seed alone, all folds would start from the same ones, and an effect of
    these would look like one of the arm.
    """
    allow_leakage: bool = False
    """Continue although the leakage audit found something; every table then says so."""
    dataset: DatasetSection
    prompts: PromptsSection = PromptsSection()
    image_encoder: ImageEncoderSection = ImageEncoderSection()
    text_encoder: TextEncoderSection = TextEncoderSection()
    adapter: AdapterSection = AdapterSection()
    loss: LossSection = LossSection()
    optim: OptimSection = OptimSection()
    bench: BenchSection = BenchSection()
    cluster: ClusterSection = ClusterSection()
    deviations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Deviations of this recipe from a clean protocol: name -> dotted field -> its clean value."""

    @model_validator(mode="before")
    @classmethod
    def _published_drops_no_text(cls, raw: Any) -> Any:
        """Show in the resolved recipe that the published adapter trained without text dropout."""
        sections = [raw.get(name) or {} for name in ("adapter", "prompts")] if isinstance(raw, dict) else []
        if not sections or not all(isinstance(section, dict) for section in sections):
            return raw
        adapter, prompts = sections
        return raw | {"prompts": {"text_dropout": 0.0} | prompts} if adapter.get("preset") == "published" else raw

    @model_validator(mode="after")
    def _half_precision_has_a_gpu(self) -> "Recipe":
        if self.optim.mixed_precision == "fp16" and not self.cluster.use_gpu:
            raise ValueError("optim.mixed_precision = fp16 needs a GPU (cluster.use_gpu=true); on a CPU use bf16")
        if self.optim.mixed_precision == "fp16" and self.cluster.deepspeed is not None:
            raise ValueError("optim.mixed_precision = fp16 is not offered with cluster.deepspeed; use bf16 or no")
        return self

    @model_validator(mode="after")
    def _free_text_has_a_table(self) -> "Recipe":
        if self.prompts.column is None:
            return self
        if self.dataset.table is None:
            raise ValueError("prompts.column names a column of your own table: set dataset.kind and dataset.table")
        if self.prompts.class_column is None:
            named = {name: arm.adapter.get("kind", name) for name, arm in self.bench.named.items()}
            kinds = [self.adapter.kind, *(named.get(arm, arm) for arm in self.bench.arms)]
            for kind in kinds:
                entry = ARMS.get(kind)
                if entry is not None and entry.texts == Texts.LABELS:
                    raise ValueError(f"the arm {kind} is given a class: name its column in prompts.class_column")
        return self

    @model_validator(mode="after")
    def _named_arms_are_recipes(self) -> "Recipe":
        for name in self.bench.named:
            try:
                self.with_arm(name, self.seed)
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(map(str, problem["loc"]))
                raise ValueError(f"bench.named.{name}: {where}: {problem['msg']}") from None
        return self

    @model_validator(mode="after")
    def _deviations_are_recipes(self) -> "Recipe":
        for clean in self.deviations.values():
            self.with_values(clean)
        return self

    def with_arm(self, arm: str, seed: int) -> "Recipe":
        """Return this recipe for one arm and training seed of a benchmark."""
        named = self.bench.named.get(arm)
        if named is None:
            return self.model_copy(update={"adapter": self.adapter.model_copy(update={"kind": arm}), "seed": seed})
        own = {"adapter": {**named.adapter, "kind": arm}} if _is_kind(arm) else {}
        changed = {
            name: type(section).model_validate(_merge(shared, own.get(name, getattr(named, name))))
            for name, section, shared in (
                ("adapter", self.adapter, self.adapter.list_said()),
                ("optim", self.optim, self.optim.model_dump(mode="json")),
                ("loss", self.loss, self.loss.model_dump(mode="json")),
                ("prompts", self.prompts, self.prompts.model_dump(mode="json")),
            )
        }
        return self.model_copy(update={**changed, "seed": seed})

    def with_fold(self, fold: int) -> "Recipe":
        """Return this recipe with another test fold."""
        return self.model_copy(update={"dataset": self.dataset.model_copy(update={"test_fold": fold})})

    def with_values(self, values: dict[str, Any]) -> "Recipe":
        """Return this recipe with values of dotted fields.

        Raises:
            RecipeError: a field or a value is not allowed.
        """
        bench = self.bench.model_dump(mode="json", exclude_unset=True)  # what is not said stays so
        raw = self.model_dump(mode="json") | {"adapter": self.adapter.list_said(), "bench": bench, "deviations": {}}
        for dotted, value in values.items():
            set_dotted(raw, dotted, value)
        return parse_recipe(raw, source=self.name)

    @property
    def folds(self) -> tuple[int, ...]:
        """The test folds of a benchmark."""
        return self.bench.folds or (self.dataset.test_fold,)

    def compute_experiment_hash(self, dataset_hash: str) -> str:
        """Return 8 hex digits of what all runs of one experiment share: all but arm, test fold, seed and cluster.

        An arm of a kind's name that is tuned makes another experiment: its runs bear the name of those that are not.

        Args:
            dataset_hash: stands for data and weights in place of their paths, so that a moved folder changes nothing.
        """
        shared = self.list_decisive("seed", "adapter.kind", "dataset.test_fold")
        tuned = {name: self._list_named(arm) for name, arm in self.bench.named.items() if _is_kind(name)}
        return _hash8([dataset_hash, shared, tuned] if tuned else [dataset_hash, shared])

    def compute_run_hash(self) -> str:
        """Return 8 hex digits of all that decides a run's result on its data."""
        return _hash8(self.list_decisive())

    def list_decisive(self, *without: str) -> dict[str, Any]:
        """Return what decides a result, without some dotted fields; later fields count unless at their default."""
        decisive = keep_decisive(list_values(self), load_defaults("recipe"))
        for dotted in (*UNDECIDING, *without):
            *parents, leaf = dotted.split(".")
            reduce(dict.__getitem__, parents, decisive).pop(leaf, None)
        return decisive

    def _list_named(self, arm: NamedArm) -> dict[str, Any]:
        """Return what makes a named arm another one; its sections may repeat fields of the recipe."""
        kept, frozen = keep_decisive(list_values(arm), load_defaults("arm")), load_defaults("recipe")
        for shared in list_values(self):
            *parents, leaf = shared.path
            place = reduce(lambda found, parent: found.get(parent, {}), parents, kept)
            if leaf in place and place[leaf] == shared.value and not frozen.decides(shared):
                place.pop(leaf)
            elif leaf in place and shared.field in frozen.renamed:
                set_dotted(kept, frozen.renamed[shared.field], place.pop(leaf))
        return kept


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply dotted overrides such as `adapter.fine.heads=4`.

    Raises:
        RecipeError: the file is absent or no YAML mapping, or a key or value is not allowed; names the field.
    """
    raw = load_mapping(path, "recipe", "launch")
    for override in overrides:
        apply_override(raw, override)
    return parse_recipe(raw, source=str(path))


def parse_recipe(raw: dict[str, Any], source: str) -> Recipe:
    """Validate a mapping as a recipe; `source` names it in messages.

    Raises:
        RecipeError: naming each field that is wrong, with the nearest known name for an unknown one.
    """
    return validate(Recipe, raw, "recipe", source)


def parse_noted_recipe(raw: dict[str, Any], source: str) -> Recipe:
    """Validate a whole recipe as a run recorded it; fields that were added later take their frozen defaults.

    Raises:
        RecipeError: as `parse_recipe`.
    """
    whole, frozen = deepcopy(raw), load_defaults("recipe")
    for field, value in frozen.neutral.items():
        *parents, leaf = field.split(".")
        section: Any = whole
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if value != frozen.current[field] and isinstance(section, dict) and leaf not in section:
            section[leaf] = value
    return parse_recipe(whole, source)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return base with changes, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if is_section else value
    return merged


def _subtract(values: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the defaults, section by section."""
    return {
        key: _subtract(value, default[key]) if isinstance(value, dict) else value
        for key, value in values.items()
        if value != default[key]
    }


def _is_kind(arm: str) -> bool:
    return arm in ARMS


def _hash8(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
