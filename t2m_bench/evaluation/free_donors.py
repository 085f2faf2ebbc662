"""Draw another patient's free text for each test case: one that says something else."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.embedding.text_table import FreeTexts

NEAR = 0.95
"""Cosine, after subtracting the mean training embedding, above which two texts say the same."""

Chosen = NDArray[np.bool_]


class FreeDonors:
    """The test cases that have a text, and which of their texts say nearly the same."""

    def __init__(self, cases: Sequence[Case], free: FreeTexts) -> None:
        self._cases = [case for case in cases if case.text_fields[free.text_field] != UNKNOWN]
        self._field, self._class_field = free.text_field, free.class_field
        own = [case.text_fields[free.text_field] for case in self._cases]
        values = sorted(set(own))
        self._place = {value: place for place, value in enumerate(values)}
        self._texts = np.array([self._place[value] for value in own], dtype=np.int64)
        self._patients = np.array([case.patient_id for case in self._cases])
        self._classes = np.array([self._find_class(case) for case in self._cases])
        self._directions = np.array([free.directions[value] for value in values])

    def draw(self, case: Case, rng: np.random.Generator) -> Case | None:
        """Return a case of another patient whose text says something else, of another class where there is one."""
        allowed = self._find_allowed(case)
        if allowed is None:
            return None
        own = self._find_class(case)
        apart = allowed & (self._classes != own) & (self._classes != UNKNOWN)
        return self._choose(apart if own != UNKNOWN and apart.any() else allowed, rng)

    def draw_of(self, case: Case, name: str, rng: np.random.Generator) -> Case | None:
        """Return a case of another patient with a class, whose text is not nearly this case's own."""
        allowed = self._find_allowed(case)
        return None if allowed is None else self._choose(allowed & (self._classes == name), rng)

    def compute_near_share(self) -> float:
        """Return which share of other patients' texts is left out, since they say what the case's own does."""
        others = near = 0
        for case in self._cases:
            is_other = self._patients != case.patient_id
            others += int(is_other.sum())
            near += int((is_other & self._find_near(case)).sum())
        return near / others if others else 0.0

    def _find_class(self, case: Case) -> str:
        return case.text_fields[self._class_field] if self._class_field else UNKNOWN

    def _find_allowed(self, case: Case) -> Chosen | None:
        """Return (N,): whether each case may give this one its text; None where this one has no text."""
        if case.text_fields[self._field] == UNKNOWN:
            return None
        allowed: Chosen = (self._patients != case.patient_id) & ~self._find_near(case)
        return allowed

    def _find_near(self, case: Case) -> Chosen:
        """Return (N,): whether each case's text is this one's, or nearly."""
        place = self._place[case.text_fields[self._field]]
        is_near = self._directions @ self._directions[place] > NEAR
        is_near[place] = True
        near: Chosen = is_near[self._texts]
        return near

    def _choose(self, allowed: Chosen, rng: np.random.Generator) -> Case | None:
        places = np.flatnonzero(allowed)
        return self._cases[int(places[rng.integers(len(places))])] if len(places) else None
