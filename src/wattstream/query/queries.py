"""All answers of an engine behind one object: the floors above see no store."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from wattstream.domain.devices import Device, DeviceChange, PendingRules
from wattstream.domain.falls import Fall
from wattstream.domain.holdings import (
    KeptRejection,
    RejectionCount,
    Repair,
    StreamStats,
    WantedRejections,
)
from wattstream.domain.links import KeptLink
from wattstream.domain.readings import Stream
from wattstream.query import history, latest
from wattstream.query.clock import VehicleClocks, vehicle_clocks
from wattstream.query.fleet import FleetPerformance, Fleets, fleet_performance, fleets
from wattstream.query.low_efficiency import Alerts, low_efficiency
from wattstream.query.performance import Performance, performance
from wattstream.store.port import Records

Settled = tuple[Device, PendingRules | None]
"""A device, and the rules that it gets once it is recomputed."""


@dataclass(frozen=True, slots=True)
class Queries:
    """What can be asked of an engine; every method raises StoreUnavailableError.

    Attributes:
        store: Where the readings are.
        clock_us: The engine's clock, microseconds since 1970.
        same_id: Whether a meter of the same id counts where no link names either.
        threshold: Efficiency below this is low, fraction.
    """

    store: Records
    clock_us: Callable[[], int]
    same_id: bool
    threshold: float

    async def live_state(self, stream: Stream, external_id: str) -> latest.LiveState:
        """Return the newest reading of a device, or raise NotFoundError."""
        return await latest.live_state(self.store, stream, external_id)

    async def performance(self, vehicle_id: str, start_us: int, end_us: int) -> Performance:
        """Return energy and efficiency of a vehicle over [start_us, end_us)."""
        return await performance(
            self.store,
            vehicle_id,
            start_us,
            end_us,
            same_id=self.same_id,
            threshold=self.threshold,
        )

    async def clocks(self, vehicle_id: str, start_us: int, end_us: int) -> VehicleClocks:
        """Return the clock offsets of a vehicle's meters over [start_us, end_us)."""
        return await vehicle_clocks(self.store, vehicle_id, start_us, end_us, same_id=self.same_id)

    async def fleet(
        self, start_us: int | None, end_us: int | None, label: str | None
    ) -> FleetPerformance:
        """Return energy and efficiency of all devices together, or of a label's.

        Raises:
            NotFoundError: No device has that label.
        """
        return await fleet_performance(
            self.store,
            self.clock_us(),
            start_us,
            end_us,
            label=label,
            same_id=self.same_id,
            threshold=self.threshold,
        )

    async def fleets(self, start_us: int | None, end_us: int | None) -> Fleets:
        """Return energy and efficiency by fleet label; None: the fleet's default window."""
        return await fleets(
            self.store,
            self.clock_us(),
            start_us,
            end_us,
            same_id=self.same_id,
            threshold=self.threshold,
        )

    async def low_efficiency(self, threshold: float) -> Alerts:
        """Return vehicles below a threshold over the fleet's default window."""
        return await low_efficiency(
            self.store, self.clock_us(), same_id=self.same_id, threshold=threshold
        )

    async def stats(self) -> dict[Stream, StreamStats]:
        """Return what is held of each stream, never by scanning history."""
        async with self.store.snapshot() as snapshot:
            return {stream: await snapshot.stats(stream) for stream in Stream}

    async def device(self, stream: Stream, external_id: str) -> Settled:
        """Return a device, or raise NotFoundError."""
        async with self.store.snapshot() as snapshot:
            device = await latest.find(snapshot, stream, external_id)
            pending = await snapshot.pending_rules([device])
        return device, pending.get(device.key)

    async def devices(self, stream: Stream, after: str, limit: int) -> list[Settled]:
        """Return up to `limit` devices with ids above `after`, in code point order."""
        async with self.store.snapshot() as snapshot:
            devices = await snapshot.devices(stream, after, limit)
            pending = await snapshot.pending_rules(devices)
        return [(device, pending.get(device.key)) for device in devices]

    async def change_device(
        self, stream: Stream, external_id: str, change: DeviceChange
    ) -> tuple[Settled, bool]:
        """Change or make a device; return it, and whether it was made."""
        _, is_new = await self.store.change_device(stream, external_id, change)
        return await self.device(stream, external_id), is_new

    async def falls(
        self, stream: Stream, external_id: str, after_us: int, limit: int
    ) -> list[Fall]:
        """Return up to `limit` falls of a device's register after a time, or NotFoundError."""
        async with self.store.snapshot() as snapshot:
            device = await latest.find(snapshot, stream, external_id)
            return await snapshot.falls(device, after_us, limit)

    async def links(
        self, after: int, limit: int, *, meter: str | None, vehicle: str | None
    ) -> list[KeptLink]:
        """Return up to `limit` links with ids above `after`, of a meter, a vehicle or all."""
        async with self.store.snapshot() as snapshot:
            return await snapshot.links(after, limit, meter=meter, vehicle=vehicle)

    async def add_link(self, meter: str, vehicle: str, start_us: int, end_us: int) -> KeptLink:
        """Link a meter to a vehicle over [start_us, end_us), or raise OverlapError."""
        return await self.store.add_link(meter, vehicle, start_us, end_us)

    async def end_link(self, link_id: int, end_us: int) -> KeptLink:
        """Set the end of a link; raises NotFoundError, ReadingError, OverlapError."""
        return await self.store.end_link(link_id, end_us)

    async def delete_link(self, link_id: int) -> None:
        """Remove a link, or raise NotFoundError."""
        await self.store.delete_link(link_id)

    async def rejections(
        self, wanted: WantedRejections, after: int | None, limit: int
    ) -> list[KeptRejection]:
        """Return up to `limit` refused records in the wanted order, those after an id or all."""
        async with self.store.snapshot() as snapshot:
            return await snapshot.rejections(wanted, after, limit)

    async def rejection_counts(self) -> list[RejectionCount]:
        """Return how many records were ever refused, by stream and code."""
        async with self.store.snapshot() as snapshot:
            return await snapshot.rejection_counts()

    async def history_page(
        self, wanted: history.Wanted, limit: int
    ) -> tuple[list[history.Block], history.Place | None]:
        """Return up to `limit` rows of history, and where the next page begins."""
        return await history.page(self.store, wanted, limit)

    def history_stream(
        self, wanted: history.Wanted, limit: int | None
    ) -> AsyncGenerator[history.Block]:
        """Yield up to `limit` rows of history in blocks."""
        return history.stream(self.store, wanted, limit)

    async def refresh(self, start_us: int, end_us: int) -> Repair:
        """Recompute the rollups of [start_us, end_us) and repair what differs."""
        return await self.store.refresh(start_us, end_us)

    async def ping(self) -> None:
        """Return when the database answers."""
        await self.store.ping()
