"""The table of conditions: which text a trained arm is asked with, how it is drawn, and what reports call it."""

from dataclasses import dataclass

from t2m_bench.recipe.registry import Registry


@dataclass(frozen=True)
class ConditionEntry:
    """One way of giving a test case a text.

    Attributes:
        name: as `bench.conditions` has it.
        draw: "module:function" from an `evaluation.conditions.Asked` to the texts given: (condition, given) pairs.
        pattern: regular expression of the condition's names in results, where one condition gives several.
        label: what the table of other texts calls it; empty where it has no row there. row: the name of that row where
            it averages over several conditions.
        all_boxes: whether it is asked with every box, not with the tight one alone.
        in_full: whether distances are measured of its answers, not overlap alone.
        needs_sentences: whether it means nothing to an arm that is given classes.
    """

    name: str
    draw: str
    label: str = ""
    row: str = ""
    pattern: str = ""
    all_boxes: bool = False
    in_full: bool = False
    needs_sentences: bool = False


_DRAWS = "t2m_bench.evaluation.conditions:"

CONDITIONS: Registry[ConditionEntry] = Registry(
    "condition",
    "t2m_bench.conditions",
    (
        ConditionEntry(name="right", draw=f"{_DRAWS}draw_right", all_boxes=True, in_full=True),
        ConditionEntry(
            name="wrong",
            draw=f"{_DRAWS}draw_wrong",
            pattern=r"wrong(:\w+)?",
            label="wrong text (published map)",
            all_boxes=True,
            in_full=True,
        ),
        ConditionEntry(
            name="swap",
            draw=f"{_DRAWS}draw_swaps",
            pattern=r"swap:\w+=.+",
            label="any other class, uniformly",
            row="other",
        ),
        ConditionEntry(
            name="other_patient", draw=f"{_DRAWS}draw_donor", label="another patient's text, of another class"
        ),
        ConditionEntry(
            name="paraphrase",
            draw=f"{_DRAWS}draw_paraphrase",
            label="held-out wording of the right text",
            needs_sentences=True,
        ),
        ConditionEntry(name="unknown", draw=f"{_DRAWS}draw_unknown", label="text says unknown"),
        ConditionEntry(
            name="random", draw=f"{_DRAWS}draw_random", label="random vector of equal norm", needs_sentences=True
        ),
        ConditionEntry(name="predicted", draw=f"{_DRAWS}draw_predicted", label="class that the image predicts (probe)"),
    ),
)

DEFAULT_CONDITIONS = ("right", "wrong", "swap", "other_patient", "paraphrase", "unknown", "random", "predicted")
"""What a recipe asks that names none; conditions of other packages are asked where a recipe names them."""
