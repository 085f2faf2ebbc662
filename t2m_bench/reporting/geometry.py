"""Says whether free text tells the size and the place of the mask, and for which boxes that matters."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from t2m_bench.reporting.counterfactuals import find_box_conditions
from t2m_bench.reporting.results import TIGHT, Results
from t2m_bench.reporting.table import Table, make_table, show_number

LEAST = 0.05
"""R2 that a text must tell, beyond class or box, to be warned of: the lower end of a 95 % interval."""

LABELS = {
    "log_area": "area",
    "log_aspect": "width over height",
    "centre_x": "place from left to right",
    "centre_y": "place from top to bottom",
    "log_fill": "share of the box",
}
PREDICTORS = {"class": "class", "text": "text", "box": "box", "box_text": "box and text"}

Fits = Mapping[str, Mapping[str, Any]]

FILL = "log_fill"
"""The only target that a tight box leaves open."""


def _list_fits(results: Results) -> Iterator[tuple[int, Fits]]:
    """Yield (test fold, target -> fit) of the folds that have an audit of the geometry."""
    for reference in results.references:
        fits = reference.probe.get("geometry")
        if fits:
            yield reference.fold, fits


def find_told(results: Results) -> dict[str, list[str]]:
    """Return box -> what the text tells of the mask beyond what is known without it, in any fold."""
    told: dict[str, list[str]] = {}
    for box in find_box_conditions(results):
        names = [FILL] if box == TIGHT else list(LABELS)
        limit = "low_given_box" if box == TIGHT else "low"
        lows = {name: max((fits[name][limit] for _, fits in _list_fits(results)), default=math.nan) for name in names}
        found = [LABELS[name] for name, low in lows.items() if low > LEAST]
        if found:
            told[box] = found
    return told


def list_geometry_warnings(results: Results) -> list[str]:
    """Return one sentence for the boxes of which the text tells the mask's geometry; none where it tells nothing."""
    by_told: dict[str, list[str]] = {}
    for box, names in find_told(results).items():
        by_told.setdefault(", ".join(names), []).append(box)
    beyond = "beyond the class" if results.fields else "by itself"
    return [
        f"The text tells the geometry of the mask {beyond} ({names}; boxes {', '.join(boxes)}): a gain there may come "
        "from a stated size or place. Compare with prompts.strip_numbers=true."
        for names, boxes in by_told.items()
    ]


def make_geometry_table(results: Results) -> Table | None:
    """Table of how well each target is predicted; None where texts are of classes."""
    rows, numbers = [], []
    for fold, fits in _list_fits(results):
        for name, fit in fits.items():
            found = {key: fit["r2"].get(key, math.nan) for key in PREDICTORS}
            shown = [show_number(found[key]) for key in PREDICTORS]
            rows.append((str(fold), LABELS[name], *shown, show_number(fit["low"]), show_number(fit["low_given_box"])))
            limits = {"low": fit["low"], "low_given_box": fit["low_given_box"]}
            numbers.append({"fold": fold, "target": name, **found, **limits})
    if not rows:
        return None
    note = (
        "R2 of a ridge regression of the reference mask's geometry, on patients that the fit did not see, within the "
        "training folds. Limits are the lower ends of 95 % bootstrap intervals over patients: of text less class (0 "
        f"where none is named), and of box and text less box and class. Above {LEAST:g} the report warns: with tight "
        "boxes of the share of the box alone, since such a box tells the rest; with other boxes of all."
    )
    columns = ("Fold", "Mask's", *PREDICTORS.values(), "Text - class, limit", "Given the box, limit")
    return make_table("geometry", "What the text tells of the mask's geometry", note, columns, rows, numbers)
