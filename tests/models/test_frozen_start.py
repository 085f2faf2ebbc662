"""A fresh adapter of the default form changes no mask, whatever the encoder and wherever its gates start."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.embedding.encode import embed_cases
from t2m_bench.metrics.overlap import compute_dice
from t2m_bench.models.fusion import NORM_SPEED, build_adapter
from t2m_bench.models.lite_medsam import build_lite_medsam
from t2m_bench.models.sam import build_vit_b, load_sam
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.models.text_prompt import TextPrompt
from t2m_bench.recipe.schema import AdapterSection

TEXT_WIDTH = 384
NUM_CASES = 5


@dataclass(frozen=True)
class Encoded:
    """Cases of one encoder: embeddings (B, D, h, w), boxes (B, 4), where logits (B,) are cut, and reference masks."""

    segmenter: BoxSegmenter
    embedding: Tensor
    box: Tensor
    cut_at: Tensor
    references: list[NDArray[np.bool_]]

    def measure(self, embedding: Tensor, *sparse_prompt: Tensor) -> list[float]:
        """Return the Dice of each case's mask."""
        logits = self.segmenter(embedding, self.box, *sparse_prompt)
        masks = [(row > level).numpy() for row, level in zip(logits, self.cut_at, strict=True)]
        return [compute_dice(mask, reference) for mask, reference in zip(masks, self.references, strict=True)]


def encode_by_mini(folder: Path) -> Encoded:
    """Encode phantoms with the shipped weights."""
    write_bus_bra_phantom(folder, num_cases=NUM_CASES, seed=0, text_effect=1.0)
    sam = load_sam("mini")
    made = list(embed_cases(sam, folder, read_bus_bra(folder), torch.device("cpu")))
    pairs = zip(*((m.image_embedding, m.box_xyxy) for m in made), strict=True)
    stored = [torch.from_numpy(np.stack(of)).float() for of in pairs]
    references = [made_of.mask_low_res > 127 for made_of in made]
    return Encoded(BoxSegmenter(sam.prompt_encoder, sam.mask_decoder), *stored, torch.zeros(NUM_CASES), references)


def encode_by_lite_medsam(folder: Path) -> Encoded:
    return _encode_by_neck(build_lite_medsam, 320)


def encode_by_vit_b(folder: Path) -> Encoded:
    return _encode_by_neck(build_vit_b, 768)


def _encode_by_neck(build: Callable[[], nn.ModuleDict], width: int) -> Encoded:
    """Make embeddings of the spread that LiteMedSAM's have, which the encoder's last layer alone decides.

    A decoder of random weights has logits of any offset: they are cut at the median, and the reference is the mask of
    another cut.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        parts = build().eval().requires_grad_(False)
    parts["image_encoder"].neck[-1].weight.fill_(0.12)
    embedding = parts["image_encoder"].neck(torch.randn(NUM_CASES, width, 64, 64, generator=generator))
    corners = torch.rand(NUM_CASES, 2, 2, generator=generator).sort(dim=1).values
    box = corners.flatten(1) * parts["prompt_encoder"].input_image_size[0]
    segmenter = BoxSegmenter(parts["prompt_encoder"], parts["mask_decoder"])
    logits = segmenter(embedding, box)
    references = [(row > row.quantile(0.6)).numpy() for row in logits]
    return Encoded(segmenter, embedding, box, logits.flatten(1).median(dim=1).values, references)


@pytest.fixture(scope="module", params=[encode_by_mini, encode_by_lite_medsam, encode_by_vit_b])
def encoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    with torch.no_grad():
        found: Encoded = request.param(tmp_path_factory.mktemp("images") / "phantom")
    return found


@pytest.mark.parametrize("gate_init", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["text_free", "gated", "hierarchical"])
def test_the_first_masks_are_those_of_the_frozen_model(encoded: Encoded, kind: str, gate_init: float) -> None:
    level = {"gate_init": gate_init}
    section = AdapterSection.model_validate({"kind": kind, "gated": level, "coarse": level, "fine": level})
    generator = torch.Generator().manual_seed(1)
    scale = float(encoded.embedding.std())
    adapter = build_adapter(section, TEXT_WIDTH, generator, embedding_scale=scale)
    with torch.no_grad():
        fused = adapter(encoded.embedding, torch.randn(NUM_CASES, TEXT_WIDTH, generator=generator)).image_embedding
        assert not torch.equal(fused, encoded.embedding), "gates and attention get gradients from the first step on"
        frozen, adapted = encoded.measure(encoded.embedding), encoded.measure(fused)
    np.testing.assert_allclose(adapted, frozen, atol=0.001)


@pytest.mark.parametrize("gate_init", [0.02, 0.98])
@pytest.mark.parametrize("kind", ["text_prompt", "text_prompt_free"])
def test_tokens_beside_the_box_change_no_mask_at_first(encoded: Encoded, kind: str, gate_init: float) -> None:
    section = AdapterSection.model_validate({"kind": kind, "prompt": {"gate_init": gate_init}})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        output = TextPrompt(TEXT_WIDTH, section)(encoded.embedding, torch.randn(NUM_CASES, TEXT_WIDTH))
        frozen = encoded.measure(encoded.embedding)
        prompted = encoded.measure(output.image_embedding, *output.sparse_prompt)
        in_full = encoded.measure(output.image_embedding, output.sparse_prompt[0])
    np.testing.assert_allclose(prompted, frozen, atol=0.001)
    if gate_init > 0.9:
        assert np.abs(np.subtract(in_full, frozen)).max() > 0.001, "what counts in full would change masks"


def test_the_branch_is_a_share_of_the_embeddings_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(1, 256, 4, 4, generator=generator), torch.randn(1, TEXT_WIDTH, generator=generator)
    section = AdapterSection.model_validate({"kind": "gated", "gated": {"gate_init": 0.3}})
    branches = []
    for scale in (0.12, 2.0):
        adapter = build_adapter(section, TEXT_WIDTH, torch.Generator().manual_seed(1), embedding_scale=scale)
        adapter.get_parameter("levels.gated.norm.weight").data.fill_(1.0 / NORM_SPEED)
        branch = adapter(image * scale, text).image_embedding - image * scale
        assert float(branch.detach().std()) == pytest.approx(0.3 * scale, rel=0.02)
        branches.append(branch / scale)
    torch.testing.assert_close(*branches, rtol=1e-4, atol=1e-5)


def test_the_published_form_starts_as_published() -> None:
    section = AdapterSection.model_validate({"kind": "gated", "preset": "published"})
    adapter = build_adapter(section, 768, torch.Generator(), embedding_scale=0.12)
    assert section.start == "unscaled"
    assert torch.equal(adapter.get_parameter("levels.gated.norm.weight"), torch.ones(256))
    assert float(adapter.get_buffer("levels.gated.scale")) == 1.0
    assert not any(name.endswith("scale") for name in adapter.state_dict()), "files of former runs are read"
