import sys

import pytest
import torch
from messages import raises_naming

from t2m_bench.errors import RecipeError
from t2m_bench.models.box_unet import FRAME, MARGIN, OUTSIDE, BoxUnetSegmenter, build_box_unet


class Show(torch.nn.Module):
    """In place of the network: one channel of the crop, so that its way there and back can be followed."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        return crop[:, self.channel : self.channel + 1]


def segment_with(channel: int, image: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    unet = build_box_unet(torch.Generator().manual_seed(0))
    unet.net = Show(channel)
    return BoxUnetSegmenter(unet)(image, box)


def test_a_crop_comes_back_to_where_it_was_taken() -> None:
    rows = torch.linspace(0, 1, 256)[None, None, :, None].expand(2, 1, 256, 256)
    box = torch.tensor([[64.0, 32.0, 192.0, 96.0], [0.0, 0.0, 64.0, 64.0]])
    logits = segment_with(0, rows, box)
    assert logits.shape == (2, FRAME.low_res_size, FRAME.low_res_size)
    scale = FRAME.low_res_size / 256
    middle = logits[0, int(64 * scale), int(128 * scale)]
    assert float(middle) == pytest.approx(64 / 255, abs=0.01)
    assert float(logits[0, int(40 * scale), int(128 * scale)]) == pytest.approx(40 / 255, abs=0.01)
    assert float(logits[0, -1, -1]) == OUTSIDE


def test_the_network_is_told_the_box() -> None:
    box = torch.tensor([[64.0, 32.0, 192.0, 96.0]])
    logits = segment_with(1, torch.zeros(1, 1, 256, 256), box)
    inside = torch.nonzero(logits[0] > 0.5)
    scale = FRAME.low_res_size / 256
    assert inside.min(dim=0).values.tolist() == pytest.approx([32 * scale, 64 * scale], abs=1.5)
    assert (inside.max(dim=0).values + 1).tolist() == pytest.approx([96 * scale, 192 * scale], abs=1.5)
    shown = torch.nonzero(logits[0] > OUTSIDE + 1)  # with the margin
    assert float(shown[:, 0].min()) == pytest.approx((32 - MARGIN * 64) * scale, abs=1.5)


def test_its_start_depends_on_the_seed_alone() -> None:
    def build(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in build_box_unet(torch.Generator().manual_seed(seed)).parameters()])

    first = build(1)
    torch.randn(3)
    assert torch.equal(build(1), first)
    assert not torch.equal(build(2), first)


def test_without_monai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "monai", raising=False)
    with raises_naming(RecipeError, "unet", "MONAI", ".[unet]"):
        build_box_unet(torch.Generator().manual_seed(0))
