"""A condition: texts between the right and the wrong one."""

from collections.abc import Iterator

from t2m_bench.evaluation.conditions import Asked, Drawn
from t2m_bench.recipe.conditions import ConditionEntry

PERCENT = (25, 50, 75)
"""Shares of the wrong text, in percent."""


def draw_blends(asked: Asked) -> Iterator[Drawn]:
    """Give each mixture of the case's own text and that of the published wrong class; none where it is unknown."""
    if not asked.is_known:
        return
    own = asked.case.text_fields
    wrong = {field: asked.asking.wrong[field][own[field]] for field in asked.known}
    right_text, wrong_text = (
        asked.texts.embeddings[list(asked.texts.pick(values))].mean(dim=0) for values in (own, {**own, **wrong})
    )  # (E,) each
    for percent in PERCENT:
        yield Drawn(f"blend:{percent}", None, vector=right_text.lerp(wrong_text, percent / 100))


BLEND = ConditionEntry(
    name="blend",
    label="between right and wrong text",
    draw="t2m_shapes.condition:draw_blends",
    pattern=r"blend:\d+",
    row="blend_mean",
)
