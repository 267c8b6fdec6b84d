"""The store on PostgreSQL: a lane per stream, workers for the rest, a pool that answers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from wattstream.domain.devices import Device, DeviceChange
from wattstream.domain.errors import StoreUnavailableError, WattstreamError
from wattstream.domain.holdings import Repair
from wattstream.domain.links import KeptLink
from wattstream.domain.readings import Readings, Rejection, Stream
from wattstream.domain.units import DAY_US, bucket_ceil, bucket_floor
from wattstream.store.port import Progress, Snapshot, Stage, Verdict, Written
from wattstream.store.postgres import arrays, links, statements
from wattstream.store.postgres.access import PostgresAccess
from wattstream.store.postgres.alerts import PostgresAlerts, PostgresAlertSnapshot
from wattstream.store.postgres.answers import PostgresSnapshot
from wattstream.store.postgres.blocks import lock
from wattstream.store.postgres.connections import (
    APPLICATION_NAME,
    Connection,
    Worker,
    has_ended,
    session_sql,
    unavailable,
)
from wattstream.store.postgres.fleet import FleetCache
from wattstream.store.postgres.flush import Flush, FlushWriter
from wattstream.store.postgres.gauges import (
    Footprint,
    FootprintSnapshot,
    PoolState,
    StageWatch,
)
from wattstream.store.postgres.recompute import rebuild
from wattstream.store.postgres.rejections import keep, prune_part
from wattstream.store.postgres.rules import AT_ONCE_READINGS, change_device, recompute_waiting
from wattstream.store.postgres.view import PostgresView, PostgresViewSnapshot

WRITE_CONNECTIONS = 7
_RECOMPUTE_EVERY_S, _RECOMPUTE_SOON_S = 10.0, 0.2
_REFRESH_DEVICES = 64
_BEGIN = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)

View = TypeVar("View", bound=PostgresSnapshot)

_log = structlog.get_logger()


class PostgresStore:
    """A Store on one PostgreSQL database; several engines may share it."""

    def __init__(
        self, conninfo: str, *, read_connections: int, at_once_readings: int = AT_ONCE_READINGS
    ) -> None:
        """Prepare a store; a device with more than `at_once_readings` gets new rules later."""
        self._at_once_readings = at_once_readings
        self._writers = {stream: FlushWriter(stream) for stream in Stream}
        self._fleet = FleetCache()
        self._lanes = {
            stream: Worker(conninfo, f"{stream} lane", plans_once=True) for stream in Stream
        }
        self._keeper = Worker(conninfo, "keeper")
        self._admin = Worker(conninfo, "admin")
        self._alerter = Worker(conninfo, "alerts")
        self.alerts = PostgresAlerts(partial(self._view, PostgresAlertSnapshot), self._alerter)
        self._guardian = Worker(conninfo, "keys")
        self.access = PostgresAccess(self._guardian)
        self.view = PostgresView(partial(self._view, PostgresViewSnapshot))
        self._recomputer = Worker(conninfo, "recomputer")
        self._has_changed = asyncio.Event()
        self._stop = threading.Event()
        self._pool = AsyncConnectionPool(
            conninfo,
            min_size=min(2, read_connections),
            max_size=read_connections,
            timeout=5,
            # Attempts to connect again back off for as long as this, then start afresh with the
            # next question: what comes back is found within seconds.
            reconnect_timeout=2,
            open=False,
            configure=_configure,
            check=_check,
            kwargs={"autocommit": True, "application_name": f"{APPLICATION_NAME} reader"},
        )

    async def open(self) -> None:
        """Open the connections that answer."""
        await self._pool.open()

    async def close(self) -> None:
        """Finish what is under way and close every connection."""
        self._stop.set()
        workers = (
            *self._lanes.values(),
            self._keeper,
            self._admin,
            self._alerter,
            self._guardian,
            self._recomputer,
        )
        await asyncio.gather(*(worker.close() for worker in workers))
        await self._pool.close()

    async def write(
        self,
        readings: Readings,
        received_at_us: int,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Written:
        """Write readings of one stream in one transaction; return after the commit."""
        loop = asyncio.get_running_loop()
        writer = self._writers[readings.stream]
        lane = self._lanes[readings.stream]
        watch = StageWatch()

        def tell(progress: Progress) -> None:
            if on_progress is not None:
                loop.call_soon_threadsafe(on_progress, progress)

        def write_packed(connection: Connection) -> Written:
            watch.lap(Stage.WAIT)
            return _write_isolating(writer, connection, flush, tell)

        # Here, while the lane's thread waits for the database: a third thread would mostly wait for
        # the interpreter, and so take several times as long.
        flush = writer.prepare(readings, received_at_us)
        watch.lap(Stage.PACK)
        written = await lane.run(write_packed)
        watch.lap(Stage.WRITE)
        return replace(written, stage_s=watch.seconds)

    async def keep(
        self, rejections: Sequence[Rejection], rejected_at_us: int, key: str | None = None
    ) -> None:
        """Keep what was refused, and the prefix of the key that it came with."""
        await self._keeper.run(partial(keep, rejections, rejected_at_us, key))

    async def prune(self, oldest_us: int, max_bytes: int) -> int:
        """Drop kept rejections from before a time, and the oldest beyond a size."""
        pruned = 0
        # Part by part: what is refused meanwhile is kept in between.
        while part := await self._keeper.run(partial(prune_part, oldest_us, max_bytes)):
            pruned += part
        return pruned

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Open a consistent view."""
        return self._view(PostgresSnapshot)

    @asynccontextmanager
    async def _view(self, kind: type[View]) -> AsyncIterator[View]:
        try:
            refused: WattstreamError | None = None
            # In a pipeline, statements do not wait for the answers to those before. What fails is
            # rolled back as the pool takes its connection back.
            async with self._pool.connection() as connection, connection.pipeline():
                await connection.execute(_BEGIN)
                try:
                    yield kind(connection, self._fleet)
                except WattstreamError as error:  # such as an unknown device: nothing failed here
                    refused = error
                await connection.execute(b"COMMIT")
            if refused is not None:
                raise refused
        except _AWAY as error:
            raise await self._unavailable(error) from error

    async def change_device(
        self, stream: Stream, external_id: str, change: DeviceChange
    ) -> tuple[Device, bool]:
        """Change or make a device and recompute its totals where a rule changed."""
        done = await self._admin.run(
            lambda connection: change_device(
                connection,
                self._writers[stream].keys,
                stream,
                external_id,
                change,
                at_once_readings=self._at_once_readings,
            )
        )
        self._has_changed.set()
        return done

    async def recompute(self) -> None:
        """Recompute devices whose rules changed, whoever changed them, until cancelled."""
        work = partial(recompute_waiting, self._at_once_readings, self._stop)
        while True:
            self._has_changed.clear()
            pause_s = _RECOMPUTE_EVERY_S
            try:
                if not await self._recomputer.run(work):
                    pause_s = _RECOMPUTE_SOON_S
            except WattstreamError as error:
                _log.warning("Devices wait to be recomputed; trying again", why=error.message)
            except Exception:  # noqa: BLE001 - a bug must be seen, and other devices still served
                _log.exception("A device was not recomputed; trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._has_changed.wait()

    async def add_link(self, meter: str, vehicle: str, start_us: int, end_us: int) -> KeptLink:
        """Link a meter to a vehicle over [start_us, end_us); devices that are new are made."""
        return await self._admin.run(
            partial(self._add_link, meter=meter, vehicle=vehicle, start_us=start_us, end_us=end_us)
        )

    async def end_link(self, link_id: int, end_us: int) -> KeptLink:
        """Set the end of a link."""
        return await self._admin.run(partial(links.end, link_id=link_id, end_us=end_us))

    async def delete_link(self, link_id: int) -> None:
        """Remove a link, as if it had never been."""
        await self._admin.run(partial(links.delete, link_id=link_id))

    async def refresh(self, start_us: int, end_us: int) -> Repair:
        """Recompute every bucket that touches [start_us, end_us) and repair what differs."""
        checked = repaired = 0
        for stream in Stream:
            held = await self._admin.run(partial(_held_range, stream))
            first = max(bucket_floor(start_us), bucket_floor(held[0]))
            last = min(bucket_ceil(end_us), bucket_ceil(held[1] + 1))
            for start in range(first, last, DAY_US):
                end = min(start + DAY_US, last)
                found = await self._refresh_day(stream, start, end)
                checked += found.buckets_checked
                repaired += found.buckets_repaired
        return Repair(checked, repaired)

    async def _refresh_day(self, stream: Stream, start_us: int, end_us: int) -> Repair:
        checked = repaired = 0
        devices = await self._admin.run(partial(_device_ids, stream))
        for first in range(0, len(devices), _REFRESH_DEVICES):
            part = devices[first : first + _REFRESH_DEVICES]
            found = await self._admin.run(
                partial(_refresh, stream=stream, devices=part, start=start_us, end=end_us)
            )
            checked += found.buckets_checked
            repaired += found.buckets_repaired
        return Repair(checked, repaired)

    async def prepare(self, now_us: int) -> None:
        """Make the partitions of the next days."""
        for stream, lane in self._lanes.items():
            partitions = self._writers[stream].partitions
            await lane.run(lambda connection, known=partitions: known.prepare(connection, now_us))  # type: ignore[misc]

    async def ping(self) -> None:
        """Return when the database answers."""
        try:
            async with self._pool.connection(timeout=2) as connection:
                await connection.execute("SELECT 1")
        except _AWAY as error:
            raise await self._unavailable(error) from error

    def pool_state(self) -> PoolState:
        """Return how busy the connections that answer are."""
        return PoolState.of(self._pool.get_stats())

    async def footprint(self) -> Footprint:
        """Return how large the database is."""
        async with self._view(FootprintSnapshot) as view:
            return await view.footprint()

    async def _unavailable(self, error: Exception) -> StoreUnavailableError:
        """Replace every dead connection at the first sign of one, so the next answer comes."""
        if not isinstance(error, PoolTimeout):
            await self._pool.check()
        return unavailable(error)

    def _add_link(
        self, connection: Connection, *, meter: str, vehicle: str, start_us: int, end_us: int
    ) -> KeptLink:
        key = {
            stream: self._writers[stream].keys.made(connection, name)
            for stream, name in ((Stream.METER, meter), (Stream.VEHICLE, vehicle))
        }
        link_id = links.add(
            connection, key[Stream.METER], key[Stream.VEHICLE], start_us=start_us, end_us=end_us
        )
        return KeptLink(link_id, meter, vehicle, start_us, end_us)


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute(session_sql(writes=False))
    arrays.register(connection)
    connection.prepare_threshold = 2


async def _check(connection: psycopg.AsyncConnection[Any]) -> None:
    """Have a connection replaced that ended while it was idle."""
    if has_ended(connection):
        raise psycopg.OperationalError("the server closed the connection")


def _write_isolating(
    writer: FlushWriter,
    connection: Connection,
    flush: Flush,
    on_progress: Callable[[Progress], None] | None = None,
) -> Written:
    """Write a flush; where the database refuses a reading, find it and store the others."""
    readings = flush.readings
    try:
        return writer.write(connection, flush, on_progress)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        if len(readings) == 1:
            return Written(
                np.array([Verdict.REFUSED], np.int8), refused={0: _refusal(error, readings.ids[0])}
            )
    middle = len(readings) // 2
    parts = (readings.part(0, middle), readings.part(middle, len(readings)))
    a, b = (
        _write_isolating(writer, connection, Flush(part, flush.received_at_us)) for part in parts
    )
    return Written(
        np.concatenate([a.verdicts, b.verdicts]),
        a.standing | {middle + row: values for row, values in b.standing.items()},
        a.refused | {middle + row: reason for row, reason in b.refused.items()},
        a.late + b.late,
    )


def _refusal(error: psycopg.Error, device: str) -> tuple[str, str]:
    if "readings_check" in (error.diag.constraint_name or ""):
        return (
            "too_many_readings",
            f"a device may have at most 9,000 readings in a quarter-hour, got more ({device})",
        )
    _log.warning("A reading was refused", device=device, detail=error.diag.message_primary)
    return "refused_by_database", f"the database refused this reading ({device})"


def _held_range(stream: Stream, connection: Connection) -> tuple[int, int]:
    """Return the first and last time that history holds; an empty range where it holds none."""
    statement = statements.load("recompute", stream)["held_range"]
    row = connection.execute(statement, binary=True).fetchone()
    return (0, -1) if row is None or row[0] is None else (row[0], row[1])


def _device_ids(stream: Stream, connection: Connection) -> Any:
    statement = statements.load("recompute", stream)["device_ids"]
    row = connection.execute(statement, binary=True).fetchone()
    return [] if row is None or row[0] is None else row[0]


def _refresh(
    connection: Connection, *, stream: Stream, devices: Any, start: int, end: int
) -> Repair:
    with connection.transaction():
        live = lock(connection, stream, devices)
        return rebuild(connection, stream, live, start, end)
