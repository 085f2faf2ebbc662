import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import raises_naming
from plugins import install

from t2m_bench.data.frame import Frame
from t2m_bench.errors import WeightsError
from t2m_bench.models.encoder_input import preprocess_image
from t2m_bench.models.sam import (
    FileStamp,
    build_sam,
    compute_weights_sha256,
    encode_images,
    find_weights,
    load_decoder,
    load_sam,
)
from t2m_bench.recipe.encoders import IMAGE_ENCODERS


@pytest.fixture(scope="module")
def vit_b_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights saved as MedSAM's file is: a plain state dict in a .pth."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "medsam_vit_b.pth"
    torch.save(build_sam("vit_b").state_dict(), path)
    return path


def test_a_medsam_file_is_loaded_frozen(vit_b_file: Path) -> None:
    sam = load_sam("vit_b", vit_b_file)
    assert sam.frame == Frame(1024, 64)
    modules = (sam.image_encoder, sam.prompt_encoder, sam.mask_decoder)
    assert not any(p.requires_grad for module in modules for p in module.parameters())
    saved = torch.load(vit_b_file, weights_only=True)
    got = sam.mask_decoder.state_dict()["mask_tokens.weight"]
    assert torch.equal(got, saved["mask_decoder.mask_tokens.weight"])


def test_another_architecture_is_refused_by_name_and_shape(vit_b_file: Path) -> None:
    with raises_naming(WeightsError, vit_b_file, "vit_l", "image_encoder.pos_embed", "image_encoder.preset"):
        load_sam("vit_l", vit_b_file)


def test_missing_weights_say_what_to_fetch(tmp_path: Path) -> None:
    with raises_naming(WeightsError, "vit_b", "medsam_vit_b.pth", "image_encoder.checkpoint"):
        load_sam("vit_b")
    with raises_naming(WeightsError, "image_encoder.checkpoint", tmp_path / "none.pth", "medsam_vit_b.pth"):
        load_sam("vit_b", tmp_path / "none.pth")


class Planted:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_that_carries_code_is_refused_and_never_run(tmp_path: Path, save: object) -> None:
    victim, path = tmp_path / "ran", tmp_path / "weights.pth"
    save({"image_encoder.pos_embed": Planted(victim)}, path)
    with raises_naming(WeightsError, path):
        load_sam("vit_b", path)
    assert not victim.exists()


def test_a_truncated_checkpoint_is_refused(tmp_path: Path, vit_b_file: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(vit_b_file.read_bytes()[:5000])
    with raises_naming(WeightsError, path, "checkpoint"):
        load_sam("vit_b", path)


def test_a_damaged_file_of_torchs_older_format_is_one_message(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    state = {f"image_encoder.{number}": torch.randn(3, 5) for number in range(4)}
    torch.save(state, whole, _use_new_zipfile_serialization=False)
    content, rng = whole.read_bytes(), np.random.default_rng(0)
    damaged = [content[:length] for length in range(0, len(content), 23)]
    for _ in range(60):
        raw = bytearray(content)
        for place in rng.integers(0, len(raw), 4):
            raw[place] = int(rng.integers(256))
        damaged.append(bytes(raw))
    path = tmp_path / "damaged.pth"
    for raw in damaged:
        path.write_bytes(raw)
        with raises_naming(WeightsError, path) as caught:
            load_sam("vit_b", path)
        assert "weights_only" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_signatures_of_earlier_embeddings_stay() -> None:
    found = {entry.name: entry.get_preprocessing_id() for entry in IMAGE_ENCODERS}
    assert found["mini"] == "bicubic-minmax-256-v1"
    assert found["vit_b"] == "bicubic-minmax-1024-v1"
    assert len({found["mini"], found["vit_b"], found["lite_medsam"]}) == 3


def test_a_pinned_file_is_taken_and_no_other(tmp_path: Path) -> None:
    other = tmp_path / "lite_medsam.pth"
    other.write_bytes(b"of another model")
    with pytest.raises(WeightsError) as raised:
        load_sam("lite_medsam", other)
    assert str(other) in str(raised.value)
    assert IMAGE_ENCODERS.find("lite_medsam").sha256 in str(raised.value)


def test_images_outside_zero_to_one_never_enter_the_encoder(vit_b_file: Path) -> None:
    sam = load_sam("vit_b", vit_b_file)
    with raises_naming(ValueError, 0, 255, "[0, 1]"):
        encode_images(sam, torch.linspace(0, 255, 3 * 1024 * 1024).view(1, 3, 1024, 1024))


def test_published_input_range_has_a_signature_of_its_own_and_is_let_through_only_when_asked() -> None:
    image = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    raw = preprocess_image(image, Frame(256, 16), input_range="byte")
    assert float(raw.max()) == 255
    vit_b = IMAGE_ENCODERS.find("vit_b")
    assert vit_b.get_preprocessing_id("byte") != vit_b.get_preprocessing_id()
    sam = load_sam("mini")
    with raises_naming(ValueError, 0, 255, "[0, 1]"):
        encode_images(sam, raw[None])
    assert encode_images(sam, raw[None], "byte").shape == (1, 256, 16, 16)


def test_a_weights_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    hashed, digest = [], hashlib.file_digest

    def counting(*arguments: Any) -> Any:
        hashed.append(arguments)
        return digest(*arguments)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    first = compute_weights_sha256("vit_b", path)
    assert compute_weights_sha256("vit_b", path) == first == hashlib.sha256(b"one").hexdigest()
    assert len(hashed) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert compute_weights_sha256("vit_b", path) == hashlib.sha256(b"two").hexdigest()


SHIPS = """
from pathlib import Path
from t2m_bench.recipe.encoders import ImageEncoder
WEIGHTS = str(Path(__file__).with_name("weights.safetensors"))
ENCODER = ImageEncoder("theirs", "theirs:build", 256, 16, "theirs", "CC0", "none", shipped=WEIGHTS)
"""


def test_another_package_may_ship_its_weights(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with install(tmp_path, "theirs", SHIPS, {"t2m_bench.image_encoders": "theirs = theirs:ENCODER"}):
        assert find_weights("theirs", None) == tmp_path / "weights.safetensors"


@pytest.mark.parametrize("preset", ["mini", "vit_b"])
def test_the_decoder_alone_is_that_of_the_whole(preset: str, vit_b_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = vit_b_file if preset == "vit_b" else None
    whole = load_sam(preset, checkpoint)
    found = load_decoder(preset, checkpoint)
    assert (found.frame, found.weights_sha256) == (whole.frame, whole.weights_sha256)
    for name in ("prompt_encoder", "mask_decoder"):
        one, other = (getattr(sam, name).state_dict() for sam in (found, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert not any(parameter.requires_grad for parameter in getattr(found, name).parameters())
    path = find_weights(preset, checkpoint)
    monkeypatch.setattr("t2m_bench.models.sam.compute_weights_sha256", lambda *_: "hashed again")
    stamp = FileStamp.of(path)
    assert load_decoder(preset, checkpoint, (stamp, "known")).weights_sha256 == "known"
    other = FileStamp(stamp.size, stamp.mtime_ns + 1)
    assert load_decoder(preset, checkpoint, (other, "known")).weights_sha256 == "hashed again"
