"""Draw another patient's text of another class for each test case, in time linear in the cases."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2m_bench.data.case import Case
from t2m_bench.recipe.conditions import UNKNOWN

Values = tuple[str, ...]
Positions = NDArray[np.int64]


def list_values(case: Case, fields: Sequence[str]) -> Values:
    """Return the case's values of the text fields in their order."""
    return tuple(case.text_fields[name] for name in fields)


@dataclass(frozen=True)
class _Left:
    """Positions left out of 0, 1, 2, ...

    Attributes:
        positions: ascending. num_kept_before: for each of them, how many smaller positions are kept.
    """

    positions: Positions
    num_kept_before: Positions

    @classmethod
    def out(cls, positions: Sequence[int] | Positions) -> "_Left":
        """Leave out these ascending positions."""
        left = np.asarray(positions, dtype=np.int64)
        return cls(left, left - np.arange(len(left)))

    def find(self, number: int) -> int:
        """Return the position that is `number`-th (from 0) among the kept ones."""
        return number + int(np.searchsorted(self.num_kept_before, number + 1))

    def rank(self, positions: Positions) -> Positions:
        """Return the numbers of these kept positions among the kept ones."""
        ranks: Positions = positions - np.searchsorted(self.positions, positions)
        return ranks


class Donors:
    """Cases whose class is known in every field, grouped by class and by patient once.

    A draw is uniform over the cases of other patients with another class. It counts them in the order of the cases
    and costs a binary search, with no list of them.
    """

    def __init__(self, cases: Sequence[Case], fields: Sequence[str]) -> None:
        self._fields = tuple(fields)
        self._known = [case for case in cases if UNKNOWN not in list_values(case, fields)]
        of_class: dict[Values, list[int]] = defaultdict(list)
        of_patient: dict[str, list[int]] = defaultdict(list)
        for position, case in enumerate(self._known):
            of_class[list_values(case, fields)].append(position)
            of_patient[case.patient_id].append(position)
        self._without_class = {values: _Left.out(positions) for values, positions in of_class.items()}
        self._of_patient = of_patient
        self._without_patient: dict[tuple[str, Values], _Left] = {}

    def draw(self, case: Case, rng: np.random.Generator) -> Case | None:
        """Return a case of another patient with another class, each as probable; None where there is none."""
        values = list_values(case, self._fields)
        without_class = self._without_class.get(values, _NOTHING_LEFT_OUT)
        without_patient = self._leave_out_patient(case.patient_id, values, without_class)
        num_others = len(self._known) - len(without_class.positions) - len(without_patient.positions)
        if num_others == 0:
            return None
        return self._known[without_class.find(without_patient.find(int(rng.integers(num_others))))]

    def _leave_out_patient(self, patient: str, values: Values, without_class: _Left) -> _Left:
        """Return the patient's cases of other classes, counted among all cases of other classes."""
        key = (patient, values)
        if key not in self._without_patient:
            own = np.asarray(
                [
                    position
                    for position in self._of_patient.get(patient, ())
                    if list_values(self._known[position], self._fields) != values
                ],
                dtype=np.int64,
            )
            self._without_patient[key] = _Left.out(without_class.rank(own))
        return self._without_patient[key]


_NOTHING_LEFT_OUT = _Left.out(())
