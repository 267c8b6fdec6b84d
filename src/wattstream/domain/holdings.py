"""What is held: counts of readings, refused records, repairs."""

from dataclasses import dataclass
from typing import NamedTuple

from wattstream.domain.readings import Rejection


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
    """A rejection as listed."""

    rejection_id: int
    rejected_at_us: int
    rejection: Rejection


@dataclass(frozen=True, slots=True)
class Repair:
    """What a refresh found."""

    buckets_checked: int
    buckets_repaired: int
