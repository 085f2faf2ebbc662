import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from messages import raises_naming
from PIL import Image, ImageFilter, PngImagePlugin

from t2m_bench.data.images import load_grey, load_grey_file, load_mask_file
from t2m_bench.errors import DatasetError

ORIENTATION = 274
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 50), dtype=np.uint8)
GREY[0, :2] = 0, 255


def draw_mask() -> np.ndarray:
    rows, columns = np.ogrid[:40, :50]
    return ((rows - 20) / 11) ** 2 + ((columns - 24) / 15) ** 2 <= 1


MASK = draw_mask()


def save(folder: Path, image: Image.Image, form: str = "PNG", **options: object) -> Path:
    path = folder / "bus_0001-l.png"  # Pillow goes by the content, not by the name
    image.save(path, form, **options)
    return path


def make_palette(pixels: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(pixels, "P")
    image.putpalette(colours)
    return image


READ_AS_THEY_ARE = {
    "L": (Image.fromarray(GREY), "PNG", 8),
    "RGB": (Image.fromarray(np.stack([GREY] * 3, axis=-1)), "PNG", 8),
    "opaque RGBA": (Image.fromarray(GREY).convert("RGBA"), "PNG", 8),
    "opaque LA": (Image.fromarray(GREY).convert("LA"), "PNG", 8),
    "grey palette": (make_palette(GREY, [v for value in range(256) for v in (value,) * 3]), "PNG", 8),
    "times 257": (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG", 16),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16)), "PNG", 16),
    "32 bits": (Image.fromarray(GREY.astype(np.int32)), "TIFF", 32),
    "floats": (Image.fromarray(GREY.astype(np.float32)), "TIFF", 32),
}


@pytest.mark.parametrize("name", READ_AS_THEY_ARE)
def test_8_bit_values_are_read_whatever_holds_them(tmp_path: Path, name: str) -> None:
    image, form, bits = READ_AS_THEY_ARE[name]
    found = load_grey_file(save(tmp_path, image, form))
    assert found.bits == bits
    assert np.abs(found.pixels.astype(int) - GREY).max() <= ("palette" in name)


def test_a_bit_a_pixel_is_black_and_white(tmp_path: Path) -> None:
    found = load_grey_file(save(tmp_path, Image.fromarray(MASK)))
    assert found.bits == 1
    assert np.array_equal(found.pixels, MASK * np.uint8(255))


def make_transparent() -> Image.Image:
    image = Image.fromarray(GREY).convert("RGBA")
    image.putalpha(Image.fromarray(MASK.astype(np.uint8) * 255))
    return image


def encode_wide_colour() -> bytes:
    """A PNG of 16 bits a colour, which Pillow reads but does not write."""

    rows = b"".join(b"\0" + GREY[row].astype(">u2").repeat(3).tobytes() for row in range(40))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 50, 40, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PALETTE = make_palette(MASK.astype(np.uint8), [0, 0, 0, 200, 30, 0])
TURNED = Image.fromarray(GREY[::-1].copy()).convert("RGB")
TWICE = {"save_all": True, "append_images": [Image.fromarray(GREY[::-1].copy())]}
REFUSED = {
    "12 bits": (Image.fromarray(GREY.astype(np.uint16) * 16 + 3), "PNG", {}, {"I;16", 4083}),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257 + 1), "PNG", {}, {"I;16"}),
    "32 bits": (Image.fromarray(GREY.astype(np.int32) * 70000), "TIFF", {}, {"I"}),
    "negative": (Image.fromarray(GREY.astype(np.int32) - 100), "TIFF", {}, {"I", "-100"}),
    "shares of one": (Image.fromarray((GREY / 255).astype(np.float32)), "TIFF", {}, {"F", 1}),
    "no numbers": (Image.fromarray(np.full((40, 50), np.nan, np.float32)), "TIFF", {}, {"F"}),
    "inks": (Image.fromarray(GREY).convert("CMYK"), "TIFF", {}, {"CMYK"}),
    "LAB": (Image.fromarray(np.stack([GREY] * 3, axis=-1), "LAB"), "TIFF", {}, {"LAB"}),
    "transparent": (make_transparent(), "PNG", {}, {"RGBA"}),
    "transparent palette": (PALETTE, "PNG", {"transparency": 0}, {"P"}),
    "a transparent grey": (Image.fromarray(GREY), "PNG", {"transparency": 0}, {"L"}),
    "a transparent colour": (Image.fromarray(np.stack([GREY] * 3, -1)), "PNG", {"transparency": (0, 0, 0)}, {"RGB"}),
    "two frames of PNG": (Image.fromarray(GREY), "PNG", TWICE, {2}),
    "two frames of WebP": (TURNED, "WEBP", {"save_all": True, "append_images": [TURNED.rotate(180)]}, {2}),
    "two frames of GIF": (Image.fromarray(GREY), "GIF", TWICE, {2}),
    "inks of JPEG": (Image.fromarray(GREY).convert("CMYK"), "JPEG", {}, {"CMYK"}),
    "two pages of TIFF": (Image.fromarray(GREY), "TIFF", TWICE, {2}),
}  # fmt: skip


@pytest.mark.parametrize("load", [load_grey, load_mask_file])
@pytest.mark.parametrize("name", REFUSED)
def test_pixels_of_unclear_meaning_are_refused(tmp_path: Path, name: str, load: Callable[[Path], object]) -> None:
    image, form, options, named = REFUSED[name]
    path = save(tmp_path, image, form, **options)
    is_deep_mask = load is load_mask_file and image.mode in {"I;16", "I", "F"}
    with raises_naming(DatasetError, path, *(() if is_deep_mask else named)):
        load(path)


@pytest.mark.parametrize("load", [load_grey, load_mask_file])
def test_16_bits_a_colour_are_refused(tmp_path: Path, load: Callable[[Path], object]) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(encode_wide_colour())
    with raises_naming(DatasetError, path, 16):
        load(path)


NO_IMAGES = {
    "empty": (b"", {"empty"}),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", {"Git", "LFS"}),
    "a page": (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", {"web page"}),
    "noise": (b"\x89PNG and no more", {"Unpack"}),
}


@pytest.mark.parametrize("load", [load_grey, load_mask_file])
@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, load: Callable[[Path], object]) -> None:
    raw, named = NO_IMAGES[name]
    path = tmp_path / "image.png"
    path.write_bytes(raw)
    with raises_naming(DatasetError, path, *named):
        load(path)


@pytest.mark.parametrize("load", [load_grey, load_mask_file])
@pytest.mark.parametrize("place", [-14, -1])
def test_a_flipped_bit_of_a_png_is_refused(tmp_path: Path, load: Callable[[Path], object], place: int) -> None:
    """Pillow reads the pixels of both: the first bit stands in the checksum of the pixels, the second in the last."""
    path = save(tmp_path, Image.fromarray(MASK))
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    with Image.open(path) as image:
        image.load()
    with raises_naming(DatasetError, path, "checksum"):
        load(path)


def test_what_follows_a_png_is_no_part_of_it(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(GREY))
    path.write_bytes(path.read_bytes() + b"appended by a server")
    np.testing.assert_array_equal(load_grey(path), GREY)


def test_an_image_beyond_all_measure_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("1", (20000, 10000)))
    with raises_naming(DatasetError, path, 200000000, "large"):
        load_grey(path)


@pytest.mark.parametrize("load", [load_grey, load_mask_file])
@pytest.mark.parametrize("tag", range(10))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_an_orientation_tag_is_refused(tmp_path: Path, load: Callable[[Path], object], tag: int, form: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    options = {"tiffinfo": {ORIENTATION: tag}} if form == "TIFF" else {"exif": exif}
    path = save(tmp_path, Image.fromarray(MASK.astype(np.uint8) * 255), form, **options)
    if tag in {0, 1}:
        load(path)
        return
    with raises_naming(DatasetError, path, "orientation", tag):
        load(path)


def test_an_orientation_in_xmp_is_seen_too(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    path = save(tmp_path, Image.fromarray(GREY), pnginfo=info)
    with raises_naming(DatasetError, path, "orientation", 6):
        load_grey(path)


def to_grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


EXACT = {
    "one bit": Image.fromarray(MASK),
    "0 and 255": to_grey(MASK * 255),
    "0 and 1": to_grey(MASK),
    "16 bits": Image.fromarray(MASK.astype(np.uint16) * 65535),
    "16 bits, 0 and 1": Image.fromarray(MASK.astype(np.uint16)),
    "grey colours": to_grey(MASK * 255).convert("RGB"),
    "one colour on black": Image.fromarray(np.stack([MASK * 0, MASK * 0, MASK * 200], axis=-1).astype(np.uint8)),
    "opaque RGBA": to_grey(MASK * 255).convert("RGBA"),
    "palette": PALETTE,
}


@pytest.mark.parametrize("name", EXACT)
def test_a_mask_of_two_values_is_read_whatever_they_are(tmp_path: Path, name: str) -> None:
    found = load_mask_file(save(tmp_path, EXACT[name]))
    assert found.num_values == 2
    assert np.array_equal(found.mask, MASK)


def compress(quality: int) -> Image.Image:
    stream = io.BytesIO()
    to_grey(MASK * 255).save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("L")


def resize(shape: tuple[int, int]) -> Image.Image:
    image = to_grey(MASK * 255)
    return image.resize(shape, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def grow() -> Image.Image:
    """Antialiased: each pixel the share of it that the lesion covers."""
    rows, columns = np.ogrid[:400, :500]
    fine = ((rows / 10 - 20.45) / 11) ** 2 + ((columns / 10 - 24.45) / 15) ** 2 <= 1
    return to_grey(np.round(255 * fine.reshape(40, 10, 50, 10).mean(axis=(1, 3))))


SMOOTHED = {
    "JPEG 95": compress(95),
    "JPEG 75": compress(75),
    "resized": resize((38, 30)),
    "antialiased": grow(),
    "16 bits": Image.fromarray(np.asarray(grow()).astype(np.uint16) * 257),
    "highest value 200": to_grey(np.asarray(grow()) / 255 * 200),
}


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothed_edges_are_cut_at_one_half_and_counted(tmp_path: Path, name: str) -> None:
    found = load_mask_file(save(tmp_path, SMOOTHED[name]))
    assert found.num_values > 2
    assert 2 * (found.mask & MASK).sum() / (found.mask.sum() + MASK.sum()) > 0.985


LABELS = {
    "three labels": (to_grey(MASK.astype(int) + np.roll(MASK, 9, 1)), {3, 2}),
    "0, 127 and 255": (to_grey(np.where(MASK, 255, 127 * np.roll(MASK, 12, 1))), {3, 255}),
    "five labels": (to_grey(sum(np.roll(MASK, step, 1).astype(int) for step in (0, 8, 12, 20))), {5}),
    "two colours": (
        Image.fromarray(np.stack([MASK * 255, np.roll(MASK, 18, 1) * 255, MASK * 0], axis=-1).astype(np.uint8)),
        {4},
    ),
    "a cloud": (to_grey(MASK * 255).filter(ImageFilter.GaussianBlur(8)), set()),
    "no background": (to_grey(MASK + 1), {1, 2}),
    "negative": (Image.fromarray(MASK.astype(np.int32) - 1), {"-1"}),
    "a picture": (Image.fromarray(GREY), {256}),
}


@pytest.mark.parametrize("name", LABELS)
def test_values_that_may_be_labels_are_refused(tmp_path: Path, name: str) -> None:
    image, named = LABELS[name]
    path = save(tmp_path, image, "PNG" if image.mode != "I" else "TIFF")
    with raises_naming(DatasetError, path, *named):
        load_mask_file(path)
