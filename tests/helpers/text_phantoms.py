"""Phantoms with a known text effect as a user's own table: a report for each case, in several wordings a class."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.data.prompts import UNKNOWN, load_prompts
from t2m_bench.recipe.schema import Recipe, parse_recipe

FIELD = "birads"


def write_text_phantoms(folder: Path, cases: int, text_effect: float, seed: int = 0) -> Path:
    """Write phantoms and `cases.csv`: the class, a report of that class, the same in a held-out wording, a fold."""
    write_bus_bra_phantom(folder, num_cases=cases, seed=seed, text_effect=text_effect)
    found = pd.read_csv(folder / "bus_data.csv", dtype=str).sort_values("ID")
    folds = pd.read_csv(folder / "5-fold-cv.csv", dtype=str).set_index("ID")["kFold"]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(2**16, size=(len(found), 2))
    reports = [_choose(value, "training", pick) for value, pick in zip(found["BIRADS"], drawn[:, 0], strict=True)]
    others = [_choose(value, "held_out", pick) for value, pick in zip(found["BIRADS"], drawn[:, 1], strict=True)]
    table = pd.DataFrame(
        {
            "image": [f"Images/{name}.png" for name in found["ID"]],
            "mask": [f"Masks/mask_{name.removeprefix('bus_')}.png" for name in found["ID"]],
            "patient": found["Case"],
            "fold": list(folds[found["ID"]]),
            "birads": found["BIRADS"],
            "report": reports,
            "reworded": others,
        }
    )
    table.to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


def _choose(value: str, use: Any, pick: int) -> str:
    book = load_prompts(FIELD, "category")
    sentences = book.sentences(FIELD, value if value in book.classes(FIELD) else UNKNOWN, use)
    return sentences[pick % len(sentences)]


def make_text_recipe(table: Path, prompts: dict[str, Any], **sections: Any) -> Recipe:
    """Return a small recipe over such a table; `prompts` names the columns of free text, or the prompt file."""
    raw = {
        "name": "texts",
        "dataset": {"kind": "table", "root": str(table.parent), "table": table.name},
        "prompts": prompts,
        "text_encoder": {"name": "stand-in"},
        "optim": {"epochs": 1, "warmup_steps": 2, "global_batch_size": 8},
    }
    return parse_recipe(raw | sections, "test")
