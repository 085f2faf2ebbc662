"""Encodes free texts into a bank that names them by their hashes, and tells which of them say nearly the same."""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from t2m_bench.data.free_text import TEXT, FreeTextBook
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.prompt_bank import PromptBank
from t2m_bench.embedding.text_table import FreeTexts, TextTable
from t2m_bench.errors import WeightsError
from t2m_bench.models.text import FrozenText


def encode_free_texts(book: FreeTextBook, encoder: FrozenText, long_text: Literal["refuse", "average"]) -> PromptBank:
    """Return the embedding of each distinct text, under its hash.

    Raises:
        WeightsError: texts are longer than the encoder takes and are not to be averaged; names their rows.
    """
    lengths = {value: encoder.count_tokens(text) for value, text in book.sentences_of.items()}
    too_long = [value for value, length in lengths.items() if length > encoder.max_tokens]
    if UNKNOWN in too_long:
        raise WeightsError(
            f"prompts.unknown has {lengths[UNKNOWN]} tokens, and the text encoder {encoder.name} takes "
            f"{encoder.max_tokens}. Shorten it."
        )
    if too_long and long_text == "refuse":
        raise WeightsError(
            f"{len(too_long)} of {len(lengths)} texts are longer than the {encoder.max_tokens} tokens that the text "
            f"encoder {encoder.name} takes, the longest has {max(lengths.values())} (rows {book.list_rows(too_long)}). "
            "Shorten them, or set prompts.long_text=average, which reads them in pieces."
        )
    short = [value for value in lengths if value not in set(too_long)]
    rows = dict(zip(short, encoder.encode([book.sentences_of[value] for value in short]), strict=True)) if short else {}
    rows |= {value: encoder.encode_in_pieces(book.sentences_of[value]) for value in too_long}
    return PromptBank(tuple(lengths), torch.stack([rows[value] for value in lengths]).numpy())


def make_free_table(
    book: FreeTextBook, bank: PromptBank, fields_of: Mapping[str, Mapping[str, str]], trained: Iterable[str]
) -> TextTable:
    """Return the texts that each case may be given: its own, or none.

    Args:
        fields_of: case_id -> field -> value. trained: case_ids outside the test fold, whose mean text is the centre.
    """
    row_of = {value: row for row, value in enumerate(bank.sentences)}
    held_out = {value: (row_of[other],) for value, other in book.paraphrase_of.items()}
    given = {value: (row,) for value, row in row_of.items() if value in book.rows_of or value == UNKNOWN}
    return TextTable(
        torch.from_numpy(bank.text_embedding),
        {TEXT: given},
        fields_of,
        {TEXT: held_out} if held_out else {},
        FreeTexts(
            TEXT,
            book.class_field,
            book.class_names,
            _find_directions(bank, row_of, [value for value in given if value != UNKNOWN], fields_of, trained),
        ),
    )


def _find_directions(
    bank: PromptBank,
    row_of: Mapping[str, int],
    values: Iterable[str],
    fields_of: Mapping[str, Mapping[str, str]],
    trained: Iterable[str],
) -> dict[str, NDArray[np.float64]]:
    """Return value -> embedding less the mean over training cases, at length 1."""
    known = [row_of[fields_of[case_id][TEXT]] for case_id in trained if fields_of[case_id][TEXT] != UNKNOWN]
    embeddings = bank.text_embedding.astype(np.float64)
    centre = embeddings[known].mean(axis=0) if known else np.zeros(embeddings.shape[1])
    directions = {}
    for value in values:
        apart = embeddings[row_of[value]] - centre
        directions[value] = apart / max(float(np.linalg.norm(apart)), 1e-12)
    return directions
