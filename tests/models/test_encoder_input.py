"""An image becomes an encoder's square: resized, normed, padded."""

import numpy as np
from PIL import Image

from t2m_bench.data.frame import Frame
from t2m_bench.models.encoder_input import preprocess_image


def test_preprocessing_is_bicubic_then_min_max_and_does_not_keep_the_aspect() -> None:
    image = np.random.default_rng(0).integers(20, 90, (30, 50), dtype=np.uint8)
    got = preprocess_image(image, Frame(64, 4))
    resized = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC), dtype=np.float64)
    want = (resized - resized.min()) / (resized.max() - resized.min())
    assert got.shape == (3, 64, 64)
    for channel in got:
        np.testing.assert_allclose(channel, want, atol=1e-6)
    assert float(preprocess_image(np.full((9, 9), 7, np.uint8), Frame(16, 1)).abs().max()) == 0.0


def test_padding_keeps_the_aspect_and_is_zero_after_min_max() -> None:
    image = np.random.default_rng(0).integers(20, 90, (30, 50), dtype=np.uint8)
    got = preprocess_image(image, Frame(256, 64, "pad"), "bilinear")
    resized = np.asarray(Image.fromarray(image).resize((256, 154), Image.Resampling.BILINEAR), dtype=np.float64)
    want = (resized - resized.min()) / (resized.max() - resized.min())  # 30 * 256 / 50 = 153.6
    np.testing.assert_allclose(got[1, :154], want, atol=1e-6)
    assert float(got[:, 154:].abs().max()) == 0.0
