"""The table of arms: what each trains, which text it is given and when, and what it is compared with."""

from dataclasses import dataclass
from enum import StrEnum

from t2m_bench.recipe.registry import Registry

REFERENCE_ARM = "text_free"
"""The arm of every claim about text: the same adapter, trained without any."""

LABEL_ARM = "label"
"""The arm of the verdict on language: it is given the bare category."""

IN_LOSS_ARM = "text_train_only"
"""The arm that controls for the contrastive loss: text in training, none at the input."""

INPUT_ONLY_ARM = "text_input_only"
"""The arm that says what the text itself does: text at the input, no contrastive loss."""

ONE_LEVEL_REFERENCE = "text_free_one_level"
"""The counterpart without text of the arm with one level: text_free has two."""

STRONG_ARM, STRONG_REFERENCE = "tuned_hierarchical", "tuned_text_free"
"""Arms that train the mask decoder too, with text and without: whether text helps where the base is strong."""

PROMPT_ARM, PROMPT_REFERENCE = "text_prompt", "text_prompt_free"
"""Arms that give the text as tokens beside the box, and learned constants: which place is right for text."""

DEFAULT_ARM = "hierarchical"
"""Arm of a recipe that names none."""

DEFAULT_ARMS = (REFERENCE_ARM, "gated", DEFAULT_ARM)
"""Arms of a suite that names none."""

UNTRAINED_ARMS = ("floor_box", "floor_ellipse", "floor_mean_mask", "floor_class_mask", "baseline")
"""Rows of results beside the arms: shapes drawn in the box, and the frozen model alone."""

ONE_LEVEL = "gated"
"""The section of `adapter` for arms with one level; the arm `gated` is called after it."""

LEVELS = (ONE_LEVEL, "coarse", "fine")
"""The sections of `adapter` that describe a level of fusion with the image embedding."""

PROMPT_SECTION = "prompt"
"""The section of `adapter` that describes tokens of the sparse prompt."""


class Texts(StrEnum):
    """Texts that may stand for a case: its own, its class as a one-hot vector, or that of a drawn patient."""

    OWN = "own"
    LABELS = "labels"
    SHUFFLED = "shuffled"


@dataclass(frozen=True)
class ArmContrast:
    """One more comparison that an arm enters, beside those that every arm has.

    Attributes:
        question: what it answers, for a table.
        other: the arm that this one is compared with; where it is empty, the method's arm is compared with this one.
        in_family: whether its p is adjusted with Holm's family; without, only its interval is shown.
    """

    question: str
    other: str = ""
    in_family: bool = False


@dataclass(frozen=True)
class ArmEntry:
    """One arm that is trained.

    Attributes:
        name: as `bench.arms` and `adapter.kind` have it.
        label: what tables call it.
        build: "module:function" from a `models.arm.BuildContext` to a `models.arm.Built`.
        levels: the sections of `adapter` that it uses, in order; none where it is no adapter.
        reads_text: whether the text given at inference matters. has_text_loss: whether the contrastive loss applies.
        texts: which text stands for a case: its own, its class as a one-hot vector, or that of a drawn patient.
        question: asked by its exploratory comparison with text_free; empty where others ask about it.
        contrasts: further comparisons that it enters.
        method_rank: of the method's own arms, the one that the primary contrast is about first; 0 for all others.
        note: what a reader of the ladder must know of it besides, in one sentence.
        package, install: a module that it imports beside the package's own requirements, and the command that
            installs it.
    """

    name: str
    label: str
    build: str = "t2m_bench.models.fusion:build_fusion"
    levels: tuple[str, ...] = ("coarse", "fine")
    reads_text: bool = True
    has_text_loss: bool = True
    texts: Texts = Texts.OWN
    question: str = ""
    contrasts: tuple[ArmContrast, ...] = ()
    method_rank: int = 0
    note: str = ""
    package: str = ""
    install: str = ""

    @property
    def has_levels(self) -> bool:
        """Return whether it fuses something with the image embedding."""
        return any(section in LEVELS for section in self.levels)

    @property
    def sees_text(self) -> bool:
        """Return whether text plays any part, in training or at inference."""
        return self.reads_text or self.has_text_loss


ARMS: Registry[ArmEntry] = Registry(
    "arm",
    "t2m_bench.arms",
    (
        ArmEntry(
            name="unet",
            label="U-Net on box crops (no text)",
            build="t2m_bench.models.box_unet:build_unet_arm",
            levels=(),
            reads_text=False,
            has_text_loss=False,
            question="does a small U-Net do as well?",
            package="monai",
            install="pip install '.[unet]' in the checkout",
        ),
        ArmEntry(
            name="tuned_decoder",
            label="tuned_decoder (decoder trained, no text)",
            build="t2m_bench.models.tuned_decoder:build_tuned_decoder",
            levels=(),
            reads_text=False,
            has_text_loss=False,
            question="is an adapter better than a tuned decoder? (negative: it is)",
        ),
        ArmEntry(name=REFERENCE_ARM, label="text_free (adapter, no text)", reads_text=False, has_text_loss=False),
        ArmEntry(
            name=ONE_LEVEL_REFERENCE,
            label="text_free_one_level (one level, no text)",
            levels=("gated",),
            reads_text=False,
            has_text_loss=False,
            question="is one level enough without text?",
        ),
        ArmEntry(
            name=IN_LOSS_ARM,
            label="text_train_only (text in the loss alone)",
            reads_text=False,
            question="does text in the loss alone help?",
            contrasts=(ArmContrast("what does text at the input add to text in the loss?"),),
        ),
        ArmEntry(
            name=INPUT_ONLY_ARM,
            label="text_input_only (text at the input, no loss)",
            has_text_loss=False,
            question="what does text at the input add, without its loss?",
            contrasts=(ArmContrast("what does the text's loss add to text at the input?"),),
        ),
        ArmEntry(
            name="shuffled",
            label="shuffled (texts of other patients)",
            texts=Texts.SHUFFLED,
            question="is it capacity without information?",
            contrasts=(ArmContrast("what does the text's content add, with the same loss?"),),
        ),
        ArmEntry(
            name=LABEL_ARM,
            label="label (a vector a class, no language)",
            texts=Texts.LABELS,
            question="what does the category add?",
            contrasts=(ArmContrast("what does language add to the category?", in_family=True),),
        ),
        ArmEntry(
            name="gated",
            label="gated",
            levels=("gated",),
            question="does one level with text gain over two without? (levels differ)",
            contrasts=(ArmContrast("does the text help with one level?", ONE_LEVEL_REFERENCE, in_family=True),),
            method_rank=2,
        ),
        ArmEntry(
            name=DEFAULT_ARM,
            label="hierarchical",
            contrasts=(ArmContrast("is a second level worth it?", "gated", in_family=True),),
            method_rank=1,
        ),
        ArmEntry(
            name=STRONG_REFERENCE,
            label="tuned_text_free (adapter and decoder, no text)",
            build="t2m_bench.models.tuned_fusion:build_tuned_fusion",
            reads_text=False,
            has_text_loss=False,
            question="what does training the mask decoder too add, without text?",
        ),
        ArmEntry(
            name=STRONG_ARM,
            label="tuned_hierarchical (adapter and decoder)",
            build="t2m_bench.models.tuned_fusion:build_tuned_fusion",
            contrasts=(ArmContrast("does the text help on the strong base?", STRONG_REFERENCE),),
        ),
        ArmEntry(
            name=PROMPT_REFERENCE,
            label="text_prompt_free (learned tokens beside the box, no text)",
            build="t2m_bench.models.text_prompt:build_text_prompt",
            levels=(PROMPT_SECTION,),
            reads_text=False,
            has_text_loss=False,
            question="are tokens beside the box as good as an adapter, without text?",
        ),
        ArmEntry(
            name=PROMPT_ARM,
            label="text_prompt (text as tokens beside the box)",
            build="t2m_bench.models.text_prompt:build_text_prompt",
            levels=(PROMPT_SECTION,),
            contrasts=(
                ArmContrast("does the text help as tokens beside the box?", PROMPT_REFERENCE),
                ArmContrast("is the sparse prompt a better place for text than the image embedding?", DEFAULT_ARM),
            ),
            note="the image embedding stays as it is, so the contrastive loss trains the projection of the text alone",
        ),
    ),
    reserved=UNTRAINED_ARMS,
)
