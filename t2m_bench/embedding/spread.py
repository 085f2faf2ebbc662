"""Spread of the stored embeddings, by which an adapter's branch is scaled."""

from collections.abc import Sequence

import numpy as np

from t2m_bench.embedding.shards.reader import CaseSource

MEASURED_CASES = 64
"""Most cases from which the spread is measured; 128 MiB of embeddings of 64x64 tokens."""


def measure_scale(source: CaseSource, case_ids: Sequence[str]) -> float:
    """Return the standard deviation of all values of the cases' embeddings.

    It depends on the set of cases alone: of more than `MEASURED_CASES` it takes as many, evenly spaced by name, so that
    every process and every attempt at a run finds the same value.
    """
    names = sorted(case_ids)
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), MEASURED_CASES)).round().astype(int))
    count, total, squares = 0, 0.0, 0.0
    for place in places:
        values = source.read([names[place]]).image_embedding.astype(np.float64)
        count += values.size
        total += float(values.sum())
        squares += float(np.square(values).sum())
    mean = total / count
    return float(np.sqrt(squares / count - mean**2))
