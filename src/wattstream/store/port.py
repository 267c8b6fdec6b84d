"""What the floors above may ask of a store; every backend obeys the same behaviour suite."""

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wattstream.domain.access import Reach
from wattstream.domain.devices import Device, DeviceChange, PendingRules
from wattstream.domain.falls import Fall
from wattstream.domain.holdings import (
    KeptRejection,
    RejectionCount,
    Repair,
    StreamStats,
    WantedRejections,
)
from wattstream.domain.links import Feeds, KeptLink
from wattstream.domain.readings import Readings, Rejection, Stream
from wattstream.domain.rollup import Runs
from wattstream.domain.units import Bool, Float64, Int64


class Verdict(enum.IntEnum):
    """What became of a reading."""

    STORED = 0
    DUPLICATE = 1
    CONFLICT = 2
    REFUSED = 3


class Values(NamedTuple):
    """The values of one reading: energy in micro-kWh, optional fields with NaN for absent."""

    energy_ukwh: int
    fields: tuple[float, ...]


class Stage(enum.StrEnum):
    """A part of a flush's time."""

    PACK = "pack"  # sorted and computed, without the database
    WAIT = "wait"  # for the flush before it, and for attempts that failed
    WRITE = "write"  # the transaction up to the end of its commit


class Progress(enum.Enum):
    """How far a large flush is."""

    HALF = enum.auto()  # the database has about half of its work done
    SENT = enum.auto()  # only the commit is left


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a committed flush of n readings.

    Attributes:
        verdicts: A Verdict for each row, int8[n].
        standing: The values that stand, by row, for each conflict.
        refused: Code and message, by row, for each reading that the store refused.
        late: Rows that were looked up in history: not newer than their device's newest reading.
        stage_s: Where the time went, seconds.
    """

    verdicts: NDArray[np.int8]
    standing: dict[int, Values] = field(default_factory=dict)
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    late: int = 0
    stage_s: Mapping[Stage, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest reading of a device.

    Attributes:
        at_us: Measured at; NEVER_US where the device has no reading.
        received_at_us: When it came.
        values: As sent.
        delta_ukwh: Its energy difference, micro-kWh: what it added, plausible or not.
    """

    at_us: int
    received_at_us: int
    values: Values
    delta_ukwh: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some readings of a device.

    Attributes:
        energy_ukwh: Counted energy, micro-kWh.
        suspect_ukwh: Energy left out as not plausible, micro-kWh.
        readings: How many.
        sums_micro: Per optional field, the sum in millionths of its unit.
        counts: Per optional field, how many readings had it.
    """

    energy_ukwh: int
    suspect_ukwh: int
    readings: int
    sums_micro: tuple[int, ...]
    counts: tuple[int, ...]

    def __add__(self, other: "Totals") -> "Totals":
        """Return the sums over both sets of readings."""
        return Totals(
            self.energy_ukwh + other.energy_ukwh,
            self.suspect_ukwh + other.suspect_ukwh,
            self.readings + other.readings,
            tuple(a + b for a, b in zip(self.sums_micro, other.sums_micro, strict=True)),
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class RawBucket:
    """Readings of one device, one bucket or more, n rows in time order, and what came before.

    Attributes:
        carry: (at_us, ukwh) of the two readings before the first, newest first; NEVER_US for
            none, or where the device's rules do not look back.
        at_us: int64[n].
        energy_ukwh: Values as sent, int64[n].
        values: Optional fields, float64[n, k].
    """

    carry: tuple[tuple[int, int], tuple[int, int]]
    at_us: Int64
    energy_ukwh: Int64
    values: Float64


@dataclass(frozen=True, slots=True)
class Quarters:
    """Sums of a device by quarter-hour, columns of n rows in time order; none is without readings.

    Attributes:
        at_us: Starts, int64[n].
        energy_ukwh: Counted energy, int64[n].
        suspect_ukwh: Energy left out as not plausible, int64[n].
        readings: How many, int64[n].
        sums_micro: Per optional field, the sum in millionths of its unit, int64[n, k].
        counts: Per optional field, how many readings had it, int64[n, k].
    """

    at_us: Int64
    energy_ukwh: Int64
    suspect_ukwh: Int64
    readings: Int64
    sums_micro: Int64
    counts: Int64


@dataclass(frozen=True, slots=True)
class Window:
    """What is wanted of one device.

    Attributes:
        device: The device.
        first_us: Start of the first whole bucket.
        last_us: End of the last one; first_us for none.
        edges: Starts of the buckets to be read, at most two.
    """

    device: Device
    first_us: int
    last_us: int
    edges: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceTotals:
    """Totals of n devices of one stream, sorted by key.

    Attributes:
        key: Device keys, int64[n].
        sums: A row for each of the stream's `sum_columns`, int64[c, n].
    """

    key: Int64
    sums: Int64

    def of(self, keys: Int64) -> "DeviceTotals":
        """Return the totals of those of some devices that are there."""
        is_wanted = np.isin(self.key, keys)
        return DeviceTotals(self.key[is_wanted], self.sums[:, is_wanted])

    @property
    def energy_ukwh(self) -> Int64:
        """Counted energy, micro-kWh, int64[n]."""
        return np.asarray(self.sums[0])

    @property
    def readings(self) -> Int64:
        """How many readings, int64[n]."""
        return np.asarray(self.sums[2])


@dataclass(frozen=True, slots=True)
class FleetFeeds:
    """Which meters feed which vehicles, as columns of n links.

    Attributes:
        vehicle: Device keys, int64[n].
        meter: Device keys, int64[n].
        start_us: int64[n]; NEVER_US: since always.
        end_us: int64[n]; FOREVER_US: still.
        is_twin: By the same-id rule, bool[n].
    """

    vehicle: Int64
    meter: Int64
    start_us: Int64
    end_us: Int64
    is_twin: Bool


class Snapshot(Protocol):
    """One consistent view of the store; every answer is made from one."""

    async def device(self, stream: Stream, external_id: str) -> Device | None:
        """Return a device, or None where it was never seen."""

    async def devices(self, stream: Stream, after: str, limit: int) -> list[Device]:
        """Return up to `limit` devices with ids above `after`, by id in code point order."""

    async def pending_rules(self, devices: Sequence[Device]) -> dict[int, PendingRules]:
        """Return, by key, the rules that some of the devices get once they are recomputed."""

    async def latest(self, device: Device) -> Latest:
        """Return the newest reading of a device."""

    async def falls(self, device: Device, after_us: int, limit: int) -> list[Fall]:
        """Return up to `limit` falls of a device's register after a time, oldest first."""

    async def vehicle(self, external_id: str, *, same_id: bool) -> tuple[Device | None, Feeds]:
        """Return a vehicle, or None, with its links and, where `same_id`, its twin meter."""

    async def links(
        self, after: int, limit: int, *, meter: str | None = None, vehicle: str | None = None
    ) -> list[KeptLink]:
        """Return up to `limit` links with ids above `after`, of a meter, a vehicle or all."""

    async def fleet_feeds(self, *, same_id: bool) -> FleetFeeds:
        """Return the links of all vehicles, with twins where `same_id`."""

    async def keyed(self, stream: Stream, keys: Sequence[int]) -> dict[int, Device]:
        """Return devices of a stream by key."""

    async def named(self, keys: Sequence[int]) -> dict[int, str]:
        """Return the outside ids of devices by key."""

    async def windows(self, wanted: Sequence[Window]) -> list[tuple[Totals, list[RawBucket]]]:
        """Return, for each window, the sums of its whole buckets and the readings of its edges."""

    async def span(self, device: Device, start_us: int, end_us: int) -> tuple[int, int] | None:
        """Return the times of the first and last reading in [start_us, end_us), or None."""

    async def raw_readings(
        self, device: Device, start_us: int, end_us: int, limit: int
    ) -> RawBucket:
        """Return the first `limit` readings measured in [start_us, end_us); `limit` is above 0."""

    async def quarters(self, device: Device, start_us: int, end_us: int, limit: int) -> Quarters:
        """Return the sums of the first `limit` quarter-hours that start in [start_us, end_us)."""

    async def fleet_totals(self, stream: Stream, start_us: int) -> DeviceTotals:
        """Sum, per device, every bucket that starts at or after `start_us`, a bucket start."""

    async def sums_within(
        self, stream: Stream, key: Int64, first_us: Int64, last_us: Int64
    ) -> Int64:
        """Sum what devices counted over [first, last), each over whole buckets of its own.

        Returns:
            Counted energy, micro-kWh, and readings, int64[2, n], in the order asked.
        """

    async def buckets(self, stream: Stream, key: Int64, bucket_us: Int64) -> tuple[Runs, Int64]:
        """Return the readings of n buckets, at least one, each of one device.

        Returns:
            A run for each bucket that has readings, and which of the n buckets each run is.
        """

    async def labelled(self, stream: Stream) -> dict[str | None, Int64]:
        """Return the keys of all devices by fleet label; None: those without."""

    async def reached(self, stream: Stream, reach: Reach) -> Int64:
        """Return the keys of the devices of a stream within a reach, ascending."""

    async def of_fleet(self, stream: Stream, fleet: str, ids: Sequence[str]) -> set[str]:
        """Return those of some outside ids whose devices have a fleet label."""

    async def stats(self, stream: Stream) -> StreamStats:
        """Return what is held of a stream, without touching history."""

    async def newest(self, stream: Stream) -> int:
        """Return the time of a stream's newest reading; NEVER_US where there is none."""

    async def rejections(
        self, wanted: WantedRejections, after: int | None, limit: int
    ) -> list[KeptRejection]:
        """Return up to `limit` rejections in the wanted order, those after an id or all."""

    async def rejection_counts(self) -> list[RejectionCount]:
        """Return how many records were ever refused, by stream and code."""


class Records(Protocol):
    """What may be asked and changed; its methods raise StoreUnavailableError."""

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Open a consistent view; held only as long as one answer takes."""

    async def change_device(
        self, stream: Stream, external_id: str, change: DeviceChange
    ) -> tuple[Device, bool]:
        """Change or make a device and recompute its totals where a rule changed.

        A device with a long history keeps its rules until `recompute` has done so.

        Returns:
            The device as it is now, and whether it was made.
        """

    async def add_link(self, meter: str, vehicle: str, start_us: int, end_us: int) -> KeptLink:
        """Link a meter to a vehicle over [start_us, end_us); devices that are new are made.

        Raises:
            OverlapError: The meter feeds a vehicle at some of that time.
        """

    async def end_link(self, link_id: int, end_us: int) -> KeptLink:
        """Set the end of a link.

        Raises:
            NotFoundError: There is no such link.
            ReadingError: The end is not after the start.
            OverlapError: The meter feeds a vehicle at some of the added time.
        """

    async def delete_link(self, link_id: int) -> None:
        """Remove a link, as if it had never been.

        Raises:
            NotFoundError: There is no such link.
        """

    async def refresh(self, start_us: int, end_us: int) -> Repair:
        """Recompute every bucket that touches [start_us, end_us) and repair what differs."""

    async def ping(self) -> None:
        """Return when the database answers."""


class Store(Records, Protocol):
    """Where readings are written; its methods raise StoreUnavailableError."""

    async def write(
        self,
        readings: Readings,
        received_at_us: int,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Written:
        """Write readings of one stream in one transaction: history, live state, rollups.

        Returns only after the commit is on disk. One call at a time per stream, and a second
        from when `on_progress` is called; the second is written after the first.
        """

    async def keep(
        self, rejections: Sequence[Rejection], rejected_at_us: int, key: str | None = None
    ) -> None:
        """Keep what was refused, and the prefix of the key that it came with."""

    async def prune(self, oldest_us: int, max_bytes: int) -> int:
        """Drop kept rejections from before a time, and the oldest beyond a size.

        Returns:
            How many were dropped; counts by code stay.
        """

    async def recompute(self) -> None:
        """Recompute devices whose rules changed, whoever changed them, until cancelled."""

    async def prepare(self, now_us: int) -> None:
        """Make what the next days need, such as partitions."""
