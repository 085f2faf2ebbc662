"""Predicted masks at the image's own resolution, one a row of results, as COCO's run lengths in a Parquet table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch import Tensor

from t2m_bench.errors import RunFolderError, find_first_line
from t2m_bench.evaluation.conditions import Question
from t2m_bench.files import write_atomically

PREDICTED_NAME = "predicted_masks.parquet"

COLUMNS = ("case", "condition", "box", "height", "width", "counts")
"""Columns of the table; `counts` is COCO's compressed run-length string, which pycocotools and its like decode."""


class MaskGroup(Protocol):
    """Interface that gathering needs of the processes that share the questions."""

    @property
    def device(self) -> torch.device: ...

    def sum(self, tensor: Tensor) -> Tensor: ...


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Return the run lengths of a (H, W) mask, column by column, in COCO's compressed form."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def decode_mask(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """Return the (height, width) mask of a row of the table."""
    mask: NDArray[np.bool_] = coco.decode({"size": [height, width], "counts": counts.encode("ascii")}).astype(bool)
    return mask


def gather_masks(mine: Mapping[int, bytes], count: int, ranks: MaskGroup) -> list[bytes]:
    """Return the encoded masks 0 to count - 1, of which each rank has some and none has another's; on every rank."""
    lengths = torch.zeros(count, dtype=torch.int64, device=ranks.device)
    for number, counts in mine.items():
        lengths[number] = len(counts)
    ends = ranks.sum(lengths).cumsum(0).tolist()
    text = torch.zeros(ends[-1] if ends else 0, dtype=torch.uint8, device=ranks.device)
    for number, counts in mine.items():
        text[ends[number] - len(counts) : ends[number]] = torch.tensor(list(counts), dtype=torch.uint8)
    joined = ranks.sum(text).cpu().numpy().tobytes()
    return [joined[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def write_predicted(path: Path, questions: Sequence[Question], masks: Sequence[bytes]) -> None:
    """Write the mask of each question by atomic rename; cases are named by their pseudonyms."""
    rows = [
        (
            question.case.case_id,
            question.condition,
            question.box,
            question.case.height,
            question.case.width,
            counts.decode("ascii"),
        )
        for question, counts in zip(questions, masks, strict=True)
    ]
    with write_atomically(path) as partial:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(partial, index=False, compression="zstd")


def load_predicted(path: Path) -> pd.DataFrame:
    """Read a table of predicted masks; `decode_mask` makes the masks of its rows.

    Raises:
        RunFolderError: the file is absent, damaged, or lacks a column.
    """
    again = f"Run `t2m-bench evaluate {path.parent}` with bench.keep_masks=true."
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise RunFolderError(f"{path}: does not exist: the masks of this run were not kept. {again}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: not a Parquet file ({find_first_line(error)}). {again}") from None
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise RunFolderError(f"{path}: has no column {lacking[0]}. {again}")
    return table[list(COLUMNS)]
