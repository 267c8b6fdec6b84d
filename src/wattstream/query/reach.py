"""What a bound key sees and changes: the answers of a store, cut to the devices within its reach.

Every answer is made from a store's snapshot, so it is cut here, once for all endpoints. Methods
are named one by one: one that is new is not there for bound keys before it is thought about.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from wattstream.caller import caller
from wattstream.domain.access import Reach
from wattstream.domain.devices import Device, DeviceChange, PendingRules
from wattstream.domain.errors import ForbiddenError, NotFoundError
from wattstream.domain.falls import Fall
from wattstream.domain.holdings import (
    KeptRejection,
    RejectionCount,
    Repair,
    StreamStats,
    WantedRejections,
)
from wattstream.domain.links import Feeds, KeptLink
from wattstream.domain.readings import Stream
from wattstream.domain.rollup import Runs
from wattstream.domain.units import Int64
from wattstream.store.port import (
    DeviceTotals,
    FleetFeeds,
    Latest,
    Quarters,
    RawBucket,
    Records,
    Snapshot,
    Totals,
    Window,
)

PAGE = 1000
"""Items read at once where only some of them are kept."""

Item = TypeVar("Item")


def forbidden(stream: Stream, external_id: str, reach: Reach) -> ForbiddenError:
    """Return the error for a device out of reach; whether it exists does not show."""
    return ForbiddenError(
        f"the key is bound to {reach}, and {stream} {external_id!r} is not of them",
        code="device_forbidden",
        field="id",
    )


async def ids_within(
    snapshot: Snapshot, reach: Reach, stream: Stream, ids: Iterable[str]
) -> set[str]:
    """Return those of some outside ids that are within a reach."""
    found = {external_id for external_id in ids if reach.admits_id(external_id)}
    if reach.fleet is None or not found:
        return found
    return await snapshot.of_fleet(stream, reach.fleet, sorted(found))


async def within(snapshot: Snapshot, stream: Stream, reach: Reach) -> Int64 | None:
    """Return the keys of the devices of a stream within a reach; None: of all."""
    return None if reach.is_whole else await snapshot.reached(stream, reach)


async def names_within(
    snapshot: Snapshot, reach: Reach, names: Iterable[tuple[Stream, str]]
) -> set[tuple[Stream, str]]:
    """Return those of some devices, by stream and outside id, that are within a reach."""
    all_names = list(names)
    return {
        (stream, external_id)
        for stream in Stream
        for external_id in await ids_within(
            snapshot, reach, stream, (name for of, name in all_names if of is stream)
        )
    }


async def page_within(
    fetch: Callable[[int], Awaitable[list[Item]]],
    place: Callable[[Item], int],
    keep: Callable[[list[Item]], Awaitable[list[Item]]],
    after: int,
    limit: int,
) -> list[Item]:
    """Return the first `limit` items that are kept, read page by page.

    Args:
        fetch: Returns up to PAGE items after a place.
        place: Returns where an item is.
        keep: Returns those of some items that are wanted.
        after: Where to begin.
        limit: Most items.
    """
    found: list[Item] = []
    while len(found) < limit:
        part = await fetch(after)
        found += await keep(part)
        if len(part) < PAGE:
            break
        after = place(part[-1])
    return found[:limit]


@dataclass(frozen=True, slots=True)
class ReachedSnapshot:
    """A Snapshot cut to a reach.

    What takes devices, or their keys, passes on: they come from what is cut.
    """

    inner: Snapshot
    reach: Reach

    async def device(self, stream: Stream, external_id: str) -> Device | None:
        """Return a device, or None where it may be seen and was never.

        Raises:
            ForbiddenError: It is out of reach, or would be.
        """
        device = await self.inner.device(stream, external_id)
        if not self.reach.admits(external_id, None if device is None else device.fleet):
            raise forbidden(stream, external_id, self.reach)
        return device

    async def devices(self, stream: Stream, after: str, limit: int) -> list[Device]:
        """Return up to `limit` devices within reach, by id in code point order."""
        found: list[Device] = []
        while len(found) < limit:
            part = await self.inner.devices(stream, after, PAGE)
            found += [each for each in part if self.reach.admits(each.external_id, each.fleet)]
            if len(part) < PAGE:
                break
            after = part[-1].external_id
        return found[:limit]

    async def pending_rules(self, devices: Sequence[Device]) -> dict[int, PendingRules]:
        """Pass on."""
        return await self.inner.pending_rules(devices)

    async def latest(self, device: Device) -> Latest:
        """Pass on."""
        return await self.inner.latest(device)

    async def falls(self, device: Device, after_us: int, limit: int) -> list[Fall]:
        """Pass on."""
        return await self.inner.falls(device, after_us, limit)

    async def vehicle(self, external_id: str, *, same_id: bool) -> tuple[Device | None, Feeds]:
        """Return a vehicle within reach, with all meters that feed it.

        Raises:
            ForbiddenError: It is out of reach.
        """
        device, feeds = await self.inner.vehicle(external_id, same_id=same_id)
        if not self.reach.admits(external_id, None if device is None else device.fleet):
            raise forbidden(Stream.VEHICLE, external_id, self.reach)
        return device, feeds

    async def links(
        self, after: int, limit: int, *, meter: str | None = None, vehicle: str | None = None
    ) -> list[KeptLink]:
        """Return up to `limit` links whose two devices are within reach."""

        async def fetch(place: int) -> list[KeptLink]:
            return await self.inner.links(place, PAGE, meter=meter, vehicle=vehicle)

        return await page_within(fetch, lambda link: link.link_id, self._links_within, after, limit)

    async def _links_within(self, links: list[KeptLink]) -> list[KeptLink]:
        meters = await ids_within(
            self.inner, self.reach, Stream.METER, [link.meter_id for link in links]
        )
        vehicles = await ids_within(
            self.inner, self.reach, Stream.VEHICLE, [link.vehicle_id for link in links]
        )
        return [link for link in links if link.meter_id in meters and link.vehicle_id in vehicles]

    async def fleet_feeds(self, *, same_id: bool) -> FleetFeeds:
        """Return the links of the vehicles within reach."""
        feeds = await self.inner.fleet_feeds(same_id=same_id)
        keys = await self.inner.reached(Stream.VEHICLE, self.reach)
        is_seen = np.isin(feeds.vehicle, keys)
        return FleetFeeds(
            feeds.vehicle[is_seen],
            feeds.meter[is_seen],
            feeds.start_us[is_seen],
            feeds.end_us[is_seen],
            feeds.is_twin[is_seen],
        )

    async def keyed(self, stream: Stream, keys: Sequence[int]) -> dict[int, Device]:
        """Pass on."""
        return await self.inner.keyed(stream, keys)

    async def named(self, keys: Sequence[int]) -> dict[int, str]:
        """Pass on."""
        return await self.inner.named(keys)

    async def windows(self, wanted: Sequence[Window]) -> list[tuple[Totals, list[RawBucket]]]:
        """Pass on."""
        return await self.inner.windows(wanted)

    async def span(self, device: Device, start_us: int, end_us: int) -> tuple[int, int] | None:
        """Pass on."""
        return await self.inner.span(device, start_us, end_us)

    async def raw_readings(
        self, device: Device, start_us: int, end_us: int, limit: int
    ) -> RawBucket:
        """Pass on."""
        return await self.inner.raw_readings(device, start_us, end_us, limit)

    async def quarters(self, device: Device, start_us: int, end_us: int, limit: int) -> Quarters:
        """Pass on."""
        return await self.inner.quarters(device, start_us, end_us, limit)

    async def fleet_totals(self, stream: Stream, start_us: int) -> DeviceTotals:
        """Pass on: a vehicle within reach may be fed by a meter that is not."""
        return await self.inner.fleet_totals(stream, start_us)

    async def sums_within(
        self, stream: Stream, key: Int64, first_us: Int64, last_us: Int64
    ) -> Int64:
        """Pass on."""
        return await self.inner.sums_within(stream, key, first_us, last_us)

    async def buckets(self, stream: Stream, key: Int64, bucket_us: Int64) -> tuple[Runs, Int64]:
        """Pass on."""
        return await self.inner.buckets(stream, key, bucket_us)

    async def labelled(self, stream: Stream) -> dict[str | None, Int64]:
        """Return the keys of the devices within reach by fleet label."""
        keys = await self.inner.reached(stream, self.reach)
        cut = {
            label: np.intersect1d(some, keys)
            for label, some in (await self.inner.labelled(stream)).items()
        }
        return {label: some for label, some in cut.items() if len(some)}

    async def reached(self, stream: Stream, reach: Reach) -> Int64:
        """Pass on."""
        return await self.inner.reached(stream, reach)

    async def of_fleet(self, stream: Stream, fleet: str, ids: Sequence[str]) -> set[str]:
        """Pass on."""
        return await self.inner.of_fleet(stream, fleet, ids)

    async def stats(self, stream: Stream) -> StreamStats:
        """Pass on."""
        return await self.inner.stats(stream)

    async def newest(self, stream: Stream) -> int:
        """Pass on: it ends a default range."""
        return await self.inner.newest(stream)

    async def rejections(
        self, wanted: WantedRejections, after: int | None, limit: int
    ) -> list[KeptRejection]:
        """Return refused records of devices within reach, and those of the same key."""
        prefix = caller().prefix

        async def fetch(place: int) -> list[KeptRejection]:
            return await self.inner.rejections(wanted, place if place >= 0 else None, PAGE)

        async def keep(part: list[KeptRejection]) -> list[KeptRejection]:
            seen = await names_within(
                self.inner,
                self.reach,
                [
                    (each.rejection.stream, each.rejection.device)
                    for each in part
                    if each.rejection.stream is not None and each.rejection.device is not None
                ],
            )
            return [
                each
                for each in part
                if each.key == prefix or (each.rejection.stream, each.rejection.device) in seen
            ]

        start = -1 if after is None else after
        return await page_within(fetch, lambda each: each.rejection_id, keep, start, limit)

    async def rejection_counts(self) -> list[RejectionCount]:
        """Return none: they are counted over all devices."""
        return []


@dataclass(frozen=True, slots=True)
class ReachedRecords:
    """Records cut to the reach of whoever asks."""

    inner: Records

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Open a consistent view of what may be seen."""
        reach = caller().reach
        return self.inner.snapshot() if reach.is_whole else self._cut(reach)

    @asynccontextmanager
    async def _cut(self, reach: Reach) -> AsyncIterator[Snapshot]:
        async with self.inner.snapshot() as snapshot:
            yield ReachedSnapshot(snapshot, reach)

    async def change_device(
        self, stream: Stream, external_id: str, change: DeviceChange
    ) -> tuple[Device, bool]:
        """Change or make a device within reach, which stays within it.

        Raises:
            ForbiddenError: It is out of reach, or would be.
        """
        reach = caller().reach
        if not reach.is_whole:
            async with self.inner.snapshot() as snapshot:
                device = await snapshot.device(stream, external_id)
            is_cleared = "fleet" in change.clear
            before = None if device is None else device.fleet
            after = None if is_cleared else change.fleet or before
            if device is not None and not reach.admits(external_id, before):
                raise forbidden(stream, external_id, reach)
            if not reach.admits(external_id, after):
                raise ForbiddenError(
                    f"the key is bound to {reach}, and {stream} {external_id!r} would not be of "
                    "them; send its fleet label with the other settings",
                    code="device_forbidden",
                    field="fleet",
                )
        return await self.inner.change_device(stream, external_id, change)

    async def add_link(self, meter: str, vehicle: str, start_us: int, end_us: int) -> KeptLink:
        """Link two devices within reach.

        Raises:
            ForbiddenError: One of them is not.
        """
        reach = caller().reach
        if not reach.is_whole:
            names = ((Stream.METER, meter), (Stream.VEHICLE, vehicle))
            async with self.inner.snapshot() as snapshot:
                seen = await names_within(snapshot, reach, names)
            for name in names:
                if name not in seen:
                    raise forbidden(*name, reach)
        return await self.inner.add_link(meter, vehicle, start_us, end_us)

    async def end_link(self, link_id: int, end_us: int) -> KeptLink:
        """Set the end of a link within reach."""
        await self._check_link(link_id)
        return await self.inner.end_link(link_id, end_us)

    async def delete_link(self, link_id: int) -> None:
        """Remove a link within reach."""
        await self._check_link(link_id)
        await self.inner.delete_link(link_id)

    async def _check_link(self, link_id: int) -> None:
        """Let a link out of reach be as one that is not there."""
        if caller().reach.is_whole:
            return
        async with self.snapshot() as snapshot:
            found = await snapshot.links(link_id - 1, 1)
        if not found or found[0].link_id != link_id:
            raise NotFoundError(f"there is no link {link_id}", code="link_unknown")

    async def refresh(self, start_us: int, end_us: int) -> Repair:
        """Pass on: it is for keys that reach all devices."""
        return await self.inner.refresh(start_us, end_us)

    async def ping(self) -> None:
        """Pass on."""
        await self.inner.ping()
