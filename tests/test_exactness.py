"""Any order, batching and repetition gives the totals of a plain recomputation."""

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from oracle import MemoryStore, contribution
from test_store import NOW, opened
from wattstream.domain.devices import DeviceChange
from wattstream.domain.readings import KINDS, Readings, Stream
from wattstream.domain.register import EnergyMode, Rules
from wattstream.domain.units import BUCKET_US, MICRO, NEVER_US, bucket_floor
from wattstream.query.ranges import device_totals
from wattstream.query.window import window_totals
from wattstream.store.port import DeviceTotals, Snapshot, Store
from wattstream.store.postgres import PostgresStore

FIRST = NOW - 4 * BUCKET_US
LAST = NOW + 4 * BUCKET_US
_numbers = itertools.count()

# Registers that rise, fall, come back and roll over; several readings a bucket, and gaps.
_values = st.one_of(
    st.integers(0, 2_000_000),
    st.sampled_from([0, 1, 999_999, 1_000_000, 500_000, 10**9, 10**15]),
)
_times = st.integers(0, (LAST - FIRST) // MICRO - 1).map(lambda s: FIRST + s * MICRO)
_histories = st.dictionaries(_times, _values, min_size=1, max_size=40)
_rules = st.builds(
    Rules,
    energy_mode=st.sampled_from(EnergyMode),
    modulus_ukwh=st.sampled_from([None, 1_000_000, 2_000_000]),
    rated_w=st.sampled_from([None, 1_000, 22_000]),
    heartbeat_s=st.sampled_from([60, 900]),
)


@dataclass(frozen=True)
class Sent:
    """A reading as a client sends it; `twist` makes other values for the same time."""

    device: int
    at_us: int
    ukwh: int
    twist: int = 0


def readings(stream: Stream, name: Callable[[int], str], rows: list[Sent]) -> Readings:
    width = len(KINDS[stream].fields)
    values = [
        [
            math.nan if (row.ukwh + i) % 5 == 0 else row.ukwh % 97 + i + row.twist
            for i in range(width)
        ]
        for row in rows
    ]
    return Readings(
        stream,
        [name(row.device) for row in rows],
        np.array([row.at_us for row in rows]),
        np.array([row.ukwh for row in rows]),
        np.array(values, float),
    )


async def set_rules(store: Store, stream: Stream, name: str, rules: Rules) -> None:
    await store.change_device(
        stream,
        name,
        DeviceChange(
            energy_mode=rules.energy_mode,
            modulus_ukwh=rules.modulus_ukwh,
            rated_w=rules.rated_w,
            heartbeat_s=rules.heartbeat_s,
        ),
    )


async def send_and_compare(
    store: PostgresStore,
    stream: Stream,
    histories: list[dict[int, int]],
    rules: list[Rules],
    seed: int,
) -> None:
    """Send histories in random order, batches and repetitions to both stores, and compare."""
    rng = random.Random(seed)
    oracle = MemoryStore()
    example = next(_numbers)

    def name(device: int) -> str:
        return f"e{example}-{device}"

    rows = [
        Sent(device, at, value)
        for device, history in enumerate(histories)
        for at, value in history.items()
    ]
    rows += rng.choices(rows, k=len(rows) // 3)
    rows += [Sent(row.device, row.at_us, row.ukwh, 1) for row in rng.choices(rows, k=3)]
    if rng.random() < 0.7:
        rng.shuffle(rows)
    before = {device for device in range(len(histories)) if rng.random() < 0.5}
    for device in before:
        for target in (oracle, store):
            await set_rules(target, stream, name(device), rules[device])
    while rows:
        batch = [rows.pop() for _ in range(min(len(rows), rng.choice([1, 2, 7, 50, 300])))]
        columns = readings(stream, name, batch)
        got, expected = await store.write(columns, NOW), await oracle.write(columns, NOW)
        assert got.verdicts.tolist() == expected.verdicts.tolist()
        assert repr(sorted(got.standing.items())) == repr(sorted(expected.standing.items()))
    for device in set(range(len(histories))) - before:
        for target in (oracle, store):
            await set_rules(target, stream, name(device), rules[device])
    async with store.snapshot() as snapshot:
        for device in range(len(histories)):
            found = await snapshot.device(stream, name(device))
            truth = await oracle.device(stream, name(device))
            assert found is not None
            assert truth is not None
            assert repr(await snapshot.latest(found)) == repr(await oracle.latest(truth))
            assert await snapshot.falls(found, NEVER_US, 99) == await oracle.falls(
                truth, NEVER_US, 99
            )
            cuts = [FIRST, LAST, *(rng.randrange(FIRST, LAST) for _ in range(4))]
            cuts += rng.sample(sorted(histories[device]), 1)
            for start, end in itertools.permutations(cuts, 2):
                if start < end:
                    (total,) = await window_totals(snapshot, [(found, start, end)])
                    assert total == oracle.brute_force(truth, start, end)


@pytest.fixture
def on_store(conninfo: str) -> Callable[..., None]:
    """Return a function that runs an async test on one store, example after example."""

    def run(test: Callable[[PostgresStore], object]) -> None:
        async def main() -> None:
            async for store in opened(conninfo):
                await test(store)  # type: ignore[misc]

        asyncio.run(main())

    return run


def test_totals_equal_a_recomputation_whatever_the_order(
    on_store: Callable[..., None],
) -> None:
    kinds: Counter[str] = Counter()

    @settings(
        max_examples=60,
        phases=[phase for phase in Phase if phase is not Phase.shrink],
    )
    @given(
        stream=st.sampled_from(Stream),
        histories=st.lists(_histories, min_size=1, max_size=4),
        rules=st.lists(_rules, min_size=4, max_size=4),
        seed=st.integers(0, 2**32),
    )
    def check(
        stream: Stream, histories: list[dict[int, int]], rules: list[Rules], seed: int
    ) -> None:
        for history, rule in zip(histories, rules, strict=False):
            kinds.update(falls(history, rule))
        on_store(lambda store: send_and_compare(store, stream, histories, rules, seed))

    check()
    assert set(kinds) == {"rollover", "dip", "reset", "suspect"}, kinds


def falls(history: dict[int, int], rules: Rules) -> list[str]:
    """Name what happens in a history, so that the test can say it has seen every kind."""
    ordered = sorted(history.items())
    seen = []
    for i, (at, value) in enumerate(ordered):
        counted, suspect = contribution(rules, ordered[:i], at, value)
        if suspect:
            seen.append("suspect")
        if i and rules.energy_mode is EnergyMode.REGISTER and value < ordered[i - 1][1]:
            is_dip = i + 1 < len(ordered) and ordered[i + 1][1] >= ordered[i - 1][1]
            seen.append("rollover" if counted or suspect else "dip" if is_dip else "reset")
    return seen


def test_refresh_finds_nothing_to_repair_and_repairs_what_was_damaged(
    on_store: Callable[..., None], conninfo: str
) -> None:
    async def test(store: PostgresStore) -> None:
        rng = random.Random(7)
        histories = [
            {FIRST + s * MICRO: rng.randrange(3_000_000) for s in range(0, 7200, 97)}
            for _ in range(6)
        ]
        rules = [
            Rules(EnergyMode(i % 2), None if i < 3 else 2_000_000, None if i < 2 else 11_000)
            for i in range(6)
        ]
        for stream in Stream:
            await send_and_compare(store, stream, histories, rules, 5)
        clean = await store.refresh(FIRST - 1, LAST)
        assert clean.buckets_repaired == 0
        assert clean.buckets_checked == 2 * 6 * 8
        async with store._pool.connection() as connection:
            await connection.set_read_only(False)
            await connection.execute(
                "UPDATE meter_rollup SET energy_ukwh = energy_ukwh + 1"
                " WHERE (device_id, bucket_at) IN"
                " (SELECT device_id, bucket_at FROM meter_rollup LIMIT 1)"
            )
            await connection.execute(
                "UPDATE vehicle_live SET energy_ukwh = energy_ukwh + 1 WHERE device_id ="
                " (SELECT min(device_id) FROM vehicle_live)"
            )
            events = await (await connection.execute("TABLE register_events")).fetchall()
            await connection.execute(
                "DELETE FROM register_events WHERE kind = 2 OR fell_at = (SELECT max(fell_at)"
                " FROM register_events)"
            )
            await connection.execute("UPDATE register_events SET kind = 1 WHERE kind = 3")
            await connection.execute(
                "INSERT INTO register_events SELECT device_id, fell_at + interval '1 second', 1,"
                " fell_at, 2, 3 FROM register_events"
            )
            await connection.set_read_only(True)
        assert (await store.refresh(FIRST, LAST)).buckets_repaired == 2
        assert (await store.refresh(FIRST, LAST)).buckets_repaired == 0
        async with store._pool.connection() as connection:
            mended = await (await connection.execute("TABLE register_events")).fetchall()
        assert {event[-1] for event in events} >= {2, 3}
        assert sorted(mended) == sorted(events)

    on_store(test)


DAY = 96 * BUCKET_US
_long_times = st.integers(0, 4 * 96 * 3 - 1).map(lambda i: FIRST - 3 * DAY + i * BUCKET_US // 3)
_long_histories = st.dictionaries(_long_times, _values, min_size=1, max_size=25)


@pytest.mark.slow
@settings(
    max_examples=60,
    phases=[phase for phase in Phase if phase is not Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, *settings().suppress_health_check],
)
@given(
    st.lists(st.tuples(_long_histories, _rules), min_size=1, max_size=4),
    st.lists(_long_times, min_size=4, max_size=4),
    st.integers(0, 2**32),
)
def test_sums_over_all_devices_and_days(
    make_database: Callable[[], str],
    devices: list[tuple[dict[int, int], Rules]],
    edges: list[int],
    seed: int,
) -> None:
    """The day that live rows sum, and every range of all devices, equal a recomputation."""
    rng = random.Random(seed)

    async def main() -> None:
        async for store in opened(make_database()):
            oracle = MemoryStore()
            rows = [
                Sent(device, at, value)
                for device, (history, _) in enumerate(devices)
                for at, value in history.items()
            ]
            if rng.random() < 0.6:
                rng.shuffle(rows)
            else:
                rows.sort(key=lambda row: row.at_us)
            cuts = sorted(rng.choices(range(len(rows) + 1), k=4))
            change_after = rng.randrange(5)
            for i, (a, z) in enumerate(itertools.pairwise([0, *cuts, len(rows)])):
                for target in (store, oracle):
                    if a < z:
                        await target.write(readings(Stream.VEHICLE, str, rows[a:z]), NOW)
                    if i == change_after:
                        for device, (_, rules) in enumerate(devices):
                            await set_rules(target, Stream.VEHICLE, str(device), rules)
                # What this engine keeps in memory of all devices follows every change.
                await _same_totals(store, oracle, rng.choice(edges))
            for start in edges:
                await _same_totals(store, oracle, start)
            async with store.snapshot() as found, oracle.snapshot() as truth:
                newest = (await truth.stats(Stream.VEHICLE)).last_at_us
                assert (await found.stats(Stream.VEHICLE)).last_at_us == newest
                for device in await truth.devices(Stream.VEHICLE, "", 100):
                    same = await found.device(Stream.VEHICLE, device.external_id)
                    assert same is not None
                    # The range that the live row sums, and one on either side of it.
                    newest_bucket = bucket_floor((await truth.latest(device)).at_us)
                    for shift in (-BUCKET_US, 0, BUCKET_US):
                        day = (newest_bucket - 95 * BUCKET_US + shift, newest_bucket + shift)
                        answer = await window_totals(found, [(same, *day)])
                        assert answer == await window_totals(truth, [(device, *day)])
                for start, end in itertools.combinations(sorted({*edges, newest + 1}), 2):
                    for shift in (0, 1):
                        window = (Stream.VEHICLE, start + shift, end, newest)
                        kept = _named(await device_totals(truth, *window))
                        assert _named(await device_totals(found, *window)) == {
                            await _key(found, truth, key): sums for key, sums in kept.items()
                        }
            repair = await store.refresh(FIRST - 5 * DAY, LAST + DAY)
            assert repair.buckets_repaired == 0

    asyncio.run(main())


async def _same_totals(store: Store, oracle: Store, start_us: int) -> None:
    """Compare what every device sums from a bucket on."""
    first = bucket_floor(start_us)
    async with store.snapshot() as found, oracle.snapshot() as truth:
        named = _named(await truth.fleet_totals(Stream.VEHICLE, first))
        answer = _named(await found.fleet_totals(Stream.VEHICLE, first))
        assert answer == {await _key(found, truth, key): rest for key, rest in named.items()}


def _named(totals: DeviceTotals) -> dict[int, list[int]]:
    """Return the sums of the devices that have readings, by key."""
    rows = zip(totals.key.tolist(), totals.sums.T.tolist(), strict=True)
    return {key: sums for key, sums in rows if sums[2]}


async def _key(found: Snapshot, truth: Snapshot, key: int) -> int:
    """Return the key of the oracle's device in the other store."""
    for device in await truth.devices(Stream.VEHICLE, "", 100):
        if device.key == key:
            same = await found.device(Stream.VEHICLE, device.external_id)
            assert same is not None
            return same.key
    raise AssertionError(key)
