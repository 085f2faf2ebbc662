"""An axis of the space that a sweep searches, and the values on it."""

import math
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from t2m_bench.recipe.typed_yaml import Section

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr

MOST_PROBES = 1000
"""Values of an axis that are all tried in the recipe before the first trial."""


class Axis(Section):
    """One key of the recipe: a range, or choices; under `when` only in trials where other axes have these values."""

    low: StrictInt | StrictFloat | None = None
    high: StrictInt | StrictFloat | None = None
    log: bool = False
    integer: bool = False
    step: Annotated[float, Field(gt=0.0)] | None = None
    choices: tuple[Scalar, ...] | None = None
    when: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)

    @property
    def is_range(self) -> bool:
        """Return whether values lie between `low` and `high`."""
        return self.choices is None

    def find_problem(self) -> str | None:
        """Return what is wrong with the axis by itself."""
        if self.choices is not None:
            if self.low is not None or self.high is not None:
                return f"low = {self.low}, high = {self.high} beside choices: give either choices or low and high"
            if self.log or self.integer or self.step is not None:
                name = "log" if self.log else "integer" if self.integer else "step"
                return f"choices = {list(self.choices)}: {name} means nothing beside choices; leave it out"
            if not self.choices:
                return "choices = []: an axis has at least two"
            if any(one == other for place, one in enumerate(self.choices) for other in self.choices[:place]):
                return f"choices = {list(self.choices)}: one stands twice"
            if len(self.choices) < 2:
                return f"choices = {list(self.choices)}: one choice is no axis; put it into overrides"
            return None
        if self.low is None or self.high is None:
            return f"low = {self.low}, high = {self.high}: give low and high, or choices"
        if not self.low < self.high:
            return f"the range from {self.low} to {self.high} is empty; low must be below high"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"low = {self.low}, high = {self.high}: both must be finite"
        if self.log and self.low <= 0:
            return f"low = {self.low}: a log range lies above 0"
        if self.log and self.step is not None:
            return f"step = {self.step:g}: log and step exclude each other"
        if self.integer and (self.low % 1 or self.high % 1 or (self.step or 1) % 1):
            step = "" if self.step is None else f", step = {self.step:g}"
            return f"low = {self.low}, high = {self.high}{step}: an integer range has whole numbers"
        if self._count_steps() == 0:
            return f"step = {self.step:g} is wider than the range from {self.low} to {self.high}: one value is no axis"
        return None

    def list_values(self) -> list[Any] | None:
        """Return every value, or None where there is no end of them."""
        if self.choices is not None:
            return list(self.choices)
        number = self._count_steps()
        return None if number is None else [self._step_to(place) for place in range(number + 1)]

    def list_probes(self) -> list[Any]:
        """Return values that show whether all are allowed: each of them, or the ends and one within of very many."""
        number = None if self.choices is not None else self._count_steps()
        if self.low is not None and self.high is not None and (number is None or number > MOST_PROBES):
            within = self.low + (self.high - self.low) / math.pi  # no integer, so that a range of floats is seen as one
            return [self.low, within if number is None else self._step_to(int(number / math.pi)), self.high]
        return self.list_values() or []

    def count_values(self) -> int | None:
        """Return how many values there are, or None where there is no end of them."""
        if self.choices is not None:
            return len(self.choices)
        number = self._count_steps()
        return None if number is None else number + 1

    def _count_steps(self) -> int | None:
        """Return the steps from end to end of a range, or None where there is no step."""
        assert self.low is not None
        assert self.high is not None
        step = self.step or (1 if self.integer else None)
        return None if step is None else int((self.high - self.low) / step + 1e-9)

    def _step_to(self, place: int) -> float:
        step = Decimal(str(self.step or 1))
        value = Decimal(str(self.low)) + place * step  # 0.1 + 2 x 0.1 is not 0.3 in binary
        return int(value) if self.integer else float(value)

    def list_extremes(self) -> list[Any]:
        """Return the choices, or both ends of the range."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def allows(self, name: str) -> tuple[Any, ...]:
        """Return the values of another axis under which this one exists."""
        wanted = self.when[name]
        return wanted if isinstance(wanted, tuple) else (wanted,)
