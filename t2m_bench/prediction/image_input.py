"""Reads an image file as the 8-bit pixels that the encoders saw in training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.datasets.table.dicom import is_dicom
from t2m_bench.data.datasets.table.files import Volumes, load_file
from t2m_bench.data.datasets.table.places import Place, PlaceError, parse_place
from t2m_bench.data.datasets.table.stored import Stored, ValuesError, to_eight_bits
from t2m_bench.data.images import load_grey_file
from t2m_bench.errors import DatasetError
from t2m_bench.prediction.trained import PixelSettings
from t2m_bench.recipe.datasets import DATA_SETS


@dataclass(frozen=True)
class ImageInput:
    """An image file.

    Attributes:
        pixels: (H, W), as an encoder sees them. stored: as the file holds them.
    """

    place: Place
    pixels: NDArray[np.uint8]
    stored: Stored

    @property
    def is_dicom(self) -> bool:
        """Return whether the file is DICOM, whatever it is called."""
        return is_dicom(self.place.path)


def read_image(cell: str, settings: PixelSettings, root: Path = Path(), volumes: Volumes | None = None) -> ImageInput:
    """Read an image: PNG, JPEG, TIFF, DICOM of one frame, or a slice of NIfTI (`volume.nii.gz#z=41`).

    Args:
        settings: how the training made 8 bits of more. root: of a relative path.
        volumes: those that were read, where several slices of one file follow one another.

    Raises:
        DatasetError: the file is absent, cannot be read, or holds values that cannot become 8 bits.
    """
    try:
        place = parse_place(root, cell)
        entry = DATA_SETS.get(settings.dataset)
        is_plain = not place.is_volume and not is_dicom(place.path)
        if is_plain and entry is not None and not entry.reads_table:
            file = load_grey_file(place.path)  # whose training took 8-bit grey alone
            return ImageInput(place, file.pixels, Stored(file.pixels, file.mode, file.bits))
        stored = load_file(place, volumes or Volumes())
        return ImageInput(place, to_eight_bits(stored, settings.intensity, settings.window_hu), stored)
    except PlaceError as error:
        raise DatasetError(f"{cell}: {error}") from None
    except ValuesError as error:
        raise DatasetError(f"{cell}: {error}") from None
