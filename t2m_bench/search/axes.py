"""Axes of a search space that cannot matter, told before the first trial."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from t2m_bench.recipe.arms import ARMS, LEVELS, PROMPT_SECTION
from t2m_bench.recipe.schema import Recipe
from t2m_bench.search.sweep import Sweep

CONTRASTIVE = ("loss.contrastive_weight", "loss.temperature")
"""Axes of the contrastive loss; the other weights of the loss train every kind."""

OF_LEVELS = ("adapter.norm", "adapter.inner_width")
"""Axes of the fusion with the image embedding; tokens of the sparse prompt have neither."""

FUSION = "adapter of the image embedding"

ALWAYS = "the adapter is always"
"""Opens the reason of an axis that the arm reads in no trial."""


@dataclass(frozen=True)
class IdleAxis:
    """An axis without effect, always or in some trials.

    Attributes:
        field: its name, as messages have it. reason: why it cannot matter.
        is_unread: whether the arm reads it in no trial at all, so that a search over it is a mistake.
    """

    field: str
    reason: str
    is_unread: bool

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


def find_idle_axes(sweep: Sweep, recipe: Recipe) -> list[IdleAxis]:
    """Return each axis that is without effect, always or in some trials, once a reason."""
    raw = recipe.model_dump(mode="json")
    return [
        IdleAxis(f"space.{name}", reason, reason.startswith(ALWAYS))
        for name in sweep.space
        for reason in dict.fromkeys(_find_reasons(sweep, raw, name))
    ]


def _find_reasons(sweep: Sweep, raw: dict[str, Any], name: str) -> Iterator[str]:
    kinds = _find_values(sweep, raw, name, "adapter.kind")
    part, _, rest = name.partition(".")
    level, _, key = rest.partition(".")
    if part == "adapter" and level in (*LEVELS, PROMPT_SECTION):
        yield from _explain_kinds(kinds, [k for k in kinds if level not in ARMS.find(k).levels], level)
        if key == "heads" and set(_find_values(sweep, raw, name, f"adapter.{level}.tokens")) == {1}:
            yield "the level has one text token, and a softmax over one key is 1 whatever the heads"
    elif name in OF_LEVELS:
        yield from _explain_kinds(kinds, [kind for kind in kinds if not ARMS.find(kind).has_levels], FUSION)
    elif part == "adapter" and name != "adapter.kind":
        yield from _explain_kinds(kinds, [kind for kind in kinds if not ARMS.find(kind).levels], "adapter")
    if name == "adapter.inner_width" and set(_find_values(sweep, raw, name, "adapter.preset")) == {"published"}:
        yield "the published preset has an inner width of its own"
    if name in CONTRASTIVE:
        without_loss = [kind for kind in kinds if not ARMS.find(kind).has_text_loss]
        yield from _explain_kinds(kinds, without_loss, "contrastive loss with the text")
    if name == "loss.temperature" and set(_find_values(sweep, raw, name, "loss.contrastive_weight")) == {0}:
        yield "loss.contrastive_weight is 0, so there is no contrastive loss"
    if name == "prompts.text_dropout":
        textless = [kind for kind in kinds if not ARMS.find(kind).sees_text]
        yield from _explain_kinds(kinds, textless, "text")
    if name == "optim.micro_batch_size":
        yield "the loss is that of the global batch however it is split"
    if name == "optim.patience":
        lows = sweep.space[name].list_extremes()
        epochs = max(_find_values(sweep, raw, name, "optim.epochs"))
        if min(lows) >= epochs:
            yield f"no trial has more than {epochs} epochs to be patient for"


def _explain_kinds(kinds: list[Any], without: list[Any], what: str) -> Iterator[str]:
    """Explain an axis that some of the kinds an adapter may have ignore."""
    if without and len(without) == len(kinds):
        yield f"{ALWAYS} {' or '.join(kinds)}, which has no {what}"
    elif without:
        rest = [kind for kind in kinds if kind not in without]
        wanted = rest[0] if len(rest) == 1 else f"[{', '.join(rest)}]"
        yield (
            f"ignored where adapter.kind is {' or '.join(without)}, which has no {what}; add when: "
            f"{{adapter.kind: {wanted}}}"
        )


def _find_values(sweep: Sweep, raw: dict[str, Any], name: str, other: str) -> list[Any]:
    """Return the values that `other` may have in trials in which the axis `name` exists."""
    when = sweep.space[name].when
    if other in when:
        return list(sweep.space[name].allows(other))
    for parent in when:
        if other in sweep.space[parent].when:
            return list(sweep.space[parent].allows(other))
    if other in sweep.space:
        return sweep.space[other].list_extremes()
    value: Any = raw
    for part in other.split("."):
        value = value[part]
    return [value]
