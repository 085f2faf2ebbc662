"""The recipe: everything that decides a result, as typed data that refuses what it does not know."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from t2m_bench.typed_yaml import Section, apply_override, load_mapping, validate

Zero = Literal["zero1", "zero2"]
AdapterKind = Literal["text_free", "gated", "hierarchical"]
Opening = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

IMAGE_WIDTH = 256
"""D, the width of SAM's image embedding in every preset (segment_anything/build_sam.py)."""

NOT_DECISIVE = ("root", "clinical", "strict")
"""Of the dataset section: where it lies and whether it is refused; what it holds stands in the manifest's hash."""

LEVELS = frozenset({"gated", "coarse", "fine"})

PUBMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


class PhantomSection(Section):
    """Phantoms written into `dataset.root` when it does not exist yet; `cases` are images, or patients with CT."""

    cases: Annotated[int, Field(ge=5)]
    seed: Annotated[int, Field(ge=0)] = 0
    text_effect: Fraction = 1.0
    text_visible: bool = False


class CtSection(Section):
    """Which slices of a CT become cases, and the window in Hounsfield units that becomes 0 to 255."""

    window: Literal["lung", "mediastinal"] | tuple[Annotated[float, Field(gt=0.0)], float] = "lung"
    """A preset, or [width, level]."""
    slices_per_patient: Positive = 5
    min_pixels: Positive = 16
    """Slices on which fewer are marked are never chosen."""
    slice_seed: Annotated[int, Field(ge=0)] = 0


class DatasetSection(Section):
    """Which cases, and how they are split by patient."""

    kind: Literal["bus_bra", "nsclc"] = "bus_bra"
    root: Path
    clinical: Path | None = None
    """The clinical table of `nsclc`; looked for in `root` where it is not named."""
    ct: CtSection = CtSection()
    strict: bool = False
    """Refuse a data set of which anything is left out."""
    test_fold: Annotated[int, Field(ge=1, le=10)] = 1
    val_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Of the validation patients; apart from the training seed, so that all seeds of a suite share their splits."""
    phantom: PhantomSection | None = None


class PromptsSection(Section):
    """Which sentences stand for the text fields."""

    file: str = "birads"
    family: str = "category"
    text_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1


class ImageEncoderSection(Section):
    """The frozen SAM: `mini` is shipped, the others need a checkpoint file."""

    preset: Literal["mini", "vit_b", "vit_l", "vit_h"] = "mini"
    checkpoint: Path | None = None


class TextEncoderSection(Section):
    """The frozen text encoder: `stand-in` is shipped, others are Hugging Face names or folders."""

    name: str = PUBMEDBERT
    pooling: Literal["cls", "mean"] = "cls"


class LevelSection(Section):
    """One level of an adapter: K text tokens, H heads, the gate's opening at the start."""

    tokens: Positive
    heads: Positive
    gate_init: Opening


class AdapterSection(Section):
    """The trainable adapter; an arm of the benchmark differs from another here alone."""

    kind: AdapterKind = "hierarchical"
    preset: Literal["default", "published"] = "default"
    norm: Literal["branch", "output"] = "branch"
    inner_width: Positive = IMAGE_WIDTH // 2
    gated: LevelSection = LevelSection(tokens=1, heads=1, gate_init=0.5)
    coarse: LevelSection = LevelSection(tokens=1, heads=4, gate_init=0.5)
    fine: LevelSection = LevelSection(tokens=2, heads=8, gate_init=0.8)

    @model_validator(mode="before")
    @classmethod
    def _fill_levels(cls, raw: Any) -> Any:
        """Let a recipe name one key of a level and keep the level's other defaults."""
        if not isinstance(raw, dict):
            return raw
        filled = dict(raw)
        for name in LEVELS & filled.keys():
            if isinstance(filled[name], dict):
                filled[name] = cls.model_fields[name].get_default().model_dump() | filled[name]
        return filled

    @model_validator(mode="after")
    def _heads_divide(self) -> "AdapterSection":
        width = IMAGE_WIDTH if self.preset == "published" else self.inner_width
        for name in ("gated", "coarse", "fine"):
            heads = getattr(self, name).heads
            if width % heads:
                raise ValueError(f"adapter.{name}.heads = {heads} does not divide the inner width {width}")
        return self


class LossSection(Section):
    """L = dice + bce + contrastive_weight * contrastive (the method's lambda)."""

    contrastive_weight: Annotated[float, Field(ge=0.0)] = 2.0
    temperature: Annotated[float, Field(gt=0.0)] = 0.07


class OptimSection(Section):
    """AdamW with linear warm-up and a cosine to zero."""

    epochs: Positive = 20
    global_batch_size: Positive = 16
    micro_batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    patience: Positive = 5
    box_jitter: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Each side of a training box moves by a uniform share of the box's size up to this, in or out."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"


class BenchSection(Section):
    """What `bench` runs; no single result depends on it."""

    arms: tuple[AdapterKind, ...] = ("text_free", "gated", "hierarchical")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)


class ClusterSection(Section):
    """Where it runs; results do not depend on it beyond rounding."""

    num_train_workers: Annotated[int, Field(ge=0)] | tuple[Positive, Positive] = 0
    """Ray Train workers; 0 trains in the calling process, [min, max] takes as many as the cluster has meanwhile."""
    deepspeed: Zero | None = None
    """AdamW's state (zero1), and the summed gradients too (zero2), spread over the workers."""
    cpus_per_worker: Annotated[float, Field(gt=0.0)] = 1.0
    use_gpu: bool = False
    num_embed_workers: Annotated[int, Field(ge=0)] = 0
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 10.0
    max_failures: Annotated[int, Field(ge=0)] = 3
    shard_mib: Positive = 256

    @property
    def min_train_workers(self) -> int:
        """The fewest workers that train; with fewer the run waits, then gives up."""
        return self.num_train_workers if isinstance(self.num_train_workers, int) else self.num_train_workers[0]

    @model_validator(mode="after")
    def _workers_fit(self) -> "ClusterSection":
        if isinstance(self.num_train_workers, tuple) and self.num_train_workers[0] > self.num_train_workers[1]:
            raise ValueError(
                f"cluster.num_train_workers = {list(self.num_train_workers)}: write [min, max] with min <= max"
            )
        if self.deepspeed is not None and self.min_train_workers == 0:
            raise ValueError(f"cluster.deepspeed = {self.deepspeed} needs workers; set cluster.num_train_workers")
        return self


class Recipe(Section):
    """A whole recipe; see `launch/` for examples."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    allow_leakage: bool = False
    dataset: DatasetSection
    prompts: PromptsSection = PromptsSection()
    image_encoder: ImageEncoderSection = ImageEncoderSection()
    text_encoder: TextEncoderSection = TextEncoderSection()
    adapter: AdapterSection = AdapterSection()
    loss: LossSection = LossSection()
    optim: OptimSection = OptimSection()
    bench: BenchSection = BenchSection()
    cluster: ClusterSection = ClusterSection()

    @model_validator(mode="after")
    def _half_precision_has_a_gpu(self) -> "Recipe":
        if self.optim.mixed_precision == "fp16" and not self.cluster.use_gpu:
            raise ValueError("optim.mixed_precision = fp16 needs a GPU (cluster.use_gpu=true); on a CPU use bf16")
        if self.optim.mixed_precision == "fp16" and self.cluster.deepspeed is not None:
            raise ValueError("optim.mixed_precision = fp16 is not offered with cluster.deepspeed; use bf16 or no")
        return self

    def with_arm(self, arm: AdapterKind, seed: int) -> "Recipe":
        """Return this recipe for one arm and training seed of a benchmark."""
        return self.model_copy(update={"adapter": self.adapter.model_copy(update={"kind": arm}), "seed": seed})

    def compute_experiment_hash(self, dataset_hash: str) -> str:
        """Return 8 hex digits of what all runs of one experiment share: all but the arm, the seed and the cluster.

        Args:
            dataset_hash: stands for data and weights in place of their paths, so that a moved folder changes nothing.
        """
        shared = self.model_dump(mode="json", exclude={"seed", "bench", "cluster"})
        shared["adapter"].pop("kind")
        for name in NOT_DECISIVE:
            shared["dataset"].pop(name)
        shared["image_encoder"].pop("checkpoint")
        return _hash8([dataset_hash, shared])

    def compute_run_hash(self) -> str:
        """Return 8 hex digits of all that decides a run's result on its data."""
        decides = self.model_dump(mode="json", exclude={"bench", "cluster"})
        for name in NOT_DECISIVE:
            decides["dataset"].pop(name)
        decides["image_encoder"].pop("checkpoint")
        return _hash8(decides)


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


def _hash8(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
