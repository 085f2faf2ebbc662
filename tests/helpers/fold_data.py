"""The data of a fold whose shards, weights and reference nobody opens."""

from pathlib import Path

import torch

from t2m_bench.data.case import Case
from t2m_bench.data.splits import Splits
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.evaluation.conditions import EvaluationSpec
from t2m_bench.runs.setup import FoldData


def make_fold_data(folder: Path, cases: tuple[Case, ...], splits: Splits, asking: EvaluationSpec) -> FoldData:
    """Return the data of a fold that lies in one folder; its text fields are those of the cases."""
    return FoldData(
        root=folder,
        checkpoint=None,
        cases=cases,
        splits=splits,
        shards=folder,
        signature=Signature("mini", "", "", ""),
        texts=TextTable(torch.zeros(1, 4), {}, {case.case_id: case.text_fields for case in cases}, {}),
        fields=tuple(cases[0].text_fields),
        asking=asking,
        reference=folder,
    )
