"""What is held: counts of readings, refused records, repairs."""

from dataclasses import dataclass
from typing import NamedTuple

from wattstream.domain.links import FOREVER_US
from wattstream.domain.readings import Rejection, Stream
from wattstream.domain.units import NEVER_US


class DayCount(NamedTuple):
    """Readings held of one UTC day, `day` as YYYY-MM-DD."""

    day: str
    readings: int


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What is held of one stream; times are NEVER_US where nothing is held."""

    devices: int
    first_at_us: int
    last_at_us: int
    days: list[DayCount]
    rejections: int


@dataclass(frozen=True, slots=True)
class KeptRejection:
    """A rejection as listed.

    Attributes:
        key: Prefix of the key that the record came with; None for none.
    """

    rejection_id: int
    rejected_at_us: int
    rejection: Rejection
    key: str | None = None


@dataclass(frozen=True, slots=True)
class WantedRejections:
    """Which rejections are asked for; all that is named must hold.

    Attributes:
        code: Of this rule.
        stream: Of this stream.
        device: Of the device with this outside id.
        start_us: Refused at or after.
        end_us: Refused before.
        newest_first: The order, else oldest first.
    """

    code: str | None = None
    stream: Stream | None = None
    device: str | None = None
    start_us: int = NEVER_US
    end_us: int = FOREVER_US
    newest_first: bool = False


class RejectionCount(NamedTuple):
    """How many records of a stream ever broke a rule, and when the last did.

    Attributes:
        stream: None where the records did not say.
        last_at_us: NEVER_US where it is not known any more.
    """

    stream: Stream | None
    code: str
    rejections: int
    last_at_us: int


@dataclass(frozen=True, slots=True)
class Repair:
    """What a refresh found."""

    buckets_checked: int
    buckets_repaired: int
