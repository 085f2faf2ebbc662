"""Says where an image or a mask lies: a file, or a slice of a volume."""

import re
from dataclasses import dataclass
from pathlib import Path

SLICE = re.compile(r"(.+)#z=([0-9]+)")
VOLUMES = (".nii", ".nii.gz")


class PlaceError(ValueError):
    """What is wrong with a place, as the end of a sentence."""


@dataclass(frozen=True)
class Place:
    """A file, and which slice of it along the stored third axis, from 0; None where none is named."""

    path: Path
    slice_index: int | None = None

    @property
    def is_volume(self) -> bool:
        """Return whether the file is NIfTI."""
        return self.path.name.lower().endswith(VOLUMES)


def parse_place(root: Path, cell: str) -> Place:
    """Return the place of a cell such as `images/1.png` or `ct.nii.gz#z=41`; paths are relative to the root.

    Raises:
        PlaceError: a slice is named of a file that is no NIfTI, or in another form.
    """
    found = SLICE.fullmatch(cell)
    place = Place(root / found[1], int(found[2])) if found else Place(root / cell)
    if "#" in place.path.name and not place.path.exists():
        raise PlaceError("a slice is named otherwise than FILE.nii.gz#z=41, z counted from 0.")
    if place.slice_index is not None and not place.is_volume:
        raise PlaceError(f"{place.path} is not a NIfTI file, so it cannot have #z=. Leave #z= out.")
    return place
