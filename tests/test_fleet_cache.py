"""What an engine keeps in memory of all devices is what each snapshot holds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from conftest import Server
from test_store import NOW, meters, opened, vehicles
from wattstream.domain.devices import DeviceChange
from wattstream.domain.readings import Stream
from wattstream.domain.units import BUCKET_US, DAY_US, NEVER_US
from wattstream.query.low_efficiency import low_efficiency
from wattstream.store.port import Snapshot
from wattstream.store.postgres import PostgresStore
from wattstream.store.postgres.answers import PostgresSnapshot

DAY_START = NOW - 95 * BUCKET_US
"""Where the day begins whose last quarter-hour is open at NOW."""

Test = Callable[[PostgresStore, psycopg.Connection[Any]], Awaitable[None]]


@pytest.fixture
def run(embedded: Server) -> Callable[[Test], None]:
    """Run a test on a store with a database of its own, and a connection to that."""

    def on(test: Test) -> None:
        conninfo = embedded.make_database()

        async def main() -> None:
            async for store in opened(conninfo):
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    await test(store, connection)

        asyncio.run(main())

    return on


async def total(snapshot: Snapshot, start_us: int = DAY_START) -> int:
    return int((await snapshot.fleet_totals(Stream.METER, start_us)).energy_ukwh.sum())


async def twins(store: PostgresStore) -> int:
    async with store.snapshot() as snapshot:
        feeds = await snapshot.fleet_feeds(same_id=True)
    assert feeds.is_twin.all()
    return len(feeds.vehicle)


def test_each_snapshot_sums_what_it_sees(run: Callable[[Test], None]) -> None:
    async def test(store: PostgresStore, _: psycopg.Connection[Any]) -> None:
        await store.write(meters(("A", NOW, 1, 1.0), ("B", NOW, 2, 1.0)), NOW)
        async with store.snapshot() as before:
            await before.stats(Stream.METER)  # a snapshot is of its first question
            await store.write(meters(("A", NOW + 1, 4, 1.0)), NOW)
            async with store.snapshot() as after:
                assert await total(after) == 7
                assert await total(before) == 3
                assert await total(after) == 7
                await store.write(meters(("C", NOW, 8, 1.0)), NOW)
                assert await total(before) == 3
        async with store.snapshot() as last:
            assert await total(last) == 15

    run(test)


def test_many_at_once_sum_what_they_see(run: Callable[[Test], None]) -> None:
    async def test(store: PostgresStore, _: psycopg.Connection[Any]) -> None:
        async def ask(start_us: int) -> None:
            async with store.snapshot() as snapshot:
                held = (await snapshot.stats(Stream.METER)).days
                sums = await snapshot.fleet_totals(Stream.METER, start_us)
                assert sums.readings.sum() == sum(day.readings for day in held)

        for i in range(20):
            names = [f"M{n}" for n in range(i + 1)]
            await asyncio.gather(
                store.write(meters(*((name, NOW + i, 1, 1.0) for name in names)), NOW),
                *(ask(DAY_START - n * BUCKET_US) for n in range(4)),
            )

    run(test)


def test_a_day_that_begins_elsewhere_is_moved(run: Callable[[Test], None]) -> None:
    """The quarter-hour changes for all devices at once, and each sends at its own time."""

    async def test(store: PostgresStore, _: psycopg.Connection[Any]) -> None:
        at = [NOW - DAY_US - BUCKET_US, NOW - DAY_US, NOW - DAY_US + BUCKET_US, NOW]
        rows = [("A", at_us, 10**place, 1.0) for place, at_us in enumerate(at)]
        await store.write(meters(*rows), NOW)
        starts = {at_us: sum(10**n for n in range(i, 4)) for i, at_us in enumerate(at)}
        for _ in range(2):
            for start_us, expected in (*starts.items(), *reversed(starts.items())):
                async with store.snapshot() as snapshot:
                    assert await total(snapshot, start_us) == expected
        # A reading that comes late, into what was taken off already.
        await store.write(meters(("A", NOW - DAY_US + 1, 50_000, 1.0)), NOW)
        async with store.snapshot() as snapshot:
            assert await total(snapshot, NOW - DAY_US) == starts[NOW - DAY_US] + 50_000
            assert await total(snapshot, NOW - DAY_US + BUCKET_US) == 1100

    run(test)


def test_a_repair_outside_the_day_is_seen(run: Callable[[Test], None]) -> None:
    async def test(store: PostgresStore, connection: psycopg.Connection[Any]) -> None:
        early = NOW - 2 * DAY_US
        await store.write(meters(("A", early, 1, 1.0), ("A", NOW, 2, 1.0)), NOW)
        connection.execute("UPDATE meter_rollup SET energy_ukwh = 5")
        async with store.snapshot() as snapshot:
            assert await total(snapshot, early) == 7
        assert (await store.refresh(early, NOW + 1)).buckets_repaired == 1
        async with store.snapshot() as snapshot:
            assert await total(snapshot, early) == 3

    run(test)


def test_only_changed_blocks_are_read_again(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    ask = PostgresSnapshot._ask

    async def listen(self: Any, file: str, name: str, stream: Any, params: Any) -> Any:
        if file == "fleet":
            keys = params.get("device_id")
            asked.append((name, 0 if keys is None else (len(keys.data) - 20) // 8))
        return await ask(self, file, name, stream, params)

    async def test(store: PostgresStore, _: psycopg.Connection[Any]) -> None:
        names = [f"M{n:03}" for n in range(200)]
        await store.write(meters(*((name, NOW, 1, 1.0) for name in names)), NOW)
        monkeypatch.setattr(PostgresSnapshot, "_ask", listen)
        expected = [[("versions", 0), ("days", 200)], [("versions", 0)]]
        expected += [[("versions", 0), ("days", 8)], [("versions", 0), ("closed", 200)]]
        expected += [[("versions", 0), ("days", 8), ("closed", 8)]]
        for i, wanted in enumerate(expected):
            if i in (2, 4):
                await store.write(meters((names[50], NOW + i, 1, 1.0)), NOW)
            asked.clear()
            async with store.snapshot() as snapshot:
                sums = await total(snapshot, DAY_START + BUCKET_US * (i > 2))
            assert sums == 200 + (i >= 2) + (i >= 4)
            assert asked == wanted

    run(test)


def test_a_long_question_holds_up_no_other(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = PostgresSnapshot._ask
    goes_on, is_asked = asyncio.Event(), asyncio.Event()

    async def slow(self: Any, file: str, name: str, stream: Any, params: Any) -> Any:
        if name == "closed":
            is_asked.set()
            await goes_on.wait()
        return await ask(self, file, name, stream, params)

    async def test(store: PostgresStore, _: psycopg.Connection[Any]) -> None:
        early = NOW - 3 * DAY_US
        await store.write(meters(("A", early, 1, 1.0), ("A", NOW, 2, 1.0)), NOW)
        monkeypatch.setattr(PostgresSnapshot, "_ask", slow)

        async def since(start_us: int) -> int:
            async with store.snapshot() as snapshot:
                return await total(snapshot, start_us)

        long = asyncio.create_task(since(early))
        await is_asked.wait()
        await store.write(meters(("A", NOW + 1, 4, 1.0)), NOW)
        async with asyncio.timeout(10):
            assert await since(DAY_START) == 6
        goes_on.set()
        assert await long == 3
        assert await since(early) == 7  # what the long one read is of an older version

    run(test)


def test_twins_follow_devices_and_links(run: Callable[[Test], None]) -> None:
    async def test(store: PostgresStore, connection: psycopg.Connection[Any]) -> None:
        assert await twins(store) == 0
        await store.write(meters(("A", NOW, 9, 1.0), ("B", NOW, 9, 1.0)), NOW)
        await store.write(vehicles(("A", NOW, 1, 1, 1)), NOW)
        assert await twins(store) == 1
        # A vehicle without a reading, in a block that is known.
        await store.change_device(Stream.VEHICLE, "B", DeviceChange(fleet="x"))
        assert await twins(store) == 2
        link = await store.add_link("B", "C", NEVER_US, NOW)
        async with store.snapshot() as snapshot:
            assert (await snapshot.fleet_feeds(same_id=True)).is_twin.tolist() == [False, True]
            assert (await snapshot.fleet_feeds(same_id=False)).is_twin.tolist() == [False]
        await store.delete_link(link.link_id)
        assert await twins(store) == 2
        # Somebody takes devices out.
        answer = await low_efficiency(store, NOW + 1, same_id=True, threshold=0.85)
        assert [low.vehicle_id for low in answer.alerts] == ["A"]
        connection.execute("CREATE TABLE gone AS TABLE devices")
        connection.execute("DELETE FROM devices WHERE external_id = 'A'")
        assert await twins(store) == 1
        answer = await low_efficiency(store, NOW + 1, same_id=True, threshold=0.85)
        assert answer.alerts == []
        connection.execute(
            "INSERT INTO devices OVERRIDING SYSTEM VALUE SELECT * FROM gone WHERE external_id = 'A'"
        )
        assert await twins(store) == 2
        connection.execute("DELETE FROM meter_warm")
        async with store.snapshot() as snapshot:
            assert await total(snapshot) == 0

    run(test)
