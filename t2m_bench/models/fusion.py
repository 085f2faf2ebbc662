"""The trainable adapters between a frozen image encoder and a frozen mask decoder.

Letters: B cases, N image tokens, D visual width, E text width, K text tokens, H heads, C inner width of the attention.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2m_bench.errors import RecipeError
from t2m_bench.models.arm import Arm, ArmOutput, BuildContext, Built, seeded
from t2m_bench.models.products import rows_times_tokens, to_tokens
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.schema import IMAGE_WIDTH, AdapterSection, LevelSection

BOTTLENECK = 64
"""Hidden width of the default text projection; keeps the hierarchical adapter below 500,000 parameters."""

FROZEN_START = 0.001
"""First weight of the norm where an adapter starts at the frozen model: the branch then changes no mask. At 0 neither
gate nor attention would get a gradient."""

NORM_SPEED = 30.0
"""Factor on the norm's weight and bias where an adapter starts at the frozen model. A step of AdamW moves a parameter
by the learning rate whatever its size: without this factor the branch stayed too small in the demo's six epochs."""


class LowRankCrossAttention(nn.Module):
    """Multi-head attention of N image tokens over K text tokens, without projecting the image tokens.

    With few text tokens the logits are X (Wq^T k) and the output is A (v Wo): the visual side costs N*D*H*K, not N*D*C.
    Equal to `nn.MultiheadAttention` for C = D and to segment_anything's `Attention` for C = D / 2.

    Raises:
        RecipeError: when the heads do not divide the inner width.
    """

    def __init__(self, width: int, inner_width: int, heads: int) -> None:
        super().__init__()
        if inner_width % heads:
            raise RecipeError(f"heads = {heads} does not divide the inner width {inner_width}; choose a divisor")
        self.heads = heads
        self.query = nn.Linear(width, inner_width)
        self.key = nn.Linear(width, inner_width)
        self.value = nn.Linear(width, inner_width)
        self.out = nn.Linear(inner_width, width)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, image_tokens: Tensor, text_tokens: Tensor) -> Tensor:
        """Attend from image_tokens (B, N, D) to text_tokens (B, K, D).

        Returns:
            (B, N, D); (B, 1, D) for K = 1, when the softmax is 1 and every image token gets the same vector.
        """
        num_text_tokens = text_tokens.shape[1]
        value = self.value(text_tokens).unflatten(-1, (self.heads, -1))  # (B, K, H, C/H)
        out_weight = self.out.weight.unflatten(1, (self.heads, -1))  # (D, H, C/H)
        mixed = torch.einsum("bkhc,dhc->bkhd", value, out_weight)  # (B, K, H, D)
        if num_text_tokens == 1:
            return mixed.sum(dim=2) + self.out.bias
        key = self.key(text_tokens).unflatten(-1, (self.heads, -1))  # (B, K, H, C/H)
        query_weight = self.query.weight.unflatten(0, (self.heads, -1))  # (H, C/H, D)
        query_bias = self.query.bias.unflatten(0, (self.heads, -1))  # (H, C/H)
        scale = 1.0 / math.sqrt(key.shape[-1])
        probe = torch.einsum("bkhc,hcd->bkhd", key, query_weight).flatten(1, 2) * scale  # (B, K*H, D)
        offset = torch.einsum("bkhc,hc->bkh", key, query_bias).flatten(1).unsqueeze(-1) * scale  # (B, K*H, 1)
        logits = (rows_times_tokens(probe, image_tokens) + offset).unflatten(1, (num_text_tokens, self.heads))
        attention_weights = logits.softmax(dim=1).flatten(1, 2).to(mixed.dtype)  # (B, K*H, N)
        attended: Tensor = attention_weights.mT @ (
            mixed.flatten(1, 2) + self.out.bias / self.heads
        )  # shares sum to 1 a head
        return attended


def build_text_projection(text_width: int, num_tokens: int, published: bool) -> nn.Sequential:
    """Build the map from a text embedding (B, E) to K text tokens side by side, (B, K * D)."""
    hidden = IMAGE_WIDTH if published else BOTTLENECK
    return nn.Sequential(
        nn.Linear(text_width, hidden),
        nn.ReLU() if published else nn.GELU(),
        nn.Linear(hidden, IMAGE_WIDTH * num_tokens),
    )


class FusionLevel(nn.Module):
    """Text to K tokens, cross-attention, gate, residual.

    `branch` norm is the published figure, x + gate * LN(attention); `output` norm the published code,
    LN(x + gate * attention). Where the adapter starts at the frozen model, the branch is scale * gate * LN(attention):
    the gate is then a share of the embeddings' own spread, and the norm starts small.

    Args:
        embedding_scale: standard deviation of the image embeddings; 1 where the adapter does not start at the frozen
            model.
    """

    scale: Tensor

    def __init__(
        self, text_width: int, adapter: AdapterSection, level: LevelSection, embedding_scale: float = 1.0
    ) -> None:
        super().__init__()
        starts_frozen = adapter.start == "frozen"
        published = adapter.preset == "published"
        self.norm_form = adapter.norm
        self.num_tokens = level.tokens
        self.text_projection = build_text_projection(text_width, level.tokens, published)
        inner_width = IMAGE_WIDTH if published else adapter.inner_width
        self.attention = LowRankCrossAttention(IMAGE_WIDTH, inner_width, level.heads)
        self.norm = nn.LayerNorm(IMAGE_WIDTH)
        if starts_frozen:
            nn.init.constant_(self.norm.weight, FROZEN_START / NORM_SPEED)
        self.speed = NORM_SPEED if starts_frozen else 1.0
        scale = torch.tensor([embedding_scale if starts_frozen else 1.0])
        self.register_buffer("scale", scale, persistent=starts_frozen)
        # one element, not a scalar: DeepSpeed 0.19 cannot send parameters without a dimension
        self.gate_raw = nn.Parameter(torch.tensor([math.log(level.gate_init / (1.0 - level.gate_init))]))

    @property
    def gate(self) -> Tensor:
        """The gate's opening in (0, 1)."""
        return torch.sigmoid(self.gate_raw)

    @property
    def share(self) -> Tensor:
        """Factor on the normed branch: gate times spread of the embeddings, and the norm's speed."""
        return self.speed * self.scale * self.gate

    def project(self, text_embedding: Tensor) -> Tensor:
        """Project text_embedding (B, E) to the text tokens (B, K, D)."""
        text_tokens: Tensor = self.text_projection(text_embedding).unflatten(-1, (self.num_tokens, IMAGE_WIDTH))
        return text_tokens

    def forward(self, image_tokens: Tensor, text_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse image_tokens (B, N, D) with text_embedding (B, E); return them and the text tokens (B, K, D)."""
        text_tokens = self.project(text_embedding)
        attended = self.attention(image_tokens, text_tokens)
        if self.norm_form == "branch":
            # the share multiplies the norm's weight and bias, not all N tokens
            weight, bias = ((self.share * part).float() for part in (self.norm.weight, self.norm.bias))
            # in fp32, as autocast does by itself on a GPU: summed in bf16 over N tokens, a gradient would be lost
            normed = functional.layer_norm(attended.float(), weight.shape, weight, bias, self.norm.eps)
            return image_tokens + normed.to(image_tokens.dtype), text_tokens
        return self.norm(image_tokens + self.gate * attended), text_tokens


class FusionAdapter(Arm):
    """Levels in sequence.

    `text_free` reads a learned constant in place of the text embedding. `text_train_only` does too, but the contrastive
    loss still compares its lesions with the real text, projected as the last level would. `label` reads one learned
    vector a class: what it is given as text is the class, one-hot (averaged over fields), not a sentence.
    """

    def __init__(
        self, text_width: int, adapter: AdapterSection, num_labels: int = 0, embedding_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.entry = ARMS.find(adapter.kind)
        sections: dict[str, LevelSection] = {name: getattr(adapter, name) for name in self.entry.levels}
        self.levels = nn.ModuleDict(
            {name: FusionLevel(text_width, adapter, level, embedding_scale) for name, level in sections.items()}
        )
        self.constant_text = None if self.entry.reads_text else nn.Parameter(torch.randn(text_width) * 0.02)
        # drawn as wide as the layer-normed output of a BERT, which these vectors stand for
        has_labels = self.entry.texts == "labels"
        self.label_vectors = nn.Parameter(torch.randn(num_labels, text_width)) if has_labels else None

    def list_levels(self) -> list[FusionLevel]:
        """Return the levels in order."""
        return [level for level in self.levels.values() if isinstance(level, FusionLevel)]

    @property
    def uses_text(self) -> bool:
        """Return whether inference reads the text."""
        return self.constant_text is None

    @property
    def has_text_loss(self) -> bool:
        """Return whether training applies the contrastive loss with the text."""
        return self.entry.has_text_loss

    def gates(self) -> dict[str, float]:
        """Return each level's opening in (0, 1)."""
        return {name: float(self.get_parameter(f"levels.{name}.gate_raw").detach().sigmoid()) for name in self.levels}

    def forward(self, image_embedding: Tensor, text_embedding: Tensor) -> ArmOutput:
        """Fuse image_embedding (B, D, h, w) with text_embedding (B, E); for `label` (B, number of labels)."""
        if self.label_vectors is not None:
            text_embedding = text_embedding @ self.label_vectors
        given = text_embedding
        if self.constant_text is not None:
            given = self.constant_text.expand(image_embedding.shape[0], -1)
        height, width = image_embedding.shape[-2:]
        image_tokens = to_tokens(image_embedding)  # (B, N, D)
        text_tokens = image_tokens
        for level in self.list_levels():
            image_tokens, text_tokens = level(image_tokens, given)
        if self.constant_text is not None and self.has_text_loss:
            text_tokens = self.list_levels()[-1].project(text_embedding)
        fused = image_tokens.transpose(1, 2).unflatten(-1, (height, width))
        return ArmOutput(fused, text_tokens.mean(dim=1))


def build_adapter(
    adapter: AdapterSection,
    text_width: int,
    generator: torch.Generator,
    num_labels: int = 0,
    embedding_scale: float = 1.0,
) -> FusionAdapter:
    """Build an adapter whose start depends on the generator's seed alone.

    Args:
        text_width: E of the text encoder, 768 for PubMedBERT and the stand-in.
        num_labels: values of all text fields together, "unknown" among them; for `label` alone.
        embedding_scale: standard deviation of the image embeddings.
    """
    with seeded(generator):
        return FusionAdapter(text_width, adapter, num_labels, embedding_scale)


def build_fusion(context: BuildContext) -> Built:
    """Build an adapter before the frozen decoder."""
    adapter = build_adapter(
        context.adapter, context.text_width, context.generator, context.num_labels, context.embedding_scale
    )
    return Built(adapter, context.segmenter)


def compute_lesion_features(image_embedding: Tensor, mask_low_res: Tensor) -> Tensor:
    """Average an embedding (B, D, h, w) over the lesion.

    Args:
        mask_low_res: (B, H, W) reference in [0, 1]; averaged down to the grid, so that a small lesion keeps its share.

    Returns:
        (B, D) float32.
    """
    height, width = image_embedding.shape[-2:]
    weight = functional.adaptive_avg_pool2d(mask_low_res.float().unsqueeze(1), (height, width))
    total = (weight.flatten(2) @ to_tokens(image_embedding.float())).squeeze(1)
    return total / weight.sum(dim=(2, 3)).clamp_min(1e-6)
