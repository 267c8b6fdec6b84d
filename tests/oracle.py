"""A store of a few dicts that recomputes everything from all readings, by plain loops.

It obeys the same behaviour suite as PostgreSQL and shares no rule with it: what the contract
says is written here a second time, one reading at a time.
"""

import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from wattstream.domain.access import Reach
from wattstream.domain.devices import Device, DeviceChange, PendingRules
from wattstream.domain.errors import NotFoundError, ReadingError
from wattstream.domain.falls import Fall, FallKind
from wattstream.domain.holdings import (
    DayCount,
    KeptRejection,
    RejectionCount,
    Repair,
    StreamStats,
    WantedRejections,
)
from wattstream.domain.links import Feeds, KeptLink, Link, OverlapError
from wattstream.domain.readings import KINDS, Readings, Rejection, Stream
from wattstream.domain.register import RULE_COLUMNS, Rules, rule_rows
from wattstream.domain.rollup import Runs, empty_live
from wattstream.domain.units import BUCKET_US, NEVER_US, Int64
from wattstream.store.port import (
    DeviceTotals,
    FleetFeeds,
    Latest,
    Progress,
    Quarters,
    RawBucket,
    Totals,
    Values,
    Verdict,
    Window,
    Written,
)

MAX_READINGS_A_BUCKET = 9000


def contribution(
    rules: Rules, before: list[tuple[int, int]], at: int, value: int
) -> tuple[int, int]:
    """Return counted and suspect energy of a reading, given all readings before it."""
    is_register = rules.energy_mode == 1
    power = rules.rated_w or (1_000_000 if is_register else 0)

    def plausible(energy: int, since: int | None) -> bool:
        elapsed = max(at_of - since if since is not None else 0, rules.heartbeat_s * 1_000_000)
        return power == 0 or (energy - 10_000) * 3_000_000 <= power * elapsed

    def rolls(new: tuple[int, int], old: tuple[int, int]) -> bool:
        nonlocal at_of
        saved, at_of = at_of, new[0]
        modulus = rules.modulus_ukwh
        answer = (
            modulus is not None
            and old[1] < modulus
            and plausible(new[1] + modulus - old[1], old[0])
        )
        at_of = saved
        return answer

    at_of = at
    if not is_register:
        energy, since = value, before[-1][0] if before else None
    elif not before:
        return 0, 0
    else:
        previous = before[-1]
        if value < previous[1]:
            if not rolls((at, value), previous):
                return 0, 0
            energy, since = value + rules.modulus_ukwh - previous[1], previous[0]
        else:
            base = previous
            if len(before) > 1:
                older = before[-2]
                fell = previous[1] < older[1] and not rolls(previous, older)
                if fell and value >= older[1]:
                    base = older
            energy, since = value - base[1], base[0]
    return (energy, 0) if plausible(energy, since) else (0, energy)


def _sums(total: Totals) -> list[int]:
    """Return totals in the order of a stream's summed columns."""
    measured = [n for pair in zip(total.sums_micro, total.counts, strict=True) for n in pair]
    return [total.energy_ukwh, total.suspect_ukwh, total.readings, *measured]


def size_bytes(rejection: Rejection) -> int:
    """Return what a kept rejection counts against the bound: its texts, and 128 bytes."""
    conflict = rejection.conflict
    texts = [rejection.message, rejection.device or ""]
    texts += [json.dumps(conflict._asdict())] if conflict else []
    return 128 + len(rejection.record) + sum(len(text.encode()) for text in texts)


class MemoryStore:
    """A Store and a Snapshot in one."""

    def __init__(self) -> None:
        self.readings: dict[tuple[Stream, str], dict[int, tuple[Values, int]]] = {}
        self.registry: dict[tuple[Stream, str], Device] = {}
        self.linked: dict[int, KeptLink] = {}
        self.links_made = 0
        self.kept: list[KeptRejection] = []
        self.refused = 0
        self.refusals: dict[tuple[str, str], tuple[int, int]] = {}

    def _device(self, stream: Stream, name: str) -> Device:
        key = (stream, name)
        if key not in self.registry:
            self.registry[key] = Device(len(self.registry) + 1, stream, name, Rules(), None, "UTC")
            self.readings[key] = {}
        return self.registry[key]

    async def write(
        self,
        readings: Readings,
        received_at_us: int,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Written:
        verdicts, standing, refused = [], {}, {}
        for row, name in enumerate(readings.ids):
            self._device(readings.stream, name)
            history = self.readings[readings.stream, name]
            at = int(readings.at_us[row])
            values = Values(int(readings.energy_ukwh[row]), tuple(readings.values[row].tolist()))
            in_bucket = sum(1 for other in history if other // BUCKET_US == at // BUCKET_US)
            if at in history:
                same = repr(history[at][0]) == repr(values)
                verdicts.append(Verdict.DUPLICATE if same else Verdict.CONFLICT)
                if not same:
                    standing[row] = history[at][0]
            elif in_bucket >= MAX_READINGS_A_BUCKET:
                verdicts.append(Verdict.REFUSED)
                refused[row] = ("too_many_readings", "")
            else:
                history[at] = (values, received_at_us)
                verdicts.append(Verdict.STORED)
        return Written(np.array(verdicts, np.int8), standing, refused)

    async def keep(
        self, rejections: Sequence[Rejection], rejected_at_us: int, key: str | None = None
    ) -> None:
        for rejection in rejections:
            stored = replace(rejection, index=0, record=rejection.record[:8192])
            self.refused += 1
            self.kept.append(KeptRejection(self.refused, rejected_at_us, stored, key))
            key = (rejection.stream or "", rejection.code)
            count, last_at = self.refusals.get(key, (0, NEVER_US))
            self.refusals[key] = (count + 1, max(last_at, rejected_at_us))

    async def prune(self, oldest_us: int, max_bytes: int) -> int:
        """Drop the oldest one by one."""
        self.kept.sort(key=lambda kept: kept.rejected_at_us)
        held = sum(size_bytes(kept.rejection) for kept in self.kept)
        dropped = 0
        for kept in self.kept:
            if kept.rejected_at_us >= oldest_us and held <= max_bytes:
                break
            held -= size_bytes(kept.rejection)
            dropped += 1
        del self.kept[:dropped]
        return dropped

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["MemoryStore"]:
        yield self

    async def change_device(
        self, stream: Stream, external_id: str, change: DeviceChange
    ) -> tuple[Device, bool]:
        is_new = (stream, external_id) not in self.registry
        device = self._device(stream, external_id)

        def pick(name: str, old: object) -> object:
            value = getattr(change, name)
            return None if name in change.clear else old if value is None else value

        rules = {name: pick(name, getattr(device.rules, name)) for name in Rules.__slots__}
        device = replace(
            device,
            rules=Rules(**rules),  # type: ignore[arg-type]
            fleet=pick("fleet", device.fleet),
            time_zone=pick("time_zone", device.time_zone),
            alert_thresholds=pick("alert_thresholds", device.alert_thresholds) or {},
        )
        self.registry[stream, external_id] = device
        return device, is_new

    async def refresh(self, start_us: int, end_us: int) -> Repair:
        return Repair(0, 0)

    async def prepare(self, now_us: int) -> None:
        pass

    async def ping(self) -> None:
        pass

    # A snapshot of itself.

    async def device(self, stream: Stream, external_id: str) -> Device | None:
        return self.registry.get((stream, external_id))

    async def devices(self, stream: Stream, after: str, limit: int) -> list[Device]:
        names = sorted(name for s, name in self.registry if s == stream and name > after)
        return [self.registry[stream, name] for name in names[:limit]]

    def contributions(self, device: Device) -> dict[int, tuple[int, int]]:
        """Return counted and suspect energy of every reading, by time."""
        history = self.readings[device.stream, device.external_id]
        ordered = sorted((at, values.energy_ukwh) for at, (values, _) in history.items())
        return {
            at: contribution(device.rules, ordered[:i], at, value)
            for i, (at, value) in enumerate(ordered)
        }

    def brute_force(self, device: Device, start_us: int, end_us: int) -> Totals:
        """Sum the readings measured in [start_us, end_us)."""
        parts = self.contributions(device)
        history = self.readings[device.stream, device.external_id]
        inside = [at for at in history if start_us <= at < end_us]
        fields = range(len(KINDS[device.stream].fields))
        columns = [[history[at][0].fields[i] for at in inside] for i in fields]
        present = [[value for value in column if not math.isnan(value)] for column in columns]
        return Totals(
            sum(parts[at][0] for at in inside),
            sum(parts[at][1] for at in inside),
            len(inside),
            tuple(sum(round(value * 1e6) for value in column) for column in present),
            tuple(len(column) for column in present),
        )

    async def recompute(self) -> None:
        pass

    async def pending_rules(self, devices: Sequence[Device]) -> dict[int, PendingRules]:
        return {}

    async def latest(self, device: Device) -> Latest:
        history = self.readings[device.stream, device.external_id]
        if not history:
            fields = tuple(math.nan for _ in KINDS[device.stream].fields)
            return Latest(NEVER_US, NEVER_US, Values(0, fields), 0)
        at = max(history)
        values, received_at = history[at]
        return Latest(at, received_at, values, sum(self.contributions(device)[at]))

    async def falls(self, device: Device, after_us: int, limit: int) -> list[Fall]:
        parts = self.contributions(device)
        history = self.readings[device.stream, device.external_id]
        ordered = sorted((at, values.energy_ukwh) for at, (values, _) in history.items())
        found = []
        for (at0, value0), (at, value), (_, value2) in zip(
            ordered, ordered[1:], [*ordered[2:], (0, -1)], strict=False
        ):
            if device.rules.energy_mode == 1 and value < value0 and at > after_us:
                kind = FallKind.DIP if value2 >= value0 else FallKind.RESET
                kind = FallKind.ROLLOVER if any(parts[at]) else kind
                found.append(Fall(at, value, at0, value0, kind))
        return found[:limit]

    async def feeds(self, vehicle: Device, *, same_id: bool) -> Feeds:
        found = [link for link in self.linked.values() if link.vehicle_id == vehicle.external_id]
        if found or not same_id:
            return Feeds(
                tuple(self._link(link) for link in sorted(found, key=lambda x: x.start_us))
            )
        meter = self.registry.get((Stream.METER, vehicle.external_id))
        if meter is None or any(
            link.meter_id == meter.external_id for link in self.linked.values()
        ):
            return Feeds()
        return Feeds((), Link(meter))

    def _link(self, kept: KeptLink) -> Link:
        return Link(self._device(Stream.METER, kept.meter_id), kept.start_us, kept.end_us)

    def _refuse_overlap(self, wanted: KeptLink) -> None:
        for link in sorted(self.linked.values(), key=lambda x: x.start_us):
            is_other = link.link_id != wanted.link_id and link.meter_id == wanted.meter_id
            if is_other and link.start_us < wanted.end_us and link.end_us > wanted.start_us:
                raise OverlapError(link)

    async def add_link(self, meter: str, vehicle: str, start_us: int, end_us: int) -> KeptLink:
        self._device(Stream.METER, meter)
        self._device(Stream.VEHICLE, vehicle)
        self.links_made += 1
        link = KeptLink(self.links_made, meter, vehicle, start_us, end_us)
        self._refuse_overlap(link)
        self.linked[link.link_id] = link
        return link

    async def end_link(self, link_id: int, end_us: int) -> KeptLink:
        if link_id not in self.linked:
            raise NotFoundError("", code="link_unknown")
        link = replace(self.linked[link_id], end_us=end_us)
        if end_us <= link.start_us:
            raise ReadingError("", code="range_empty")
        self._refuse_overlap(link)
        self.linked[link_id] = link
        return link

    async def delete_link(self, link_id: int) -> None:
        if link_id not in self.linked:
            raise NotFoundError("", code="link_unknown")
        del self.linked[link_id]

    async def links(
        self, after: int, limit: int, *, meter: str | None = None, vehicle: str | None = None
    ) -> list[KeptLink]:
        found = [
            link
            for link_id, link in sorted(self.linked.items())
            if link_id > after
            and meter in (None, link.meter_id)
            and vehicle in (None, link.vehicle_id)
        ]
        return found[:limit]

    async def fleet_feeds(self, *, same_id: bool) -> FleetFeeds:
        rows = []
        for (stream, _), device in self.registry.items():
            if stream is Stream.VEHICLE:
                feeds = await self.feeds(device, same_id=same_id)
                for is_twin, links in ((0, feeds.links), (1, (feeds.twin,) if feeds.twin else ())):
                    rows += [
                        (device.key, link.meter.key, link.start_us, link.end_us, is_twin)
                        for link in links
                    ]
        columns = np.array(rows, np.int64).reshape(-1, 5).T
        return FleetFeeds(*columns[:4], columns[4].astype(np.bool_))

    async def keyed(self, stream: Stream, keys: Sequence[int]) -> dict[int, Device]:
        return {device.key: device for device in self.registry.values() if device.key in keys}

    async def named(self, keys: Sequence[int]) -> dict[int, str]:
        return {
            device.key: device.external_id
            for device in self.registry.values()
            if device.key in keys
        }

    async def vehicle(self, external_id: str, *, same_id: bool) -> tuple[Device | None, Feeds]:
        device = self.registry.get((Stream.VEHICLE, external_id))
        return device, await self.feeds(device, same_id=same_id) if device else Feeds()

    async def windows(self, wanted: Sequence[Window]) -> list[tuple[Totals, list[RawBucket]]]:
        return [
            (
                self.brute_force(window.device, window.first_us, window.last_us),
                [await self.raw_bucket(window.device, bucket_us) for bucket_us in window.edges],
            )
            for window in wanted
        ]

    async def raw_bucket(self, device: Device, bucket_us: int) -> RawBucket:
        return await self.raw_readings(
            device, bucket_us, bucket_us + BUCKET_US, MAX_READINGS_A_BUCKET
        )

    async def raw_readings(
        self, device: Device, start_us: int, end_us: int, limit: int
    ) -> RawBucket:
        history = self.readings[device.stream, device.external_id]
        inside = sorted(at for at in history if start_us <= at < end_us)[:limit]
        before = sorted((at for at in history if at < start_us), reverse=True)[:2]
        carry = [(at, history[at][0].energy_ukwh) for at in before] + [(NEVER_US, 0)] * 2
        return RawBucket(
            (carry[0], carry[1]),
            np.array(inside, np.int64),
            np.array([history[at][0].energy_ukwh for at in inside], np.int64),
            np.array([history[at][0].fields for at in inside]).reshape(
                len(inside), len(KINDS[device.stream].fields)
            ),
        )

    async def span(self, device: Device, start_us: int, end_us: int) -> tuple[int, int] | None:
        history = self.readings[device.stream, device.external_id]
        inside = [at for at in history if start_us <= at < end_us]
        return (min(inside), max(inside)) if inside else None

    async def quarters(self, device: Device, start_us: int, end_us: int, limit: int) -> Quarters:
        history = self.readings[device.stream, device.external_id]
        starts = sorted({at - at % BUCKET_US for at in history})
        starts = [at for at in starts if start_us <= at < end_us][:limit]
        sums = [self.brute_force(device, at, at + BUCKET_US) for at in starts]
        width = len(KINDS[device.stream].fields)
        return Quarters(
            np.array(starts, np.int64),
            np.array([total.energy_ukwh for total in sums], np.int64),
            np.array([total.suspect_ukwh for total in sums], np.int64),
            np.array([total.readings for total in sums], np.int64),
            np.array([total.sums_micro for total in sums], np.int64).reshape(-1, width),
            np.array([total.counts for total in sums], np.int64).reshape(-1, width),
        )

    async def fleet_totals(self, stream: Stream, start_us: int) -> DeviceTotals:
        rows = []
        for (of, _), device in self.registry.items():
            if of is stream:
                rows.append((device.key, *_sums(self.brute_force(device, start_us, 2**62))))
        columns = np.array(sorted(rows), np.int64).reshape(-1, 4 + 2 * len(KINDS[stream].fields)).T
        return DeviceTotals(columns[0], columns[1:])

    def _by_key(self, key: int) -> Device:
        return next(device for device in self.registry.values() if device.key == key)

    async def sums_within(
        self, stream: Stream, key: Int64, first_us: Int64, last_us: Int64
    ) -> Int64:
        ranges = zip(key.tolist(), first_us.tolist(), last_us.tolist(), strict=True)
        found = [self.brute_force(self._by_key(k), a, z) for k, a, z in ranges]
        rows = [(total.energy_ukwh, total.readings) for total in found]
        return np.array(rows, np.int64).reshape(-1, 2).T

    async def buckets(self, stream: Stream, key: Int64, bucket_us: Int64) -> tuple[Runs, Int64]:
        """Join some buckets."""
        asked = [self._by_key(k) for k in key.tolist()]
        read = [
            (place, device, await self.raw_bucket(device, at))
            for place, (device, at) in enumerate(zip(asked, bucket_us.tolist(), strict=True))
        ]
        read = [row for row in read if len(row[2].at_us)]
        places, found = [row[0] for row in read], [row[1:] for row in read]
        rows = empty_live(stream, len(found))
        for row, (device, raw) in zip(rows, found, strict=True):
            row["device_id"] = device.key
            for name, _ in RULE_COLUMNS:
                row[name] = rule_rows(device.rules, 1)[name][0]
            (row["before1_at"], row["before1_ukwh"]), (row["before2_at"], row["before2_ukwh"]) = (
                raw.carry
            )
        width = len(KINDS[stream].fields)
        runs = Runs(
            KINDS[stream],
            np.repeat(np.arange(len(found)), [len(raw.at_us) for _, raw in found]),
            np.concatenate([[], *(raw.at_us for _, raw in found)]).astype(np.int64),
            np.concatenate([[], *(raw.energy_ukwh for _, raw in found)]).astype(np.int64),
            np.concatenate([np.zeros((0, width)), *(raw.values for _, raw in found)]),
            rows,
            rows,
        )
        return runs, np.array(places, np.int64)

    async def labelled(self, stream: Stream) -> dict[str | None, Int64]:
        found: dict[str | None, list[int]] = {}
        for (of, _), device in self.registry.items():
            if of is stream:
                found.setdefault(device.fleet, []).append(device.key)
        return {label: np.array(sorted(keys), np.int64) for label, keys in found.items()}

    async def reached(self, stream: Stream, reach: Reach) -> Int64:
        keys = [
            device.key
            for (of, external_id), device in self.registry.items()
            if of is stream and reach.admits(external_id, device.fleet)
        ]
        return np.array(sorted(keys), np.int64)

    async def of_fleet(self, stream: Stream, fleet: str, ids: Sequence[str]) -> set[str]:
        labels = {
            name: device.fleet for (of, name), device in self.registry.items() if of is stream
        }
        return {name for name in ids if labels.get(name) == fleet}

    async def stats(self, stream: Stream) -> StreamStats:
        times = [at for (of, _), history in self.readings.items() if of is stream for at in history]
        days = Counter(datetime.fromtimestamp(at / 1e6, UTC).date().isoformat() for at in times)
        return StreamStats(
            sum(1 for of, _ in self.registry if of is stream),
            min(times, default=NEVER_US),
            max(times, default=NEVER_US),
            [DayCount(day, count) for day, count in sorted(days.items())],
            sum(count for (of, _), (count, _) in self.refusals.items() if of == stream),
        )

    async def newest(self, stream: Stream) -> int:
        return (await self.stats(stream)).last_at_us

    async def rejections(
        self, wanted: WantedRejections, after: int | None, limit: int
    ) -> list[KeptRejection]:
        found = [
            kept
            for kept in sorted(self.kept, key=lambda kept: kept.rejection_id)
            if wanted.start_us <= kept.rejected_at_us < wanted.end_us
            and wanted.code in (None, kept.rejection.code)
            and wanted.stream in (None, kept.rejection.stream)
            and wanted.device in (None, kept.rejection.device)
        ]
        if wanted.newest_first:
            found = [kept for kept in found if after is None or kept.rejection_id < after][::-1]
        else:
            found = [kept for kept in found if after is None or kept.rejection_id > after]
        return found[:limit]

    async def rejection_counts(self) -> list[RejectionCount]:
        return [
            RejectionCount(Stream(stream) if stream else None, code, count, last_at)
            for (stream, code), (count, last_at) in sorted(self.refusals.items())
        ]
