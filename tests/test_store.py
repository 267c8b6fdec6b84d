"""What every store promises, on memory, the embedded PostgreSQL and the machine's own."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import psycopg
import pytest
from psycopg.pq import TransactionStatus

from conftest import Server
from oracle import MemoryStore
from wattstream.domain.devices import DeviceChange
from wattstream.domain.errors import NotFoundError
from wattstream.domain.holdings import WantedRejections
from wattstream.domain.readings import KINDS, Conflict, Readings, Rejection, Stream
from wattstream.domain.register import EnergyMode
from wattstream.domain.units import BUCKET_US, MICRO, NEVER_US, bucket_floor
from wattstream.query.latest import find
from wattstream.store.port import Store, Values, Verdict, Window
from wattstream.store.postgres import PostgresStore, migrate
from wattstream.store.postgres.connections import Worker

NOW = 1_770_631_200 * MICRO  # 2026-02-09T10:00:00Z, a bucket start
MINUTE = 60 * MICRO
Test = Callable[[Store], Awaitable[None]]


def meters(*rows: tuple[str, int, int, float]) -> Readings:
    """Return readings of (id, time, micro-kWh, volts)."""
    ids, at, energy, volts = zip(*rows, strict=True)
    return Readings(
        Stream.METER, list(ids), np.array(at), np.array(energy), np.array(volts, float)[:, None]
    )


def vehicles(*rows: tuple[str, int, int, float, float]) -> Readings:
    """Return readings of (id, time, micro-kWh, soc, battery temperature)."""
    ids, at, energy, soc, temp = zip(*rows, strict=True)
    return Readings(
        Stream.VEHICLE,
        list(ids),
        np.array(at),
        np.array(energy),
        np.column_stack([np.array(soc, float), np.array(temp, float)]),
    )


@pytest.fixture(params=["memory", "embedded", "system"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Run a test against a fresh store of each kind."""

    def on(test: Test) -> None:
        async def main() -> None:
            if request.param == "memory":
                await test(MemoryStore())
                return
            server = request.getfixturevalue(request.param)
            async for store in opened(server.make_database()):
                await test(store)

        asyncio.run(main())

    return on


async def opened(conninfo: str, **options: int) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(conninfo, read_connections=2, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def latest(store: Store, stream: Stream, name: str) -> tuple[int, Values, int]:
    async with store.snapshot() as snapshot:
        device = await snapshot.device(stream, name)
        assert device is not None
        found = await snapshot.latest(device)
    return found.at_us, found.values, found.delta_ukwh


async def energy(store: Store, stream: Stream, name: str) -> tuple[int, int, int]:
    """Return counted and suspect energy and readings of a device's whole history."""
    async with store.snapshot() as snapshot:
        device = await snapshot.device(stream, name)
        assert device is not None
        days = (NOW - 400 * 96 * BUCKET_US, NOW + 96 * BUCKET_US)
        ((total, _),) = await snapshot.windows([Window(device, *days)])
    return total.energy_ukwh, total.suspect_ukwh, total.readings


def test_the_first_and_last_reading_of_a_range_are_found(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        times = [NOW - 3 * BUCKET_US, NOW - 2 * BUCKET_US + 1, NOW - MINUTE, NOW]
        await store.write(meters(*(("A", at, 5, 230.0) for at in times)), NOW)
        await store.write(meters(("B", NOW - MINUTE, 5, 230.0)), NOW)
        async with store.snapshot() as snapshot:
            device = await snapshot.device(Stream.METER, "A")
            assert device is not None
            assert await snapshot.span(device, times[0], times[3]) == (times[0], times[2])
            assert await snapshot.span(device, times[0] + 1, times[1] + 1) == (times[1], times[1])
            assert await snapshot.span(device, times[1] + 1, times[2]) is None

    run(test)


def test_a_reading_is_in_history_live_state_and_totals(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        written = await store.write(vehicles(("V", NOW, 12_500_000, 75, 36.2)), NOW + 1)
        assert written.verdicts.tolist() == [Verdict.STORED]
        assert await latest(store, Stream.VEHICLE, "V") == (
            NOW,
            Values(12_500_000, (75.0, 36.2)),
            12_500_000,
        )
        async with store.snapshot() as snapshot:
            device = await snapshot.device(Stream.VEHICLE, "V")
            assert device is not None
            total = (await snapshot.windows([Window(device, NOW, NOW + BUCKET_US)]))[0][0]
            ((_, (raw,)),) = await snapshot.windows([Window(device, NOW, NOW, (NOW,))])
        assert (total.energy_ukwh, total.readings) == (12_500_000, 1)
        assert total.sums_micro == (75_000_000, 36_200_000)
        assert raw.at_us.tolist() == [NOW]
        assert raw.energy_ukwh.tolist() == [12_500_000]

    run(test)


def test_absent_fields_come_back_absent(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        await store.write(
            vehicles(("V", NOW, 1, math.nan, 20.5), ("V", NOW + 1, 1, 50, math.nan)), NOW
        )
        _, values, _ = await latest(store, Stream.VEHICLE, "V")
        assert values.fields[0] == 50
        assert math.isnan(values.fields[1])
        async with store.snapshot() as snapshot:
            device = await snapshot.device(Stream.VEHICLE, "V")
            assert device is not None
            ((_, (raw,)),) = await snapshot.windows([Window(device, NOW, NOW, (NOW,))])
            total = (await snapshot.windows([Window(device, NOW, NOW + BUCKET_US)]))[0][0]
        np.testing.assert_array_equal(raw.values, [[math.nan, 20.5], [50, math.nan]])
        assert total.counts == (1, 1)

    run(test)


def test_the_same_values_again_are_duplicates_and_others_conflicts(
    run: Callable[[Test], None],
) -> None:
    async def test(store: Store) -> None:
        first = meters(("M", NOW, 5, 230.0), ("N", NOW, 7, math.nan))
        await store.write(first, NOW)
        again = await store.write(first, NOW)
        assert again.verdicts.tolist() == [Verdict.DUPLICATE] * 2
        other = await store.write(
            meters(("M", NOW, 6, 230.0), ("N", NOW, 7, 230.0), ("M", NOW, 5, 230.0)), NOW
        )
        assert other.verdicts.tolist() == [Verdict.CONFLICT, Verdict.CONFLICT, Verdict.DUPLICATE]
        assert other.standing[0] == Values(5, (230.0,))
        assert math.isnan(other.standing[1].fields[0])
        assert await energy(store, Stream.METER, "M") == (5, 0, 1)

    run(test)


def test_of_one_reading_twice_in_a_flush_the_first_stands(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        written = await store.write(
            meters(("M", NOW, 5, 1), ("M", NOW, 6, 1), ("M", NOW, 5, 1), ("M", NOW, 6, 1)), NOW
        )
        assert written.verdicts.tolist() == [
            Verdict.STORED,
            Verdict.CONFLICT,
            Verdict.DUPLICATE,
            Verdict.CONFLICT,
        ]

    run(test)


def test_a_late_reading_does_not_touch_the_newest(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        await store.write(meters(("M", NOW, 5, 230)), NOW)
        await store.write(meters(("M", NOW - 3 * 3600 * MICRO, 100, 1), ("M", NOW - 1, 10, 2)), NOW)
        assert await latest(store, Stream.METER, "M") == (NOW, Values(5, (230.0,)), 5)
        assert await energy(store, Stream.METER, "M") == (115, 0, 3)

    run(test)


def test_readings_of_any_day_find_their_partition(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        days = [NOW - day * 96 * BUCKET_US for day in (0, 399, 30, 1, 200)]
        written = await store.write(meters(*(("M", at, 1, 1) for at in days)), NOW)
        assert written.verdicts.tolist() == [Verdict.STORED] * 5
        async with store.snapshot() as snapshot:
            stats = await snapshot.stats(Stream.METER)
        assert [day.readings for day in stats.days] == [1] * 5
        assert (stats.first_at_us, stats.last_at_us) == (min(days), max(days))

    run(test)


def test_a_register_counts_differences(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        await store.change_device(Stream.METER, "M", DeviceChange(energy_mode=EnergyMode.REGISTER))
        readings = [("M", NOW + i * MINUTE, 1000 + i * i, 1.0) for i in range(40)]
        for row in (*readings[20:], *reversed(readings[:20])):
            await store.write(meters(row), NOW)
        assert await energy(store, Stream.METER, "M") == (39 * 39, 0, 40)

    run(test)


def test_a_register_that_was_none_counts_as_if_it_had_never_been_one(
    run: Callable[[Test], None],
) -> None:
    async def test(store: Store) -> None:
        register = DeviceChange(energy_mode=EnergyMode.REGISTER, rated_w=1000)
        await store.change_device(Stream.METER, "M", register)
        values = (5_000_000, 9_000_000, 4_000_000, 9_500_000)  # implausible steps, and a fall
        rows = [("M", NOW + i * MINUTE, value, 1.0) for i, value in enumerate(values)]
        await store.write(meters(*rows), NOW)
        assert await energy(store, Stream.METER, "M") == (0, 4_500_000, 4)
        back = DeviceChange(energy_mode=EnergyMode.INTERVAL, clear=frozenset({"rated_w"}))
        await store.change_device(Stream.METER, "M", back)
        assert await energy(store, Stream.METER, "M") == (sum(values), 0, 4)
        await store.write(meters(("M", NOW + 4 * MINUTE, 1, 1.0)), NOW)
        assert await energy(store, Stream.METER, "M") == (sum(values) + 1, 0, 5)
        async with store.snapshot() as snapshot:
            (device,) = await snapshot.devices(Stream.METER, "", 9)
            assert await snapshot.falls(device, NEVER_US, 9) == []
        assert (await store.refresh(NOW, NOW + BUCKET_US)).buckets_repaired == 0

    run(test)


def test_settings_apply_to_the_whole_history(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        rows = [("M", NOW + i * MINUTE, 1_000_000 * i, 1.0) for i in range(40)]
        await store.write(meters(*rows), NOW)
        device, is_new = await store.change_device(
            Stream.METER,
            "M",
            DeviceChange(energy_mode=EnergyMode.REGISTER, rated_w=1000, fleet="north"),
        )
        assert (device.fleet, is_new) == ("north", False)
        # 1 kWh a minute is 60 kW: nothing of it is plausible for 1 kW.
        assert await energy(store, Stream.METER, "M") == (0, 39_000_000, 40)
        await store.change_device(Stream.METER, "M", DeviceChange(clear=frozenset({"rated_w"})))
        assert await energy(store, Stream.METER, "M") == (39_000_000, 0, 40)

    run(test)


def test_devices_are_listed_in_the_order_of_their_ids(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        names = ["b", "a", "é", "Z", "10", "9", "車"]
        await store.write(meters(*((name, NOW, 1, 1.0) for name in names)), NOW)
        async with store.snapshot() as snapshot:
            first = await snapshot.devices(Stream.METER, "", 3)
            rest = await snapshot.devices(Stream.METER, first[-1].external_id, 100)
        assert [device.external_id for device in (*first, *rest)] == sorted(names)

    run(test)


def test_too_many_readings_in_a_quarter_hour_are_refused_alone(
    run: Callable[[Test], None],
) -> None:
    async def test(store: Store) -> None:
        much = 10**15
        rows = [("M", NOW + i, much, 1.0) for i in range(9000)]
        await store.write(meters(*rows), NOW)
        written = await store.write(
            meters(("N", NOW, 1, 1.0), ("M", NOW + 9001, much, 1.0), ("O", NOW, 1, 1.0)), NOW
        )
        assert written.verdicts.tolist() == [Verdict.STORED, Verdict.REFUSED, Verdict.STORED]
        assert written.refused[1][0] == "too_many_readings"
        assert await energy(store, Stream.METER, "M") == (9000 * much, 0, 9000)

    run(test)


def test_a_large_flush_refuses_only_the_reading_that_is_too_many(
    run: Callable[[Test], None],
) -> None:
    async def test(store: Store) -> None:
        names = [f"L{i}" for i in range(500)]
        await store.write(meters(*((name, NOW, 1, 1.0) for name in names)), NOW)
        full = [(names[250], NOW + 1 + i, 1, 1.0) for i in range(8999)]
        await store.write(meters(*full), NOW)
        later = NOW + 10_000
        written = await store.write(meters(*((name, later, 1, 1.0) for name in names)), NOW)
        expected = [Verdict.STORED] * 500
        expected[250] = Verdict.REFUSED
        assert written.verdicts.tolist() == expected
        assert written.refused[250][0] == "too_many_readings"
        totals = [await energy(store, Stream.METER, names[i]) for i in (249, 250, 251)]
        assert totals == [(2, 0, 2), (9000, 0, 9000), (2, 0, 2)]

    run(test)


@pytest.mark.parametrize("size", [8, 800])
def test_two_engines_change_devices_of_one_block_in_turn(
    make_database: Callable[[], str], size: int
) -> None:
    """Each has blocks in memory that the other has changed since, and another device of them."""
    names = [f"T{i}" for i in range(size)]

    async def main() -> None:
        conninfo = make_database()
        async for a in opened(conninfo):
            async for b in opened(conninfo):
                sent = 0
                for step in range(12):
                    writer, some = ((a, names), (b, names[::7]), (a, names[3::5]))[step % 3]
                    rows = [(name, NOW + step * MINUTE, 1, float(step)) for name in some]
                    written = await writer.write(meters(*rows), NOW)
                    assert (written.verdicts == Verdict.STORED).all()
                    sent += len(rows)
                for place, name in enumerate(names[:40]):
                    steps = [
                        step
                        for step in range(12)
                        if place in (range(size), range(0, size, 7), range(3, size, 5))[step % 3]
                    ]
                    at, values, _ = await latest(b, Stream.METER, name)
                    assert (at, values.fields) == (NOW + steps[-1] * MINUTE, (steps[-1],))
                    total = await energy(a, Stream.METER, name)
                    assert total == (len(steps), 0, len(steps))
                async with a.snapshot() as snapshot:
                    held = sum(day.readings for day in (await snapshot.stats(Stream.METER)).days)
                assert held == sent
                repair = await b.refresh(NOW - BUCKET_US, NOW + 2 * BUCKET_US)
                assert repair.buckets_repaired == 0

    asyncio.run(main())


@pytest.mark.parametrize("size", [5, 500])
@pytest.mark.parametrize(
    "gone", [("devices", "meter_history", "meter_rollup", "meter_warm"), ("meter_warm",)]
)
def test_devices_removed_under_the_engine_are_made_again(
    embedded: Server, size: int, gone: tuple[str, ...]
) -> None:
    """By hand, or by a restore: their rows are gone, the blocks that they shared are not."""
    conninfo = embedded.make_database()
    names = [f"G{i}" for i in range(size)]

    async def main() -> None:
        async for store in opened(conninfo):
            await store.write(meters(*((name, NOW, 1, 1.0) for name in names)), NOW)
            with psycopg.connect(conninfo, autocommit=True) as connection:
                for table in gone:
                    connection.execute(
                        f"DELETE FROM {table} WHERE device_id ="
                        " (SELECT device_id FROM meter_warm ORDER BY device_id OFFSET 2 LIMIT 1)"
                        if table != "devices"
                        else "DELETE FROM devices WHERE external_id = 'G2'"
                    )
            for later in (NOW + 2 * BUCKET_US, NOW + BUCKET_US):  # a new quarter-hour, a late one
                rows = ((name, later, 1, 1.0) for name in names)
                written = await store.write(meters(*rows), NOW)
                assert (written.verdicts == Verdict.STORED).all()
            held = 3 if gone == ("meter_warm",) else 2
            await store.refresh(NOW, NOW + 3 * BUCKET_US)
            totals = [await energy(store, Stream.METER, name) for name in names[:4]]
            assert [total[0] for total in totals] == [3, 3, held, 3]
            async for other in opened(conninfo):  # one that finds them all registered
                last = meters(*((name, NOW + 3 * BUCKET_US, 1, 1.0) for name in names))
                assert not (await other.write(last, NOW)).verdicts.any()
                assert (await energy(other, Stream.METER, names[2]))[0] == held + 1

    asyncio.run(main())


def test_a_device_without_a_reading_has_no_values(embedded: Server) -> None:
    conninfo = embedded.make_database()

    async def main() -> None:
        async for store in opened(conninfo):
            await store.change_device(Stream.VEHICLE, "new", DeviceChange(fleet="x"))
            await store.write(vehicles(("other", NOW, 1, 50.0, 20.0)), NOW)

    asyncio.run(main())
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT external_id, soc_percent, battery_temp_c, last_at::text"
            " FROM vehicle_live JOIN devices USING (device_id) ORDER BY 1"
        ).fetchall()
    assert rows[0] == ("new", None, None, "-infinity")
    assert rows[1][:3] == ("other", 50.0, 20.0)


def test_what_was_refused_is_kept(run: Callable[[Test], None]) -> None:
    async def test(store: Store) -> None:
        both = Conflict({"kwhConsumedAc": 0.1, "voltage": None}, {"kwhConsumedAc": 36.2})
        refused = Rejection(3, "conflict", "no", "timestamp", b"{\x00\xff", Stream.METER, "M", both)
        unknown = Rejection(4, "malformed_json", "no", None, b"x" * 10_000)
        await store.keep([refused, unknown], NOW)
        async with store.snapshot() as snapshot:
            (a, b) = await snapshot.rejections(WantedRejections(), None, 10)
            (only,) = await snapshot.rejections(WantedRejections(), a.rejection_id, 10)
            stats = await snapshot.stats(Stream.METER)
        assert (a.rejection.code, a.rejection.record) == ("conflict", b"{\x00\xff")
        assert (a.rejection.stream, a.rejection.device) == (Stream.METER, "M")
        assert a.rejection.conflict == both
        assert (b.rejected_at_us, len(b.rejection.record)) == (NOW, 8192)
        assert only == b
        assert stats.rejections == 1

    run(test)


def test_a_commit_waits_for_the_disk_whatever_the_role_says(embedded: Server) -> None:
    conninfo = embedded.make_database()
    with psycopg.connect(embedded.superuser(conninfo), autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())

    async def main() -> None:
        worker = Worker(conninfo, "test")
        row = await worker.run(lambda lane: lane.execute("SHOW synchronous_commit").fetchone())
        assert row == ("on",)
        await worker.close()

    asyncio.run(main())


@pytest.mark.parametrize("size", [1, 399, 400, 5000])
def test_small_and_large_flushes_store_alike(run: Callable[[Test], None], size: int) -> None:
    async def test(store: Store) -> None:
        rows = [(f"V{i}", NOW + i, i, i % 101, math.nan if i % 3 else 20.0) for i in range(size)]
        written = await store.write(vehicles(*rows), NOW)
        assert not written.verdicts.any()
        again = await store.write(vehicles(*rows), NOW)
        assert (again.verdicts == Verdict.DUPLICATE).all()
        name = f"V{size - 1}"
        at, values, _ = await latest(store, Stream.VEHICLE, name)
        assert (at, values.energy_ukwh) == (NOW + size - 1, size - 1)
        async with store.snapshot() as snapshot:
            device = await snapshot.device(Stream.VEHICLE, name)
            assert device is not None
            ((_, (raw,)),) = await snapshot.windows([Window(device, NOW, NOW, (bucket_floor(at),))])
        assert raw.at_us.tolist() == [at]
        assert KINDS[Stream.VEHICLE].fields[0].key == "soc"
        assert raw.values[0, 0] == (size - 1) % 101

    run(test)


def mixed_rows(devices: int) -> tuple[list[tuple[str, int, int, float]], dict[str, list[Verdict]]]:
    """Return newer readings of all devices, and of one in ten others; with what becomes of each.

    Every device holds a reading at NOW and one two minutes before it.
    """
    rows = [(f"D{i}", NOW + at, 5, 230.0) for i in range(devices) for at in (MINUTE, 2 * MINUTE)]
    expected = {f"D{i}": [Verdict.STORED, Verdict.STORED] for i in range(devices)}
    others = (
        (NOW - MINUTE, 5, Verdict.STORED),
        (NOW, 5, Verdict.DUPLICATE),
        (NOW, 6, Verdict.CONFLICT),
        (NOW + MINUTE, 5, Verdict.DUPLICATE),
    )
    for i, (at, energy, verdict) in enumerate(others * (devices // 40)):
        rows.append((f"D{10 * i}", at, energy, 230.0))
        expected[f"D{10 * i}"].append(verdict)
    return rows, expected


@pytest.mark.parametrize("devices", [80, 1200])
def test_old_and_new_readings_in_one_flush_each_get_their_verdict(
    run: Callable[[Test], None], devices: int
) -> None:
    async def test(store: Store) -> None:
        before = [(f"D{i}", NOW + at, 5, 230.0) for i in range(devices) for at in (-2 * MINUTE, 0)]
        await store.write(meters(*before), NOW)
        rows, expected = mixed_rows(devices)
        written = await store.write(meters(*rows), NOW)
        verdicts = [Verdict(verdict) for verdict in written.verdicts.tolist()]
        found: dict[str, list[Verdict]] = {}
        for (name, *_), verdict in zip(rows, verdicts, strict=True):
            found.setdefault(name, []).append(verdict)
        assert found == expected
        conflicts = [row for row, verdict in enumerate(verdicts) if verdict == Verdict.CONFLICT]
        assert sorted(written.standing) == conflicts
        assert all(values == Values(5, (230.0,)) for values in written.standing.values())
        for name in ("D0", "D10", "D20", "D30", "D1"):
            stored = 2 + expected[name].count(Verdict.STORED)
            assert await energy(store, Stream.METER, name) == (5 * stored, 0, stored)
            assert (await latest(store, Stream.METER, name))[0] == NOW + 2 * MINUTE

    run(test)


def test_a_database_from_before_the_day_sums_is_brought_up_to_them(embedded: Server) -> None:
    """The schema is taken back by hand to what the first migration made, with data in it."""
    conninfo = embedded.make_database()

    async def fill() -> None:
        async for store in opened(conninfo):
            for day in range(2):
                rows = [
                    ("old", NOW + (96 * day + i) * BUCKET_US, 1000 + i, 230.5) for i in range(96)
                ]
                await store.write(meters(*rows), NOW)

    asyncio.run(fill())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        names = ["energy_ukwh", "suspect_ukwh", "readings"]
        for stream, fields in (("meter", ["voltage"]), ("vehicle", ["soc", "battery_temp"])):
            added = [*names, *(f + end for f in fields for end in ("_sum_micro", "_count"))]
            drops = ", ".join(
                f"DROP COLUMN {name}" for name in (*(f"day_{n}" for n in added), "version")
            )
            for statement in (
                f"CREATE TABLE before AS SELECT * FROM {stream}_live",
                f"DROP VIEW {stream}_live",
                f"DROP FUNCTION write_{stream}_live",
                f"DROP TABLE {stream}_hot, {stream}_warm",
                f"ALTER TABLE before RENAME TO {stream}_live",
                f"ALTER TABLE {stream}_live ADD PRIMARY KEY (device_id)",
                f"ALTER TABLE {stream}_live {drops}",
            ):
                connection.execute(statement.encode())
        connection.execute("DROP FUNCTION hot_number, hot_time")
        connection.execute("DROP FUNCTION renew_blocks CASCADE")
        connection.execute("DELETE FROM wattstream_migrations WHERE number IN (2, 12, 13)")
    assert migrate(conninfo) == ["0002_live_versions", "0012_live_hot", "0013_block_versions"]

    async def check() -> None:
        async for store in opened(conninfo):
            repair = await store.refresh(NOW, NOW + 3 * 96 * BUCKET_US)
            assert (repair.buckets_checked, repair.buckets_repaired) == (192, 0)
            async with store.snapshot() as snapshot:
                total = await snapshot.fleet_totals(Stream.METER, NOW + 97 * BUCKET_US)
            assert total.energy_ukwh.tolist() == [sum(range(1001, 1096))]
            assert total.readings.tolist() == [95]

    asyncio.run(check())


def test_a_device_that_is_registered_is_looked_up(embedded: Server) -> None:
    """By an engine that starts: an insert that conflicts would take a key each time."""
    conninfo = embedded.make_database()

    def last_key() -> object:
        with psycopg.connect(conninfo) as connection:
            asked = "SELECT last_value FROM pg_sequences WHERE sequencename LIKE 'devices%'"
            return connection.execute(asked).fetchone()

    async def main() -> None:
        names = [f"R{i}" for i in range(20)]
        async for store in opened(conninfo):
            await store.write(meters(*((name, NOW, 1, 1.0) for name in names)), NOW)
        taken = last_key()
        async for store in opened(conninfo):
            for i, name in enumerate(names):
                written = await store.write(meters((name, NOW + 1 + i, 1, 1.0)), NOW)
                assert written.verdicts.tolist() == [Verdict.STORED]
            assert last_key() == taken
            await store.write(meters(("new", NOW, 1, 1.0)), NOW)
            assert last_key() != taken

    asyncio.run(main())


def test_a_question_about_nobody_leaves_its_connection_as_it_was(embedded: Server) -> None:
    async def main() -> None:
        async for store in opened(embedded.make_database()):
            for _ in range(20):
                with pytest.raises(NotFoundError):
                    async with store.snapshot() as snapshot:
                        await find(snapshot, Stream.METER, "nobody")
            async with store._pool.connection() as connection:
                assert connection.info.transaction_status is TransactionStatus.IDLE
                asked = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
                assert (await asked.fetchone()) > (0,)

    asyncio.run(main())


def test_a_question_that_fails_is_rolled_back(embedded: Server) -> None:
    async def ask(store: PostgresStore, failure: type[BaseException]) -> None:
        async with store.snapshot() as snapshot:
            await snapshot.stats(Stream.METER)
            if failure is psycopg.errors.UndefinedTable:
                await snapshot._connection.execute("TABLE nowhere")  # type: ignore[attr-defined]
                await snapshot.stats(Stream.METER)
            raise failure

    async def main() -> None:
        async for store in opened(embedded.make_database()):
            for failure in (psycopg.errors.UndefinedTable, KeyError, asyncio.CancelledError):
                with pytest.raises(failure):
                    await ask(store, failure)
                for _ in range(3):
                    async with store._pool.connection() as connection:
                        assert connection.info.transaction_status is TransactionStatus.IDLE
                async with store.snapshot() as snapshot:
                    assert (await snapshot.stats(Stream.METER)).devices == 0

    asyncio.run(main())
