"""Trains the shipped `mini` SAM on phantoms only: `python -m t2m_bench.models.pretrain.mini_sam OUT`.

Most images are rich phantoms, whose outline shows; the rest follow the benchmark's recipe, so that a frozen baseline
knows both. Images are drawn from seeds that no recipe of the project uses, and their hashes are kept for the audit.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from t2m_bench.data.frame import Frame
from t2m_bench.data.images import compute_image_sha256, compute_tight_box
from t2m_bench.data.phantoms.bus_bra import CLASS_EXPONENTS, LOOKS, draw_image, draw_outline
from t2m_bench.data.phantoms.hidden_shape import draw_mask
from t2m_bench.metrics.overlap import compute_dice
from t2m_bench.models.encoder_input import preprocess_image
from t2m_bench.models.losses import compute_bce_loss, compute_dice_loss
from t2m_bench.models.pretrain.rich_phantoms import draw_rich_phantom
from t2m_bench.models.sam import MINI_IMAGE_SIZE, build_sam
from t2m_bench.models.segmenter import BoxSegmenter, restore_mask
from t2m_bench.recipe.encoders import DEFAULT_ENCODER, IMAGE_ENCODERS

MINI_FRAME = Frame.of(IMAGE_ENCODERS.find(DEFAULT_ENCODER))
LOW_RES = MINI_FRAME.low_res_size


@dataclass(frozen=True)
class Training:
    """Settings that determine the weights."""

    seed: int = 20_260_101
    images: int = 3000
    rich_share: float = 0.75
    held_apart: int = 200
    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 8e-4
    warmup_steps: int = 50
    weight_decay: float = 0.05
    box_jitter_px: float = 4.0


@dataclass(frozen=True)
class Drawn:
    """One phantom: (H, W) uint8 and bool, and which recipe drew it."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    rich: bool


def draw(seed: int, number: int, rich_share: float) -> Drawn:
    """Draw a phantom that depends on its seed and number alone."""
    rng = np.random.default_rng([seed, number])
    if rng.random() < rich_share:
        phantom = draw_rich_phantom(rng)
        return Drawn(phantom.image, phantom.mask, True)
    outline, look = draw_outline(rng), LOOKS[int(rng.integers(len(LOOKS)))]
    exponent = list(CLASS_EXPONENTS.values())[int(rng.integers(len(CLASS_EXPONENTS)))]
    return Drawn(draw_image(rng, outline, look), draw_mask(outline, exponent), False)


def draw_all(training: Training, first: int, count: int) -> list[Drawn]:
    """Draw `count` phantoms on all cores."""
    numbers = range(first, first + count)
    with ProcessPoolExecutor() as pool:
        return list(
            pool.map(draw, *zip(*((training.seed, n, training.rich_share) for n in numbers), strict=True), chunksize=50)
        )


def sample_batch(drawn: Sequence[Drawn], training: Training, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (B, 3, S, S), masks (B, 64, 64) in [0, 1] and jittered boxes (B, 4) of flipped, scaled phantoms."""
    images, masks, boxes = [], [], []
    for phantom in (drawn[int(position)] for position in rng.integers(len(drawn), size=training.batch_size)):
        flip = -1 if rng.random() < 0.5 else 1
        image = preprocess_image(np.ascontiguousarray(phantom.image[:, ::flip]), MINI_FRAME)
        images.append(image ** float(np.exp(rng.normal(0.0, 0.25))))  # scanners differ in contrast
        mask = np.ascontiguousarray(phantom.mask[:, ::flip])
        masks.append(shrink(mask))
        box = scale_box(mask) + rng.uniform(-training.box_jitter_px, training.box_jitter_px, 4)
        boxes.append(torch.from_numpy(np.clip(box, 0, MINI_IMAGE_SIZE)).float())
    return torch.stack(images), torch.stack(masks), torch.stack(boxes)


def shrink(mask: NDArray[np.bool_]) -> Tensor:
    """Return the mask as area shares of the low-resolution grid, (64, 64)."""
    return functional.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None], (LOW_RES, LOW_RES))[0]


def scale_box(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the tight box (4,) in pixels of the encoder's input."""
    height, width = mask.shape
    scale = np.array([MINI_IMAGE_SIZE / width, MINI_IMAGE_SIZE / height] * 2)
    box_xyxy: NDArray[np.float64] = np.array(compute_tight_box(mask)) * scale
    return box_xyxy


def train(model: nn.ModuleDict, drawn: Sequence[Drawn], training: Training) -> None:
    """Train encoder, prompt encoder and decoder together.

    In fp32: on a CPU without bf16 units a step took 16.3 s under bf16 autocast and 0.86 s so (2 cores).
    """
    rng = np.random.default_rng([training.seed, 10**9])
    decode = build_decode(model)
    for part in ("image_encoder", "mask_decoder", "prompt_encoder"):
        model[part].train().requires_grad_(True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=training.weight_decay)
    start = time.monotonic()
    for step in range(training.steps):
        ramp = min(1.0, (step + 1) / training.warmup_steps)
        rate = training.learning_rate * ramp * 0.5 * (1 + math.cos(math.pi * step / training.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, masks, boxes = sample_batch(drawn, training, rng)
        logits = decode(model["image_encoder"](images), boxes)
        loss = (compute_dice_loss(logits, masks) + compute_bce_loss(logits, masks)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(
                f"step {step} of {training.steps}: loss {loss.item():.4f}, {time.monotonic() - start:.0f} s", flush=True
            )


def build_decode(model: nn.ModuleDict) -> BoxSegmenter:
    """Build the batched decode over the model's own modules; its positions are constants of the model."""
    return BoxSegmenter(model["prompt_encoder"], model["mask_decoder"])


@torch.no_grad()
def evaluate(model: nn.ModuleDict, drawn: Sequence[Drawn]) -> float:
    """Return the mean Dice at original resolution with tight boxes."""
    model.eval()
    decode, dices = build_decode(model), []
    for phantom in drawn:
        embedding = model["image_encoder"](preprocess_image(phantom.image, MINI_FRAME)[None])
        logits = decode(embedding, torch.from_numpy(scale_box(phantom.mask)).float()[None])[0]
        mask = restore_mask(logits, MINI_FRAME, *phantom.mask.shape).numpy()
        dices.append(compute_dice(mask, phantom.mask))
    return float(np.mean(dices))


def main() -> None:
    """Draw, train, measure and write mini.safetensors, mini.json and mini_seen_images.safetensors."""
    parser = argparse.ArgumentParser(description="Train the shipped mini SAM on phantoms.")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    training = Training()
    start = time.monotonic()
    torch.manual_seed(training.seed)
    seen = draw_all(training, 0, training.images)
    apart = draw_all(training, training.images, training.held_apart)
    print(f"drew {len(seen) + len(apart)} phantoms in {time.monotonic() - start:.0f} s", flush=True)
    model = build_sam(DEFAULT_ENCODER)
    train(model, seen, training)
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    figures = {
        "dice_rich_phantoms_held_apart": evaluate(model, [phantom for phantom in apart if phantom.rich]),
        "dice_benchmark_phantoms_held_apart": evaluate(model, [phantom for phantom in apart if not phantom.rich]),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.half().contiguous() for name, value in model.state_dict().items()},
        arguments.out / "mini.safetensors",
    )
    digests = np.array([list(bytes.fromhex(compute_image_sha256(phantom.image))) for phantom in seen], np.uint8)
    save_file({"sha256": torch.from_numpy(digests)}, arguments.out / "mini_seen_images.safetensors")
    record = {"recipe": asdict(training), "figures": figures, "seconds": round(time.monotonic() - start)}
    (arguments.out / "mini.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
