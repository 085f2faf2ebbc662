"""One answer of the report in plain language, and the figures that verdicts are worded with."""

from dataclasses import dataclass

from t2m_bench.reporting.evidence import tell_patients
from t2m_bench.reporting.table import show_change, show_interval, show_p
from t2m_bench.statistics.crossed import Contrast
from t2m_bench.statistics.decision import Decision, Outcome


@dataclass(frozen=True)
class Verdict:
    """One answer. `question` and `headline` are short, `sentences` say why.

    Attributes:
        decision: the figures and the reason behind the outcome.
    """

    key: str
    question: str
    outcome: Outcome
    headline: str
    sentences: tuple[str, ...]
    decision: Decision | None = None


def tell_difference(contrast: Contrast, with_p: bool = True) -> str:
    """Return a difference of Dice with its interval, its p where asked, and its patients."""
    p = f"p {show_p(contrast.p)}, " if with_p else ""
    return (
        f"{show_change(contrast.mean)} Dice, 95 % interval {show_interval(contrast.low, contrast.high)}, "
        f"{p}{tell_patients(contrast)}"
    )
