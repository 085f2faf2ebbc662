"""YAML files as typed data: dotted overrides, unknown keys refused with the nearest known name."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticUndefined, to_jsonable_python

from t2m_bench.errors import RecipeError, UserError
from t2m_bench.files import expand_home
from t2m_bench.recipe.defaults import REQUIRED, Value
from t2m_bench.recipe.yaml_text import UnclearError, find_surrogate, parse_yaml

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Seeds that torch's generators accept."""


def _refuse_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise PydanticCustomError("repeated", "{value} stands more than once", {"value": str(repeated[0])})
    return values


NO_REPEATS = AfterValidator(_refuse_repeats)
"""No value twice."""

DISTINCT = (Field(min_length=1), NO_REPEATS)
"""Constraint of a list: at least one value, none repeated."""


def _expand_home(value: Any) -> Any:
    try:
        return expand_home(value) if isinstance(value, str) else value
    except UserError as error:
        raise PydanticCustomError("home", "{reason}", {"reason": str(error)}) from None


AnyPath = Annotated[Path, BeforeValidator(_expand_home)]
"""A path whose `~` is the home folder."""

NameOrPath = Annotated[str, BeforeValidator(_expand_home)]
"""A name of something shipped or on the hub, or a path whose `~` is the home folder."""


class Section(BaseModel):
    """A part of a file: immutable, unknown keys refused, numbers finite, true and false no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _take_as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        """Split `a,b` where a field takes a list; refuse values that pydantic would turn into another type."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        value = _split_at_commas(value, annotation)
        types = set(_list_types(annotation))
        for part in value if isinstance(value, list | tuple) else [value]:
            _refuse_other_type(part, types)
        return value


def _split_at_commas(value: Any, annotation: Any) -> Any:
    """Read `a,b` as the list [a, b] where a field takes a list: that is how one writes it on a command line."""
    takes_list = get_origin(annotation) is tuple
    may_take_list = any(get_origin(form) is tuple for form in get_args(annotation))
    if isinstance(value, str) and (takes_list or (may_take_list and "," in value)):
        return [_load_part(part) for part in value.split(",")]
    is_one = takes_list and isinstance(value, int | float) and not isinstance(value, bool)
    return [value] if is_one else value


def _list_types(annotation: Any) -> Iterator[Any]:
    """Yield the types of the single values that an annotation allows, in a list or alone."""
    if get_origin(annotation) is Annotated:
        yield from _list_types(get_args(annotation)[0])
    elif get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_origin(annotation) in (tuple, list, Union, UnionType):
        for part in get_args(annotation):
            yield from _list_types(part)
    else:
        yield annotation


def _refuse_other_type(value: Any, types: set[Any]) -> None:
    """Refuse a truth value or a text as a number, and a number or a text as a truth value: pydantic takes them.

    Raises:
        PydanticCustomError: saying how to write it.
    """
    takes_text = not types <= {bool, int, float, NoneType, Ellipsis}
    if isinstance(value, bool) and bool not in types and Any not in types:
        hint = "; a text such as yes, no, on or off needs quotes" if takes_text else ""
        raise PydanticCustomError("truth", "true and false mean nothing here{hint}", {"hint": hint})
    is_of_truth = types <= {bool, NoneType}
    if isinstance(value, str) and not takes_text:  # pydantic reads "1_0", and even "._0"
        plain = "true or false" if is_of_truth else "a number" if float in types else "an integer"
        raise PydanticCustomError("text", "a text means nothing here; write {plain}, without quotes", {"plain": plain})
    if isinstance(value, int | float) and not isinstance(value, bool) and is_of_truth:
        raise PydanticCustomError("number", "a number means nothing here; write true or false")


def _load_part(part: str) -> Any:
    try:
        return parse_yaml(part)
    except UnclearError as error:
        raise PydanticCustomError("part", "{reason}", {"reason": str(error)}) from None
    except yaml.YAMLError as error:
        reason = describe_fault(error)
        raise PydanticCustomError("part", "{part} is not YAML: {reason}", {"part": part, "reason": reason}) from None


def describe_fault(error: Exception) -> str:
    """Return on one line what PyYAML found wrong and where; its own message has several lines for each place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split()) or type(error).__name__


SectionT = TypeVar("SectionT", bound=Section)


def list_values(
    section: Section, like: Section | None = None, path: tuple[str, ...] = (), field: str = ""
) -> Iterator[Value]:
    """Yield the values of a section and of the sections in it, field by field, as JSON.

    Args:
        like: the default of the section itself, whose values are its fields' defaults. path, field: the way to it.
    """
    for name, described in type(section).model_fields.items():
        default = getattr(like, name, described.get_default(call_default_factory=True))
        yield from _list_value(getattr(section, name), default, (*path, name), f"{field}{name}")


def _list_value(value: Any, default: Any, path: tuple[str, ...], field: str) -> Iterator[Value]:
    is_mapping = isinstance(value, Mapping) and any(isinstance(part, Section) for part in value.values())
    if isinstance(value, Section) or is_mapping:
        if not isinstance(default, Section):  # that it is given says something, even where each field has its default
            yield Value(path, field, {}, _to_json(default))
    else:
        yield Value(path, field, to_jsonable_python(value), _to_json(default))
    if isinstance(value, Section):
        yield from list_values(value, default if isinstance(default, Section) else None, path, f"{field}.")
    elif is_mapping:
        for key, part in value.items():
            yield from _list_value(part, None, (*path, key), f"{field}.*")


def _to_json(default: Any) -> Any:
    return REQUIRED if default is PydanticUndefined else to_jsonable_python(default)


def load_mapping(path: Path, what: str, folder: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        what: the kind of file in messages, such as "recipe". folder: where examples of it lie.

    Raises:
        RecipeError: the file is absent or no YAML mapping.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: there is no such {what}. A {what} is a YAML file; see those in {folder}/."
        ) from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except UnclearError as error:
        raise RecipeError(f"{path}: {error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML: {describe_fault(error)}. Correct the file.") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a {what} is a mapping of names to values, found {type(raw).__name__}.")
    return raw


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set a value of a nested mapping from `field.name=value`; the value is YAML.

    Raises:
        RecipeError: it is not of this form, or passes through a value.
    """
    dotted, separator, value = override.partition("=")
    if not separator or not dotted:
        raise RecipeError(f"override {override!r}: write it as field.name=value, such as adapter.fine.heads=4")
    try:
        loaded = parse_yaml(value, dotted)
    except UnclearError as error:
        raise RecipeError(f"override {override!r}: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(
            f"override {override!r}: the value is not YAML: {describe_fault(error)}. Put a text in quotes."
        ) from None
    try:
        set_dotted(raw, dotted, loaded)
    except RecipeError as error:
        raise RecipeError(f"override {override!r}: {error}") from None


def set_dotted(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` of a nested mapping, making the sections that lack.

    Raises:
        RecipeError: the way there passes through a value.
    """
    *parents, leaf = dotted.split(".")
    place = raw
    for parent in parents:
        child = place.setdefault(parent, {})
        if child is None:
            child = place[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"{parent} is a value, not a section")
        place = child
    place[leaf] = value


def validate(model: type[SectionT], raw: dict[str, Any], what: str, source: str) -> SectionT:
    """Validate a mapping as a model; `what` names its kind and `source` the file in messages.

    Raises:
        RecipeError: naming each field that is wrong, with the nearest known name for an unknown one.
    """
    broken = find_surrogate(raw)
    if broken is not None:
        raise RecipeError(
            f"{source}: {broken!a} holds half a character (a surrogate), which no file can hold; write it without"
        )
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_describe(problem, model, what) for problem in _join_forms(error.errors())]
        raise RecipeError(f"{source}: " + "; ".join(lines)) from None


def find_near(name: str, known: list[str]) -> str:
    """Return the words that point from an unknown name to a known one, or list those there are."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


FORM = re.compile(r"(bool|int|float|str|tuple|list|dict|literal)(\[.*)?")
"""What pydantic adds to a field's name for each of several forms that its value may have."""


def _join_forms(problems: Sequence[Any]) -> list[dict[str, Any]]:
    """Return one problem a field: pydantic has one for each form that the value may have, and does not."""
    joined: dict[tuple[Any, ...], dict[str, Any]] = {}
    for problem in problems:
        place, message = tuple(problem["loc"]), str(problem["msg"])
        if len(place) > 1 and isinstance(place[-1], str) and FORM.fullmatch(place[-1]):
            place = place[:-1]
        if place in joined:
            message = f"{joined[place]['msg']} or {message.removeprefix('Input should be ')}"
        joined[place] = {**problem, "loc": place, "msg": message}
    return list(joined.values())


def _describe(problem: Any, model: type[BaseModel], what: str) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or what
    if problem["type"] == "extra_forbidden":
        hint = find_near(str(problem["loc"][-1]), list_fields(model, problem["loc"][:-1]))
        return f"{field} is not a field of the {what}; {hint}"
    if problem["type"] == "missing":
        return f"{field} is required and absent"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    return f"{field}: {message} (found {problem['input']!r})"


def list_fields(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the names of the fields of the section at a place inside a model; none where it is no section."""
    section: Any = model
    for part in location:
        if part not in section.model_fields:  # a key of a mapping: the section is the mapping's value
            continue
        found = find_section(section.model_fields[part].annotation)
        if found is None:
            return []
        section = found
    return list(section.model_fields)


def find_section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field of this annotation holds, alone, optional or in a mapping; None: a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = find_section(part)
        if found is not None:
            return found
    return None
