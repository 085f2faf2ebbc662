"""Reads a file of any form that a user's own table may name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2m_bench.data.datasets.table.dicom import is_dicom, load_dicom
from t2m_bench.data.datasets.table.nifti import load_volume, take_slice
from t2m_bench.data.datasets.table.places import Place
from t2m_bench.data.datasets.table.stored import Stored
from t2m_bench.data.images import load_stored_file


@dataclass
class Volumes:
    """Volumes of the rows of one image, each read once."""

    loaded: dict[Path, Any] = field(default_factory=dict)

    def take(self, place: Place) -> Stored:
        """Return the slice of a place; raises DatasetError as `load_volume` and `take_slice`."""
        if place.path not in self.loaded:
            self.loaded[place.path] = load_volume(place.path)
        return take_slice(place, self.loaded[place.path])


def load_file(place: Place, volumes: Volumes) -> Stored:
    """Read an image or a mask as it is stored.

    Raises:
        DatasetError: it cannot be read as what it is; or it has several slices or frames and none is named.
    """
    if place.is_volume:
        return volumes.take(place)
    if is_dicom(place.path):
        return load_dicom(place.path)
    file = load_stored_file(place.path)
    return Stored(file.values, file.mode, file.bits)
