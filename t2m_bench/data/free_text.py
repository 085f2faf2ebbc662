"""Free text: a sentence of each case's own, such as a report, in place of a prompt file's sentences.

A text is a patient's data. Cases, tables and banks name it by its hash; the sentence itself stands in the manifest.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from t2m_bench.data.case import Case
from t2m_bench.data.prompts import UNKNOWN, Use
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.schema import PromptsSection

TEXT = "text"
"""The text field whose value names a case's own text."""

DIGITS = 8
MASKED = "#"
"""Stands for a number, with its unit, that was masked."""

LISTED_ROWS = 10
"""Rows that a message names."""

NUMBERS = re.compile(
    r"\d+(?:[.,:/]\d+)*(?:\s*(?:x|×|\*|by|to|-)\s*\d+(?:[.,]\d+)*)*"
    r"(?:\s*(?:[mc]m[23²³]?|m[lL]|cc|(?:milli|centi)met(?:er|re)s?|o['’]?clock|hu|px|pixels?)\b|\s*[%°])?",
    re.IGNORECASE,
)
"""A number, several of them such as `12 x 8`, and the unit behind them."""


def normalise(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), its words joined by single blanks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def mask_numbers(text: str) -> str:
    """Return a text with each number, and its unit, replaced by one sign."""
    return NUMBERS.sub(MASKED, text)


def name_text(text: str) -> str:
    """Return the value that stands for a normalised text: `t` and 8 hex digits of its sha256; "unknown" for none."""
    return f"t{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}" if text else UNKNOWN


def name_class_field(column: str) -> str:
    """Return the text field for the classes of a column."""
    name = re.sub(r"\W+", "_", column.lower()).strip("_")
    return f"{name}_class" if name in ("", TEXT) else name


@dataclass(frozen=True)
class FreeTextBook:
    """The distinct texts of a data set, and the classes that go with them.

    Attributes:
        class_field: text field of the classes; empty where the recipe names no column of them.
        class_names: its classes, without "unknown", sorted.
        sentences_of: value -> sentence, "unknown" among them. paraphrase_of: value -> value of another wording.
        rows_of: value -> the rows of the table that have the text, for messages.
    """

    name: str
    class_field: str
    class_names: tuple[str, ...]
    sha256: str
    sentences_of: Mapping[str, str] = field(repr=False)
    paraphrase_of: Mapping[str, str] = field(default_factory=dict, repr=False)
    rows_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that have classes: one or none."""
        return (self.class_field,) if self.class_field else ()

    def classes(self, field: str) -> tuple[str, ...]:
        """Return the field's classes without "unknown"."""
        return self.class_names if field == self.class_field else ()

    def sentences(self, field: str, value: str, use: Use) -> tuple[str, ...]:
        """Return nothing: no sentence stands for a class."""
        return ()

    def wrong(self, field: str) -> dict[str, str]:
        """Return nothing: no class has a wrong one."""
        return {}

    def describe(self, values: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
        """Return (field, value, words) of a case; the words say how long its text is, not what it says."""
        own = values[TEXT]
        length = "no text" if own == UNKNOWN else f"{len(self.sentences_of[own].split())} words, in the table"
        return ((TEXT, own, length), *((name, values[name], "class") for name in self.fields))

    def list_rows(self, values: Iterable[str]) -> str:
        """Return the numbers of the table's rows that have one of these texts or paraphrases, in words."""
        wanted = set(values)
        having = [own for own in self.rows_of if own in wanted or self.paraphrase_of.get(own) in wanted]
        rows = sorted({row.removeprefix("row ") for own in having for row in self.rows_of[own]}, key=_sort_key)
        more = f" and {len(rows) - LISTED_ROWS} more" if len(rows) > LISTED_ROWS else ""
        return ", ".join(rows[:LISTED_ROWS]) + more


def _sort_key(row: str) -> tuple[int, str]:
    digits = re.sub(r"\D", "", row)
    return (int(digits) if digits else 0, row)


def make_free_book(prompts: PromptsSection, cases: Sequence[Case]) -> FreeTextBook:
    """Collect the texts of cases as a manifest has them, with sentences.

    Raises:
        DatasetError: no case has a text, or two texts have the same hash.
    """
    sentences: dict[str, str] = {UNKNOWN: normalise(prompts.unknown)}
    paraphrases: dict[str, str] = {}
    rows: dict[str, set[str]] = {}
    for case in cases:
        own = case.text_fields[TEXT]
        if own == UNKNOWN:
            continue
        rows.setdefault(own, set()).add(case.source)
        _add(sentences, own, case.text, rows[own])
        if case.paraphrase:
            other = name_text(case.paraphrase)
            _add(sentences, other, case.paraphrase, rows[own])
            paraphrases.setdefault(own, other)
    if not rows:
        raise DatasetError(f"prompts.column = {prompts.column}: is empty in every row. Fill it in, or name another.")
    class_field = name_class_field(prompts.class_column) if prompts.class_column else ""
    names = {case.text_fields[class_field] for case in cases} - {UNKNOWN} if class_field else set()
    return FreeTextBook(
        name="free-text",
        class_field=class_field,
        class_names=tuple(sorted(names)),
        sha256=_compute_sha256(prompts, sentences),
        sentences_of=sentences,
        paraphrase_of=paraphrases,
        rows_of={value: tuple(of_value) for value, of_value in rows.items()},
    )


def _add(sentences: dict[str, str], value: str, text: str, rows: Iterable[str]) -> None:
    if sentences.setdefault(value, text) != text:
        raise DatasetError(
            f"two different texts have the hash {value} (one in {', '.join(sorted(rows))}). Change a word of one."
        )


def _compute_sha256(prompts: PromptsSection, sentences: Mapping[str, str]) -> str:
    """Return what tells one bank of texts from another: every text and how long ones are read."""
    digests = sorted(hashlib.sha256(text.encode()).hexdigest() for text in sentences.values())
    return hashlib.sha256(json.dumps([prompts.long_text, sentences[UNKNOWN], digests]).encode()).hexdigest()
