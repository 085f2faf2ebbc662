"""The rule of held-out sentences: several a class, and none that names the class as training does.

A sentence with the token "BI-RADS 3" tests whether a model knows the token, not whether it knows what the sentence
means. So a held-out sentence avoids the words of its class's name, the words of `also_called`, and every word with a
digit of the class's training sentences.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from t2m_bench.data.prompts import UNKNOWN, PromptBook

FEWEST_WORDINGS = 3
"""Held-out sentences a class below which nothing can be said of other wordings."""


@dataclass(frozen=True)
class Naming:
    """A held-out sentence that names its class.

    Attributes:
        words: those that it should avoid, in its order.
    """

    field: str
    value: str
    sentence: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class HeldOutWording:
    """Counts of held-out sentences, and of those that name their class.

    Attributes:
        num_wordings: held-out sentences that every class has, "unknown" among them.
        num_sentences: all held-out sentences. naming: those that name their class.
    """

    num_wordings: int
    num_sentences: int
    naming: tuple[Naming, ...]

    @property
    def is_kept(self) -> bool:
        """Return whether the rule is kept."""
        return self.num_wordings >= FEWEST_WORDINGS and not self.naming


def check_held_out(book: PromptBook) -> HeldOutWording:
    """Look at every held-out sentence of a prompt file."""
    counts, naming = [], []
    for field in book.fields:
        for value in (*book.classes(field), UNKNOWN):
            sentences = book.sentences(field, value, "held_out")
            names = list_names(value, book.also_called(field, value), book.sentences(field, value, "training"))
            counts.append(len(sentences))
            for sentence in sentences:
                words = tuple(word for word in split_words(sentence) if word in names)
                if words:
                    naming.append(Naming(field, value, sentence, words))
    return HeldOutWording(min(counts), sum(counts), tuple(naming))


def list_names(value: str, also_called: Iterable[str], training: Iterable[str]) -> set[str]:
    """Return the words that would give a class away: its names', and those with a digit of its training sentences."""
    names = {word for name in (value, *also_called) for word in split_words(name)}
    numbers = {word for sentence in training for word in split_words(sentence) if re.search(r"\d", word)}
    return names | numbers


def split_words(text: str) -> list[str]:
    """Return a text's words and numbers in lower case, without punctuation."""
    return re.findall(r"[^\W_]+", text.casefold())
