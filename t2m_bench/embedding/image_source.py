"""Images in place of embeddings, for an arm that reads pixels."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.data.frame import Frame
from t2m_bench.data.images import load_image, load_mask
from t2m_bench.embedding.encode import compute_mask_low_res
from t2m_bench.embedding.shards.reader import EmbeddedBatch
from t2m_bench.models.encoder_input import preprocess_image

CACHED_CASES = 2048
"""Images kept in memory, 0.3 GB in all."""


class ImageSource:
    """Reads cases as an `EmbeddedBatch` whose image_embedding is the grey image, (B, 1, S, S) of a frame."""

    def __init__(self, root: Path, cases: Sequence[Case], frame: Frame) -> None:
        self._root = root
        self._case_of = {case.case_id: case for case in cases}
        self._frame = frame
        self._load = lru_cache(maxsize=CACHED_CASES)(self._load_case)

    def read(self, case_ids: Sequence[str], into: EmbeddedBatch | None = None) -> EmbeddedBatch:
        """Read the named cases in the order given, into memory of their own.

        Raises:
            DatasetError: an image or a mask cannot be read.
        """
        rows = [self._load(case_id) for case_id in case_ids]
        return EmbeddedBatch(*(np.stack(column) for column in zip(*rows, strict=True)))

    def _load_case(self, case_id: str) -> tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.float32]]:
        case = self._case_of[case_id]
        image = preprocess_image(load_image(self._root, case), self._frame)[1:2]  # of three slices the annotated one
        mask = compute_mask_low_res(load_mask(self._root, case), self._frame)
        box = self._frame.scale_box(case.box_xyxy, case.height, case.width)
        return image.numpy().astype(np.float16), mask, box
