"""One consistent view of PostgreSQL: every answer is read in one transaction."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import psycopg

from wattstream.domain.access import Reach
from wattstream.domain.devices import Device, PendingRules
from wattstream.domain.falls import Fall, FallKind
from wattstream.domain.holdings import (
    DayCount,
    KeptRejection,
    RejectionCount,
    StreamStats,
    WantedRejections,
)
from wattstream.domain.links import FOREVER_US, Feeds, KeptLink, Link
from wattstream.domain.readings import KINDS, Conflict, Rejection, Stream
from wattstream.domain.register import RULE_COLUMNS, EnergyMode, Rules
from wattstream.domain.rollup import CARRY, Runs, live_dtype
from wattstream.domain.units import BUCKET_US, NEVER_US, Int64, bucket_floor
from wattstream.store.port import (
    DeviceTotals,
    FleetFeeds,
    Latest,
    Quarters,
    RawBucket,
    Totals,
    Values,
    Window,
)
from wattstream.store.postgres import arrays, series, statements
from wattstream.store.postgres.fleet import FleetCache


class PostgresSnapshot:
    """A Snapshot over a connection inside a REPEATABLE READ transaction."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], fleet: FleetCache) -> None:
        self._connection = connection
        self._fleet = fleet
        self._versions: dict[Stream | None, Any] = {}

    async def _ask(
        self, file: str, name: str, stream: Stream | None, params: dict[str, Any]
    ) -> psycopg.AsyncCursor[Any]:
        """Send a question; the answer is waited for where it is fetched."""
        statement = statements.load(file, stream)[name]
        return await self._connection.execute(statement, params, binary=True)

    async def _plan_anew(self) -> None:
        """Let the next questions be planned with their values: they read many rows."""
        await self._connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")

    async def _all(self, file: str, name: str, stream: Stream | None, **params: Any) -> list[Any]:
        return await (await self._ask(file, name, stream, params)).fetchall()

    async def _one(self, file: str, name: str, stream: Stream | None, **params: Any) -> Any:
        rows = await self._all(file, name, stream, **params)
        return rows[0] if rows else None

    async def device(self, stream: Stream, external_id: str) -> Device | None:
        """Return a device, or None where it was never seen."""
        row = await self._one("registry", "device", stream, external_id=external_id)
        return None if row is None else to_device(stream, row)

    async def devices(self, stream: Stream, after: str, limit: int) -> list[Device]:
        """Return up to `limit` devices with ids above `after`, by id in code point order."""
        rows = await self._all("registry", "devices", stream, after=after, limit=limit)
        return [to_device(stream, row) for row in rows]

    async def pending_rules(self, devices: Sequence[Device]) -> dict[int, PendingRules]:
        """Return, by key, the rules that some of the devices get once they are recomputed."""
        keys = arrays.PgArray(np.array([device.key for device in devices], np.int32))
        return {
            key: PendingRules(to_rules(row), progress)
            for key, *row, progress in await self._all("rules", "pending_of", None, device_id=keys)
        }

    async def latest(self, device: Device) -> Latest:
        """Return the newest reading of a device."""
        row = await self._one("answers", "latest", device.stream, device_id=device.key)
        at_us, received_at_us, energy, delta, *fields = row
        values = Values(energy, tuple(np.nan if value is None else value for value in fields))
        return Latest(at_us, received_at_us, values, delta)

    async def falls(self, device: Device, after_us: int, limit: int) -> list[Fall]:
        """Return up to `limit` falls of a device's register after a time, oldest first."""
        rows = await self._all(
            "falls",
            "list",
            None,
            device_id=device.key,
            after=arrays.time_param(after_us),
            limit=limit,
        )
        return [
            Fall(at_us, ukwh, before_us, before_ukwh, FallKind(kind))
            for at_us, ukwh, before_us, before_ukwh, kind in rows
        ]

    async def vehicle(self, external_id: str, *, same_id: bool) -> tuple[Device | None, Feeds]:
        """Return a vehicle, or None, with its links and, where `same_id`, its twin meter."""
        name = {"external_id": external_id}
        device = await self._ask("registry", "device", Stream.VEHICLE, name)
        linked = await self._ask("links", "of_vehicle", None, {**name, "same_id": same_id})
        found = await device.fetchone()
        links = [
            (is_twin, Link(to_device(Stream.METER, meter), start_us, end_us))
            for is_twin, start_us, end_us, *meter in await linked.fetchall()
        ]
        vehicle = None if found is None else to_device(Stream.VEHICLE, found)
        if links and links[0][0]:
            return vehicle, Feeds((), links[0][1])
        return vehicle, Feeds(tuple(link for _, link in links))

    async def links(
        self, after: int, limit: int, *, meter: str | None = None, vehicle: str | None = None
    ) -> list[KeptLink]:
        """Return up to `limit` links with ids above `after`, of a meter, a vehicle or all."""
        rows = await self._all(
            "links", "list", None, after=after, limit=limit, meter=meter, vehicle=vehicle
        )
        return [KeptLink(*row) for row in rows]

    async def fleet_feeds(self, *, same_id: bool) -> FleetFeeds:
        """Return the links of all vehicles, with twins where `same_id`."""
        none = np.zeros(0, np.int64)
        vehicle, meter, start_us, end_us = (
            none if column is None else column.astype(np.int64)
            for column in await self._one("fleet", "links", None)
        )
        twins = await self._fleet.twins(self._ask_fleet) if same_id else np.zeros((2, 0), np.int64)
        # A device that any link names has no twin.
        twins = twins[:, ~(np.isin(twins[0], vehicle) | np.isin(twins[1], meter))]
        n = len(twins[0])
        return FleetFeeds(
            np.append(vehicle, twins[0]),
            np.append(meter, twins[1]),
            np.append(start_us, np.full(n, NEVER_US)),
            np.append(end_us, np.full(n, FOREVER_US)),
            np.repeat([False, True], [len(vehicle), n]),
        )

    async def keyed(self, stream: Stream, keys: Sequence[int]) -> dict[int, Device]:
        """Return devices of a stream by key."""
        wanted = arrays.PgArray(np.array(keys, np.int32))
        rows = await self._all("registry", "keyed", stream, device_id=wanted)
        return {row[0]: to_device(stream, row) for row in rows}

    async def named(self, keys: Sequence[int]) -> dict[int, str]:
        """Return the outside ids of devices by key."""
        wanted = arrays.PgArray(np.array(keys, np.int32))
        return dict(await self._all("links", "named", None, device_id=wanted))

    async def windows(self, wanted: Sequence[Window]) -> list[tuple[Totals, list[RawBucket]]]:
        """Return, for each window, the sums of its whole buckets and the readings of its edges."""
        asked = [
            await self._ask("answers", "window", window.device.stream, _limits(window))
            for window in wanted
        ]
        return [
            _totals_and_edges(window, await cursor.fetchone())
            for window, cursor in zip(wanted, asked, strict=True)
        ]

    async def span(self, device: Device, start_us: int, end_us: int) -> tuple[int, int] | None:
        """Return the times of the first and last reading in [start_us, end_us), or None."""
        limits = {"start_at": start_us, "end_at": end_us, "bucket_at": bucket_floor(start_us)}
        params = {name: arrays.time_param(at_us) for name, at_us in limits.items()}
        first_us, last_us = await self._one(
            "answers", "span", device.stream, device_id=device.key, **params
        )
        return None if first_us is None else (first_us, last_us)

    async def raw_readings(
        self, device: Device, start_us: int, end_us: int, limit: int
    ) -> RawBucket:
        """Return the first `limit` readings measured in [start_us, end_us); `limit` is above 0."""
        ask = await self._series(device.stream)
        return await series.readings(ask, device, start_us, end_us, limit)

    async def quarters(self, device: Device, start_us: int, end_us: int, limit: int) -> Quarters:
        """Return the sums of the first `limit` quarter-hours that start in [start_us, end_us)."""
        ask = await self._series(device.stream)
        return await series.quarters(ask, device, start_us, end_us, limit)

    async def _series(self, stream: Stream) -> series.Ask:
        """Return what asks for parts of a device's history; only their partitions are planned."""
        await self._plan_anew()
        return partial(self._one, "series", stream=stream)

    async def fleet_totals(self, stream: Stream, start_us: int) -> DeviceTotals:
        """Sum, per device, every bucket that starts at or after `start_us`, a bucket start."""
        return await self._fleet.totals(self._ask_fleet, stream, start_us)

    async def _ask_fleet(self, name: str, stream: Stream | None, **params: Any) -> Any:
        """Ask a statement of `fleet.sql` for its one row; versions stay, as long as a snapshot."""
        if name == "versions" and stream in self._versions:
            return self._versions[stream]
        await self._plan_anew()
        row = await self._one("fleet", name, stream, **params)
        if name == "versions":
            self._versions[stream] = row
        return row

    async def sums_within(
        self, stream: Stream, key: Int64, first_us: Int64, last_us: Int64
    ) -> Int64:
        """Sum energy and readings over [first, last), each over whole buckets of its own."""
        await self._plan_anew()
        sums = await self._one(
            "answers",
            "sums_within",
            stream,
            device_id=arrays.PgArray(key.astype(np.int32)),
            start_at=arrays.PgArray(first_us, times=True),
            end_at=arrays.PgArray(last_us, times=True),
        )
        return np.zeros((2, 0), np.int64) if sums[0] is None else np.stack(sums, dtype=np.int64)

    async def buckets(self, stream: Stream, key: Int64, bucket_us: Int64) -> tuple[Runs, Int64]:
        """Return the readings of n buckets, each of one device, and which each run is."""
        await self._plan_anew()
        wanted = {
            "device_id": arrays.PgArray(key.astype(np.int32)),
            "bucket_at": arrays.PgArray(bucket_us, times=True),
        }
        ends = (int(bucket_us.min()), int(bucket_us.max()) + BUCKET_US)
        first_at, last_at = map(arrays.time_param, ends)
        devices = await self._one("answers", "bucket_carry", stream, **wanted)
        raw = await self._one(
            "answers", "bucket_readings", stream, **wanted, first_at=first_at, last_at=last_at
        )
        names = ["device_id", *(name for name, _ in RULE_COLUMNS), *CARRY]
        rows = arrays.to_rows(devices, names, live_dtype(stream))
        place, at_us, ukwh, values = arrays.readings_of(raw)
        present, run = np.unique(place, return_inverse=True)
        rows = rows.take(present)
        return Runs(KINDS[stream], run, at_us, ukwh, values, rows, rows), present

    async def labelled(self, stream: Stream) -> dict[str | None, Int64]:
        """Return the keys of all devices by fleet label; None: those without."""
        return {
            label: keys.astype(np.int64)
            for label, keys in await self._all("registry", "labelled", stream)
        }

    async def reached(self, stream: Stream, reach: Reach) -> Int64:
        """Return the keys of the devices of a stream within a reach, ascending."""
        await self._plan_anew()
        within = {"fleet": reach.fleet, "pattern": _like(reach.devices)}
        (keys,) = await self._one("registry", "reached", stream, **within)
        return np.zeros(0, np.int64) if keys is None else keys.astype(np.int64)

    async def of_fleet(self, stream: Stream, fleet: str, ids: Sequence[str]) -> set[str]:
        """Return those of some outside ids whose devices have a fleet label."""
        rows = await self._all("registry", "of_fleet", stream, fleet=fleet, ids=list(ids))
        return {external_id for (external_id,) in rows}

    async def stats(self, stream: Stream) -> StreamStats:
        """Return what is held of a stream, without touching history."""
        (devices,) = await self._one("answers", "device_count", stream)
        days = await self._all("answers", "days", stream)
        (rejections,) = await self._one("answers", "rejection_count", stream)
        return StreamStats(
            devices,
            min((first for _, _, first, _ in days), default=NEVER_US),
            max((last for _, _, _, last in days), default=NEVER_US),
            [DayCount(day, readings) for day, readings, _, _ in days],
            rejections,
        )

    async def newest(self, stream: Stream) -> int:
        """Return the time of a stream's newest reading; NEVER_US where there is none."""
        (at_us,) = await self._one("answers", "newest", stream)
        return NEVER_US if at_us is None else int(at_us)

    async def rejections(
        self, wanted: WantedRejections, after: int | None, limit: int
    ) -> list[KeptRejection]:
        """Return up to `limit` rejections in the wanted order, those after an id or all."""
        await self._plan_anew()
        rows = await self._all(
            "rejections",
            "list_newest" if wanted.newest_first else "list",
            None,
            after=after if after is not None else 2**63 - 1 if wanted.newest_first else 0,
            limit=limit,
            code=wanted.code,
            of_stream=wanted.stream,
            device=wanted.device,
            start_at=arrays.time_param(wanted.start_us),
            end_at=arrays.time_param(wanted.end_us),
        )
        return [_kept(row) for row in rows]

    async def rejection_counts(self) -> list[RejectionCount]:
        """Return how many records were ever refused, by stream and code."""
        return [
            RejectionCount(Stream(stream) if stream else None, code, rejections, last_at_us)
            for stream, code, rejections, last_at_us in await self._all(
                "rejections", "counts", None
            )
        ]


def _kept(row: Any) -> KeptRejection:
    number, at_us, stream, device, code, message, field, record, conflict, key = row
    both = None if conflict is None else Conflict(conflict["kept"], conflict["got"])
    known = Stream(stream) if stream else None
    return KeptRejection(
        number, at_us, Rejection(0, code, message, field, record, known, device, both), key
    )


def _limits(window: Window) -> dict[str, Any]:
    """Return the parameters of a window; an edge that is not wanted holds nothing."""
    limits = {"start_at": window.first_us, "end_at": window.last_us}
    minutes = {}
    for i, side in enumerate(("left", "right")):
        is_wanted = i < len(window.edges)
        limits[f"{side}_at"] = window.edges[i] if is_wanted else NEVER_US
        limits[f"{side}_end_at"] = window.edges[i] + BUCKET_US if is_wanted else NEVER_US
        minutes[f"{side}_minutes"] = arrays.minutes_param(window.edges[i] if is_wanted else None)
    times = {name: arrays.time_param(at_us) for name, at_us in limits.items()}
    return {"device_id": window.device.key, **times, **minutes}


def _totals_and_edges(window: Window, row: Any) -> tuple[Totals, list[RawBucket]]:
    width = len(KINDS[window.device.stream].fields)
    energy, suspect, readings, *measured = row[: 3 + 2 * width]
    totals = Totals(
        int(energy), int(suspect), readings, tuple(measured[::2]), tuple(measured[1::2])
    )
    raw = row[3 + 2 * width :]
    half = len(raw) // 2
    return totals, [
        series.raw_bucket(side, width) for side in (raw[:half], raw[half:])[: len(window.edges)]
    ]


def to_device(stream: Stream, row: Any) -> Device:
    """Return a device from a row of the registry."""
    key, external_id, fleet, time_zone, thresholds, *rules = row
    return Device(key, stream, external_id, to_rules(rules), fleet, time_zone, thresholds or {})


def to_rules(row: Any) -> Rules:
    """Return rules from their columns; 0 stands for no modulus and no rating."""
    mode, modulus, rated, heartbeat = row
    return Rules(EnergyMode(mode), modulus or None, rated or None, heartbeat)


def _like(pattern: str | None) -> str | None:
    """Return a reach's pattern of ids as LIKE reads it."""
    if pattern is None:
        return None
    signs = {"*": "%", "?": "_", "%": r"\%", "_": r"\_", "\\": r"\\"}
    return "".join(signs.get(sign, sign) for sign in pattern)
