"""Sentences that stand for the text fields, from YAML that a clinician can edit."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from t2m_bench.errors import RecipeError
from t2m_bench.recipe import conditions
from t2m_bench.recipe.typed_yaml import describe_fault
from t2m_bench.recipe.yaml_text import UnclearError, find_surrogate, parse_yaml

FOLDER = Path(__file__).parent / "prompt_files"
FAMILIES = ("category", "typical")
UNKNOWN = conditions.UNKNOWN
"""The class of a text field that the source does not give; each prompt file has sentences for it."""

Use = Literal["training", "held_out"]
Sentences = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class _Class(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    training: Sentences
    held_out: Sentences
    typical: str = ""
    also_called: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Words that name the class besides its key; held-out sentences avoid them."""


class _Field(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: dict[str, _Class]
    wrong: dict[str, str]
    plausible: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    """Class -> classes that it is taken for; empty stands for the neighbours of classes that are whole numbers."""

    @model_validator(mode="after")
    def _check_names(self) -> "_Field":
        if UNKNOWN not in self.classes:
            raise ValueError('classes must include "unknown"')
        known = self.classes.keys() - {UNKNOWN}
        if self.wrong.keys() != known:
            raise ValueError(f"wrong must name each class once; differs in {sorted(self.wrong.keys() ^ known)}")
        for name, other in self.wrong.items():
            if other == name or other not in known:
                raise ValueError(f"wrong.{name} is {other}, which is not another class")
        return self

    @model_validator(mode="after")
    def _check_plausible(self) -> "_Field":
        known = self.classes.keys() - {UNKNOWN}
        if self.plausible and self.plausible.keys() != known:
            differ = sorted(self.plausible.keys() ^ known)
            raise ValueError(f"plausible must name each class once, or be left out; differs in {differ}")
        for name, others in self.plausible.items():
            if len(set(others)) < len(others):
                raise ValueError(f"plausible.{name} names a class twice: {', '.join(others)}")
            for other in others:
                if other == name or other not in known:
                    raise ValueError(f"plausible.{name} names {other}, which is not another class")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: Annotated[dict[str, _Field], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_repeats(self) -> "_File":
        sentences = [
            sentence
            for field in self.fields.values()
            for described in field.classes.values()
            for sentence in (*described.training, *described.held_out)
        ]
        repeated = [sentence for sentence, count in Counter(sentences).items() if count > 1]
        if repeated:
            raise ValueError(f"the sentence {repeated[0]!r} occurs more than once")
        return self


@dataclass(frozen=True)
class PromptBook:
    """The sentences of one file in one family.

    A case's text embedding is the mean over fields of one sentence's embedding each.

    Attributes:
        sha256: of family and text. text: of the file.
    """

    name: str
    family: str
    sha256: str
    content: _File
    text: str

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.content.fields)

    def classes(self, field: str) -> tuple[str, ...]:
        """Return the field's classes without "unknown"."""
        return tuple(name for name in self.content.fields[field].classes if name != UNKNOWN)

    def sentences(self, field: str, value: str, use: Use) -> tuple[str, ...]:
        """Return the sentences for a value of a field; the value may be "unknown"."""
        described = self.content.fields[field].classes[value]
        addition = f" {described.typical}" if self.family == "typical" and described.typical else ""
        return tuple(sentence + addition for sentence in getattr(described, use))

    def describe(self, values: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
        """Return (field, value, sentence) of a case; the sentence is the one of evaluation."""
        return tuple(
            (field, values[field], self.sentences(field, values[field], "training")[0]) for field in self.fields
        )

    def also_called(self, field: str, value: str) -> tuple[str, ...]:
        """Return the words that name a class besides its key."""
        return self.content.fields[field].classes[value].also_called

    def wrong(self, field: str) -> dict[str, str]:
        """Return the published map from a class to the wrong one given in its place."""
        return dict(self.content.fields[field].wrong)

    def plausible(self, field: str) -> dict[str, tuple[str, ...]]:
        """Return class -> the classes that it is taken for; empty where the file names none and no order is known."""
        named = self.content.fields[field].plausible
        return dict(named) if named else find_neighbours(self.classes(field))

    def all_sentences(self) -> tuple[str, ...]:
        """Return each distinct sentence once, in the order of the file."""
        uses: tuple[Use, ...] = ("training", "held_out")
        return tuple(
            sentence
            for field in self.fields
            for value in self.content.fields[field].classes
            for use in uses
            for sentence in self.sentences(field, value, use)
        )


def find_neighbours(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return class -> the next lower and the next higher one, of whole numbers; empty of all others, or of one."""
    if len(classes) < 2 or not all(re.fullmatch(r"-?[0-9]+", name) for name in classes):
        return {}
    ordered = sorted(classes, key=int)
    return {
        name: (*ordered[max(place - 1, 0) : place], *ordered[place + 1 : place + 2])
        for place, name in enumerate(ordered)
    }


def load_prompts(name_or_path: str | None, family: str) -> PromptBook:
    """Load a shipped file by name (`birads`, `nsclc`) or a user's own by path.

    Raises:
        RecipeError: the family or file is unknown, the file is not as it must be, or texts come from a column; names
            the field.
    """
    if name_or_path is None:
        raise RecipeError(
            "prompts.column: the texts are the cases' own, and this command needs the sentences of a prompt file. Set "
            "prompts.file and leave prompts.column out."
        )
    if family not in FAMILIES:
        raise RecipeError(f"prompts.family = {family} is unknown; choose {' or '.join(FAMILIES)}.")
    shipped = FOLDER / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = parse_yaml(text)
        broken = find_surrogate(raw)
        if broken is not None:
            raise RecipeError(f"{path}: {broken!a} holds half a character (a surrogate); write it without.")
        content = _File.model_validate(raw)
    except (OSError, UnicodeDecodeError):
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise RecipeError(
            f"prompts.file = {name_or_path}: neither a shipped prompt file ({known}) nor a readable path. Correct it."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecipeError(f"{path}: {place}: {str(first['msg']).removeprefix('Value error, ')}") from None
    except UnclearError as error:
        raise RecipeError(f"{path}: {error}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {describe_fault(error)}. Correct the file.") from None
    return PromptBook(path.stem, family, hashlib.sha256(f"{family}\n{text}".encode()).hexdigest(), content, text)
