"""An arm: the text scales each channel of the image embedding."""

from torch import Tensor, nn

from t2m_bench.models.arm import Arm, ArmOutput, BuildContext, Built, seeded
from t2m_bench.recipe.arms import ArmEntry

WIDTH = 256


class Scaling(Arm):
    """One linear map from the text to a factor a channel."""

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, WIDTH)

    @property
    def uses_text(self) -> bool:
        """Return True; the entry's `reads_text` says the same. `has_text_loss` follows it."""
        return True

    def forward(self, image_embedding: Tensor, text_embedding: Tensor) -> ArmOutput:
        """Scale image_embedding (B, 256, h, w) by text_embedding (B, E)."""
        factors: Tensor = self.project(text_embedding)  # (B, 256)
        return ArmOutput(image_embedding * (1 + factors.tanh()[:, :, None, None]), factors)


def build_scaling(context: BuildContext) -> Built:
    """Build the arm, its first weights drawn from the context's generator, before the frozen decoder."""
    with seeded(context.generator):
        return Built(Scaling(context.text_width), context.segmenter)


SCALED = ArmEntry(
    name="scaled",
    label="scaled (text scales channels)",
    build="t2m_shapes.arm:build_scaling",
    levels=(),
    question="is a factor a channel enough?",
)
