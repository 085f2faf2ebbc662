"""Tells the script of a cluster's job that work was saved, so that it can tell a loss after it from losses in a row."""

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "T2M_SAVED"
"""Names the file that slurm/ray.sh looks at; absent where no such script waits."""


def tell_saved() -> None:
    """Touch the job's file, where there is one; work never fails for it."""
    if path := os.environ.get(VARIABLE):
        with suppress(OSError):
            Path(path).touch()
