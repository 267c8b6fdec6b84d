"""What those who look on may ask of a store: live states as they change, lists, sums by time."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from wattstream.domain.devices import Device
from wattstream.domain.readings import Stream
from wattstream.domain.units import Int64
from wattstream.store.port import Latest, Snapshot

SortKey = Literal["id", "heard", "energy", "field1", "field2"]
"""`heard`: when a reading came last; `energy`: of the last day; then the optional fields."""
Shown = Literal["all", "reporting", "silent"]


@dataclass(frozen=True, slots=True)
class Versions:
    """The version of each live row of a stream, n rows in no order.

    Attributes:
        device: Keys, int64[n].
        version: Another number whenever what is shown of the device changes, int64[n].
        received_at_us: When the newest reading came, int64[n]; NEVER_US for none.
    """

    device: Int64
    version: Int64
    received_at_us: Int64


class LiveRow(NamedTuple):
    """A device and its newest reading.

    Attributes:
        latest: at_us is NEVER_US where the device has no reading.
        is_silent: Whether nothing was heard for as many heartbeats as its alert needs.
        day_ukwh: Energy of the 24 hours up to the end of its newest quarter-hour, micro-kWh.
    """

    device: Device
    latest: Latest
    is_silent: bool
    day_ukwh: int


@dataclass(frozen=True, slots=True)
class DeviceSearch:
    """Which devices of a list are wanted.

    Attributes:
        text: Part of the id or of the fleet label, any case; empty: all.
        offset: How many to pass over.
    """

    stream: Stream
    text: str
    shown: Shown
    sort: SortKey
    is_descending: bool
    offset: int
    limit: int


class Reported(NamedTuple):
    """How well the devices of a stream report.

    Attributes:
        devices: How many there are.
        silent: How many of them were heard, and are silent now.
        lag_s: From measured to received, median over those heard in the last five minutes; None
            for none.
        lag_p95_s: The same, 95th percentile.
    """

    devices: int
    silent: int
    lag_s: float | None
    lag_p95_s: float | None


class Tallies(NamedTuple):
    """What is counted: readings held, records refused ever, alerts open, and those unnoticed.

    Readings and rejections are counted over all devices only; None for some of them.
    """

    readings: int | None
    rejections: int | None
    alerts: int
    unnoticed: int


class ViewSnapshot(Snapshot, Protocol):
    """One consistent view with what pages and streams show."""

    async def versions(self, stream: Stream) -> Versions:
        """Return the version of every live row."""

    async def live_keyed(self, stream: Stream, keys: Int64) -> list[tuple[Device, Latest]]:
        """Return devices that have a reading, with the newest, by key."""

    async def live_named(self, stream: Stream, ids: Sequence[str]) -> list[tuple[Device, Latest]]:
        """Return devices that have a reading, with the newest, by outside id."""

    async def search(
        self, wanted: DeviceSearch, now_us: int, silent: float, within: Int64 | None = None
    ) -> tuple[list[LiveRow], int]:
        """Return a page of a list of devices, and how many devices the whole list has.

        Args:
            wanted: Which.
            now_us: The engine's clock.
            silent: Heartbeats without a reading that make a device silent, unless it has a
                number of its own.
            within: Only of devices with these keys; None: of all. The same in what follows.
        """

    async def reported(
        self, stream: Stream, now_us: int, silent: float, within: Int64 | None = None
    ) -> Reported:
        """Return how well the devices of a stream report; arguments as for `search`."""

    async def tallies(self, within: Int64 | None = None) -> Tallies:
        """Return what is counted, without touching history."""

    async def quarter_sums(
        self, stream: Stream, start_us: int, end_us: int, within: Int64 | None = None
    ) -> list[tuple[int, int]]:
        """Return start and energy of the quarter-hours in [start_us, end_us), devices together.

        Returns:
            (microseconds, micro-kWh), oldest first; a quarter-hour without readings is left out.
        """


class ViewStore(Protocol):
    """A store to look at; its methods raise StoreUnavailableError."""

    def snapshot(self) -> AbstractAsyncContextManager[ViewSnapshot]:
        """Open a consistent view."""
