"""The table of arms: what each trains, which text it is given and when, and what it is compared with."""

from dataclasses import dataclass
from typing import Literal

from t2m_bench.recipe.registry import Registry

REFERENCE_ARM = "text_free"
"""The arm of every claim about text: the same adapter, trained without any."""

Texts = Literal["own", "labels", "shuffled"]


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
        method_rank: of the method's own arms, the one that the primary contrast is about first; 0 for all others.
        package, extra: what it imports beside the package's own requirements, and the extra that installs it.
    """

    name: str
    label: str
    build: str = "t2m_bench.models.fusion:build_fusion"
    levels: tuple[str, ...] = ("coarse", "fine")
    reads_text: bool = True
    has_text_loss: bool = True
    texts: Texts = "own"
    question: str = ""
    method_rank: int = 0
    package: str = ""
    extra: str = ""

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
            extra="unet",
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
            name="text_train_only",
            label="text_train_only (text in the loss alone)",
            reads_text=False,
            question="does text in the loss alone help?",
        ),
        ArmEntry(
            name="shuffled",
            label="shuffled (texts of other patients)",
            texts="shuffled",
            question="is it capacity without information?",
        ),
        ArmEntry(
            name="label",
            label="label (a vector a class, no language)",
            texts="labels",
            question="what does the category add?",
        ),
        ArmEntry(name="gated", label="gated", levels=("gated",), method_rank=2),
        ArmEntry(name="hierarchical", label="hierarchical", method_rank=1),
    ),
)
