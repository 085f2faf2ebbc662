"""Shows the image audit of `prepare` in the report; experiments made before it existed have none."""

from collections.abc import Mapping
from typing import Any

from t2m_bench.data.image_audit import COUNTS, FLAGGED_SHARE, FLAGS, describe_storage
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import Table, make_table, show_percent

MEANINGS = {
    "few_values": "Ultrasound and CT have hundreds: this is a mask, or an image cut off at white or black.",
    "at_one_extreme": "The lesion and what is around it are hardly seen: saturated, black or padded.",
    "mask_values": "More than two values were cut at half of the largest; one value marks the whole image.",
    "mask_borders": "Background and lesion are perhaps exchanged: such a box is the whole image.",
    "mask_hollow": "The outline is drawn and not filled: Dice and box area are of a thin line.",
    "mask_parts": "One box is drawn around all components; no flag by itself.",
}


def find_flagged_share(results: Results) -> float:
    """Return the share of flagged cases: of the data set or of the test cases, the larger; 0 where unknown."""
    audits = [audit for audit in results.audits.values() if audit.get("images")]
    tests = sum(int(audit["cases"].get("test", 0)) for audit in audits)
    flagged_tests = sum(int(audit["images"]["flagged_by_split"]["test"]) for audit in audits)
    shares = [int(audit["images"]["flagged"]) / max(int(audit["images"]["cases"]), 1) for audit in audits]
    return max([0.0, flagged_tests / max(tests, 1), *shares])


def mark_flagged(results: Results) -> str:
    """Return what a verdict says where too many of its images are flagged; empty where they are not."""
    share = find_flagged_share(results)
    if share <= FLAGGED_SHARE:
        return ""
    return f"(The image audit flags {show_percent(share, signed=False)} of the cases: look at them first.)"


def make_image_table(results: Results) -> Table | None:
    """A row a count of the image audit, with what it means; None where images were not audited."""
    images = next((audit["images"] for audit in results.audits.values() if audit.get("images")), None)
    if images is None:
        return None
    counts: Mapping[str, int] = images["counts"]
    names = [name for name in COUNTS if name in counts]  # an earlier version counted fewer
    rows = [("Images and masks", str(images["cases"]), f"{describe_storage(images)}.")]
    rows += [(_capitalise(COUNTS[name]), str(counts[name]), MEANINGS[name]) for name in names]
    rows.append(("Flagged cases", str(images["flagged"]), _tell_splits(results)))
    numbers: list[dict[str, Any]] = [{"what": "cases", "count": images["cases"], "flags": False}]
    numbers += [{"what": name, "count": counts[name], "flags": name in FLAGS} for name in names]
    numbers.append({"what": "flagged", "count": images["flagged"], "flags": True})
    note = (
        f"A case is flagged by any count but the last; more than {FLAGGED_SHARE:.0%} flagged cases are said beside the "
        "verdicts. `prepare --strict` refuses them."
    )
    return make_table(
        "image_audit", "How images and masks are stored", note, ("What", "Cases", "Meaning"), rows, numbers
    )


def _tell_splits(results: Results) -> str:
    of_folds = {fold: audit["images"] for fold, audit in results.audits.items() if audit.get("images")}
    told = (
        f"fold {fold}: " + ", ".join(f"{name} {count}" for name, count in images["flagged_by_split"].items())
        for fold, images in of_folds.items()
    )
    return f"In the splits of {'; '.join(told)}."


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
