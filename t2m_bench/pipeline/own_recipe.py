"""Writes a recipe and a prompt file to edit for a user's own table."""

import re
from dataclasses import dataclass
from pathlib import Path

from t2m_bench.data.datasets.table.guess import Guess, guess_columns
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.errors import DatasetError, RecipeError
from t2m_bench.files import write_text
from t2m_bench.recipe.conditions import WRONG
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.schema import STAND_IN, load_recipe
from t2m_bench.recipe.yaml_text import dump_yaml

EPOCHS, SEEDS = 12, (0, 1, 2)

TRAINING = ("The {field} is {value}.", "The {field} was found to be {value}.", "This lesion has the {field} {value}.")
HELD_OUT = (
    "Reported {field}: {value}.",
    "{value} according to the {field}.",
    "As its {field} the record names {value}.",
)
TRAINING_UNKNOWN = ("The {field} is not known.", "No {field} was recorded.", "There is no information on the {field}.")
HELD_OUT_UNKNOWN = (
    "The {field} was not given.",
    "Nothing is known of the {field}.",
    "The record does not mention the {field}.",
)

OPENING = """\
# Does the text help to outline a boxed lesion? Written by `t2m-bench init --table`; edit what it took wrongly.
# Look:     t2m-bench inspect {recipe}
# Run:      t2m-bench bench {recipe}
# Text encoder: `stand-in` is small and no language model. `t2m-bench fetch minilm DIR` or `fetch pubmedbert DIR` gets
#           one; the command says how to name it here. Image encoder: `fetch medsam DIR` or `fetch lite-medsam DIR`.
"""
PROMPTS_OPENING = """\
# Sentences for each class, written by a rule: replace them by what a clinician would write. `held_out` sentences are
# never trained on. Write at least three for each class, in other words than those of `training`: without the class's
# name, without words that `also_called: [...]` of the class lists, without numbers of its training sentences.
# `wrong` names the class whose sentences stand for an extreme wrong text. `plausible: {CLASS: [CLASS, ...], ...}` may
# name those that a reader would take each class for; classes that are whole numbers have their neighbours without it.
"""


OFFER = """\
# Column {column} holds a sentence for each case. To give the model that in place of a class's sentences, write
# prompts: {{column: {column}{class_column}}}
"""
FREE = """\
# Each case is given its own text, of column {column}, which stays in the private manifest. A column of classes, where
# there is one, is named in prompts.class_column; the same in other words in prompts.paraphrase_column.
# prompts.strip_numbers: true masks digits and units, which may tell the size and the place of a lesion.
"""


@dataclass(frozen=True)
class Written:
    """Files that were written, and the columns as they were understood; a line for each.

    Attributes:
        prompts: None where each case has a text of its own.
    """

    recipe: Path
    prompts: Path | None
    said: list[str]


def write_own_recipe(table: Path, folder: Path) -> Written:
    """Look at a table and write a recipe for it, and a prompt file where it has classes; nothing is replaced.

    A table without classes and with a column of sentences gets a recipe of free text; one with both, the offer of it.

    Args:
        table: in the folder that its paths start from.

    Raises:
        DatasetError: the table cannot be read, or its columns do not say what is needed.
        RecipeError: one of the files exists.
    """
    guess = guess_columns(table)
    if not guess.fields and not guess.sentences:
        raise DatasetError(
            f"{table}: no column holds classes (2 to 12 values, each in several rows) that sentences could be made of, "
            "nor a sentence for each case. Add one, such as the diagnosis or the report."
        )
    name = re.sub(r"[^a-z0-9_-]+", "_", table.resolve().parent.name.lower()).strip("_-") or "own"
    recipe, prompts = folder / f"{name}.yaml", folder / f"{name}_prompts.yaml"
    for path in (recipe, prompts):
        if path.exists():
            raise RecipeError(f"{path}: exists, and is not replaced. Remove it, or name another folder.")
    opening = OPENING.format(recipe=recipe) + _describe_free_text(guess)
    if guess.fields:
        write_text(prompts, PROMPTS_OPENING + dump_yaml({"fields": _make_fields(guess)}))
        said: dict[str, object] = {"file": str(prompts.resolve())}
    else:
        said = {"column": guess.sentences[0]}
    write_text(recipe, opening + dump_yaml(_make_recipe(guess, name, said)))
    load_recipe(recipe)
    return Written(recipe, prompts if guess.fields else None, guess.said)


def _describe_free_text(guess: Guess) -> str:
    """Return the lines of a recipe about a column of sentences; none where the table has no such column."""
    if not guess.sentences:
        return ""
    column = guess.sentences[0]
    if not guess.fields:
        return FREE.format(column=column)
    named = next(iter(guess.fields))
    of_class = guess.columns.get("text", {}).get(named, named)
    return OFFER.format(column=column, class_column=f", class_column: {of_class}")


def _make_recipe(guess: Guess, name: str, prompts: dict[str, object]) -> dict[str, object]:
    (kind,) = (entry.name for entry in DATA_SETS.own if entry.reads_table)
    table = guess.table.resolve()
    dataset = dict[str, object](kind=kind, root=str(table.parent), table=table.name)
    return {
        "name": name,
        "dataset": dataset | ({"columns": guess.columns} if guess.columns else {}),
        "prompts": prompts,
        "text_encoder": {"name": STAND_IN},
        "optim": {"epochs": EPOCHS},
        "bench": {"seeds": list(SEEDS)},
    }


def _make_fields(guess: Guess) -> dict[str, object]:
    return {name: _make_field(name.replace("_", " "), classes) for name, classes in guess.fields.items()}


def _make_field(label: str, classes: list[str]) -> dict[str, object]:
    """Return a field of the prompt file; each class's wrong one is the next."""
    described = {
        value: {
            "training": [form.format(field=label, value=value) for form in TRAINING],
            "held_out": [form.format(field=label, value=value) for form in HELD_OUT],
        }
        for value in classes
    }
    described[UNKNOWN] = {
        "training": [form.format(field=label) for form in TRAINING_UNKNOWN],
        "held_out": [form.format(field=label) for form in HELD_OUT_UNKNOWN],
    }
    return {"classes": described, WRONG: dict(zip(classes, [*classes[1:], classes[0]], strict=True))}
