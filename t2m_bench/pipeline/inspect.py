"""Makes a page on which a person sees whether image, mask and text belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.data.free_text import FreeTextBook
from t2m_bench.data.image_audit import load_image_audit
from t2m_bench.data.images import load_annotated, load_mask
from t2m_bench.data.manifest import load_manifest
from t2m_bench.data.prompts import PromptBook, load_prompts
from t2m_bench.errors import DatasetError, UserError
from t2m_bench.files import write_text
from t2m_bench.pipeline.prepare import MANIFEST_NAME, Prepared, prepare
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.schema import Recipe
from t2m_bench.reporting.inspection import Card, Page, make_card, render_page
from t2m_bench.terminal import Terminal

PAGE_NAME = "inspect.html"
"""The page lies in the prepared folder, for the owner alone. It has pseudonyms, but beside the pixels: whoever has the
images too can tell which pseudonym is whose, and a scanner may have written a name into them."""

LISTED_FAILURES = 5
"""Number of unreadable files that a message names."""


@dataclass(frozen=True)
class Inspected:
    """Outcome of an inspection.

    Attributes:
        num_drawn: cases that chance chose. num_flagged: cases with flags, all of them shown.
        num_bytes: of the page.
        num_shown: cases on the page: drawn ones, and the flagged ones that are not among them.
        failures: one message for each case shown without pictures; names its file, not its pseudonym.
        are_made: whether images and masks were made by `prepare`, which makes them again.
    """

    page: Path
    num_shown: int
    num_drawn: int
    num_flagged: int
    num_bytes: int
    failures: tuple[str, ...]
    are_made: bool

    def describe_failures(self) -> str:
        """Return in words how many cases have no pictures, which files are at fault, and the way out."""
        more = len(self.failures) - LISTED_FAILURES
        listed = [*self.failures[:LISTED_FAILURES], *([f"and {more} more"] if more > 0 else [])]
        mend = f"\nRemove {self.page.parent} to have them made again." if self.are_made else ""
        return "\n  ".join([f"{len(self.failures)} of {self.num_shown} cases have no pictures:", *listed]) + mend


def inspect(recipe: Recipe, runs: Path, num_cases: int, seed: int, terminal: Terminal) -> Inspected:
    """Prepare the data set where that is missing, and write the page of some random and all flagged cases.

    A case whose image or mask cannot be read is shown without pictures; the others go on.

    Raises:
        UserError: fewer than one case, or a negative seed; or as `prepare`.
    """
    check_numbers(num_cases, seed)
    prepared = prepare(recipe, runs, terminal)
    book = prepared.free or load_prompts(recipe.prompts.file, recipe.prompts.family)
    flags = find_flags(prepared)
    drawn = choose_cases(prepared.cases, num_cases, np.random.default_rng(seed))
    known = {case.case_id for case in drawn}
    flagged = sorted(
        (case for case in prepared.cases if case.case_id in flags and case.case_id not in known),
        key=lambda case: (flags[case.case_id], case.case_id),
    )
    cards, failures = _make_cards(prepared.root, [*drawn, *flagged], book, flags, terminal)
    page = Page(
        recipe.name,
        DATA_SETS.find(recipe.dataset.kind).label,
        seed,
        prepared.audit.selection,
        prepared.cases,
        book,
        flags,
    )
    path = prepared.folder / PAGE_NAME
    write_text(path, render_page(page, cards[: len(drawn)], cards[len(drawn) :]), private=True)
    num_bytes, are_made = path.stat().st_size, prepared.root == prepared.folder
    return Inspected(path, len(cards), len(drawn), len(flags), num_bytes, tuple(failures), are_made)


def check_numbers(num_cases: int, seed: int) -> None:
    """Refuse numbers that show nothing.

    Raises:
        UserError: fewer than one case, or a negative seed.
    """
    if num_cases < 1:
        raise UserError(f"inspect: --cases {num_cases} shows nothing; give 1 or more.")
    if seed < 0:
        raise UserError(f"inspect: --seed {seed} is negative; give 0 or more.")


def find_flags(prepared: Prepared) -> Mapping[str, tuple[str, ...]]:
    """Return case_id -> its flags, of the cases that have some: the reader's, and those of the image audit.

    The audit names cases as the source does, in the order of the manifest, which is that of the pseudonyms too.
    """
    audited = {finding.case_id: finding.list_flags() for finding in load_image_audit(prepared.folder) or ()}
    named = load_manifest(prepared.folder / MANIFEST_NAME)
    flags = {
        case.case_id: (*case.flags, *audited.get(source.case_id, ()))
        for case, source in zip(prepared.cases, named, strict=True)
    }
    return {name: found for name, found in flags.items() if found}


def choose_cases(cases: Sequence[Case], number: int, rng: np.random.Generator) -> list[Case]:
    """Draw cases without repeats, all of them where there are no more, in an order that tells nothing of the source."""
    places = rng.choice(len(cases), size=min(number, len(cases)), replace=False)
    return [cases[place] for place in places]


def _make_cards(
    root: Path,
    cases: Sequence[Case],
    book: PromptBook | FreeTextBook,
    flags: Mapping[str, tuple[str, ...]],
    terminal: Terminal,
) -> tuple[list[Card], list[str]]:
    """Return a card a case, and a message for each that has no pictures."""
    cards, failures = [], []
    with terminal.watch("cases shown", len(cases)) as advance:
        for done, case in enumerate(cases, start=1):
            image, mask, problem = None, None, ""
            try:
                image, mask = _load(root, case, "image"), _load(root, case, "mask")
            except _CannotShowError as error:
                problem = error.problem
                failures.append(str(error))
            cards.append(make_card(case, book, flags.get(case.case_id, ()), image, mask, problem))
            advance(done, len(cases))
    return cards, failures


class _CannotShowError(Exception):
    """Says why a case cannot be shown; `problem` says it without a file's name, for the page."""

    def __init__(self, message: str, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


def _load(root: Path, case: Case, what: Literal["image", "mask"]) -> NDArray[Any]:
    """Return the image or the mask of a case, (H, W) as the manifest has it.

    Raises:
        _CannotShowError: it is missing, cannot be read, or has another size.
    """
    path = root / (case.image_path if what == "image" else case.mask_path)
    try:
        pixels: NDArray[Any] = load_annotated(root, case) if what == "image" else load_mask(root, case)
    except DatasetError as error:
        found = "cannot be read" if path.is_file() else "is missing"
        raise _CannotShowError(str(error), f"The {what} {found}.") from None
    height, width = pixels.shape
    if (height, width) != (case.height, case.width):
        other = f"{width} x {height} px, but {case.width} x {case.height} px when it was prepared"
        raise _CannotShowError(f"{path}: {other}. Unpack the data set again.", f"The {what} has {other}.")
    return pixels
