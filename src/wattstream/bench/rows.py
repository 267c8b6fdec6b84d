"""A line of the benchmark's result."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the result.

    Attributes:
        part: Which part measured it.
        case: What was sent.
        rate: Readings a second; of the references, rows or requests; of answers, answers.
        ratio: Of the reference of the same run, or None for a reference.
        p50_ms: Time to the answer, median.
        p99_ms: And the 99th percentile.
        note: Failures, or the generator's CPU share.
    """

    part: str
    case: str
    rate: float
    ratio: float | None
    p50_ms: float | None = None
    p99_ms: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the row as JSON has it."""
        return asdict(self)
