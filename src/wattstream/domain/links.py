"""Which meter feeds which vehicle, and when."""

import enum
from dataclasses import dataclass

import numpy as np

from wattstream.domain.devices import Device
from wattstream.domain.errors import ConflictError
from wattstream.domain.units import NEVER_US, Int64

FOREVER_US = 2**63 - 1


class AcSource(enum.StrEnum):
    """Where a vehicle's AC energy comes from."""

    LINK = "link"
    SAME_ID = "same-id"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Link:
    """A meter that feeds a vehicle over [start_us, end_us).

    Attributes:
        meter: The meter.
        start_us: NEVER_US: since always.
        end_us: FOREVER_US: still.
    """

    meter: Device
    start_us: int = NEVER_US
    end_us: int = FOREVER_US

    def within(self, start_us: int, end_us: int) -> "Link | None":
        """Return the part of the link inside [start_us, end_us), or None."""
        start_us, end_us = max(self.start_us, start_us), min(self.end_us, end_us)
        return Link(self.meter, start_us, end_us) if start_us < end_us else None


@dataclass(frozen=True, slots=True)
class KeptLink:
    """A link as it was made, over [start_us, end_us), by outside ids."""

    link_id: int
    meter_id: str
    vehicle_id: str
    start_us: int
    end_us: int


class OverlapError(ConflictError):
    """The meter feeds a vehicle already at some of that time.

    Attributes:
        link: The earliest link in the way.
    """

    code = "link_overlaps"

    def __init__(self, link: KeptLink) -> None:
        super().__init__(
            f"meter {link.meter_id} already feeds vehicle {link.vehicle_id} in that time, by link "
            f"{link.link_id}: end or delete that link first",
            field="meterId",
        )
        self.link = link


@dataclass(frozen=True, slots=True)
class Feeds:
    """All that is known of a vehicle's meters.

    Attributes:
        links: Links that name the vehicle, of any time.
        twin: A meter of the same id that no link of any time names, linked for all time.
    """

    links: tuple[Link, ...] = ()
    twin: Link | None = None


def feeds_within(feeds: Feeds, start_us: int, end_us: int) -> tuple[list[Link], AcSource]:
    """Return the links that count in [start_us, end_us), cut to it, and their source.

    A vehicle named by a link of any time never falls back on the same-id rule.
    """
    if feeds.links:
        cut = [link.within(start_us, end_us) for link in feeds.links]
        inside = [link for link in cut if link is not None]
        return inside, AcSource.LINK if inside else AcSource.NONE
    if feeds.twin is not None:
        inside_twin = feeds.twin.within(start_us, end_us)
        return ([inside_twin], AcSource.SAME_ID) if inside_twin else ([], AcSource.NONE)
    return [], AcSource.NONE


def covered(key: Int64, start_us: Int64, end_us: Int64) -> tuple[Int64, Int64, Int64]:
    """Return the times that ranges of some keys cover together.

    Args:
        key: Whose range it is, int64[n].
        start_us: Inclusive, int64[n].
        end_us: Exclusive, int64[n], each after its start.

    Returns:
        Key, start and end of ranges that neither overlap nor touch, by key and start.
    """
    if len(key) == 0:
        return key, start_us, end_us
    order = np.lexsort((start_us, key))
    key, start_us, end_us = key[order], start_us[order], end_us[order]
    # The furthest end so far: in the order of (key, end), a running maximum never mixes keys.
    ends, rank = np.unique(end_us, return_inverse=True)
    number = np.unique(key, return_inverse=True)[1]
    furthest = ends[np.maximum.accumulate(number * len(ends) + rank) % len(ends)]
    begins = np.concatenate([[True], (key[1:] != key[:-1]) | (start_us[1:] > furthest[:-1])])
    first = np.flatnonzero(begins)
    return key[first], start_us[first], furthest[np.append(first[1:], len(key)) - 1]
