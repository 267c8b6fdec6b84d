"""Writers that meet: overlapping devices in opposite orders, two engines, locked rows."""

import asyncio
import random
import time
from collections.abc import Callable

import numpy as np
import pytest

from oracle import MemoryStore
from test_exactness import FIRST, LAST, Sent, readings, set_rules
from test_store import NOW, opened
from wattstream.domain.readings import Stream
from wattstream.domain.register import EnergyMode, Rules
from wattstream.domain.units import MICRO
from wattstream.query.window import window_totals
from wattstream.store.port import Verdict
from wattstream.store.postgres import PostgresStore


@pytest.mark.parametrize(
    ("seconds", "count", "step_s"),
    [(4, 300, 1), (4, 600, 400), pytest.param(60, 300, 1, marks=pytest.mark.slow)],
)
def test_two_engines_with_opposite_orders_see_no_error_and_count_once(
    make_database: Callable[[], str], seconds: int, count: int, step_s: int
) -> None:
    """Both send every reading, the one forwards and the other backwards.

    Flushes of 300 are one statement each, those of 600 have a COPY; every 400 s, most of them open
    a quarter-hour.
    """
    devices = [f"D{i}" for i in range(count)]
    rules = Rules(EnergyMode.REGISTER, None, 22_000)

    async def send(store: PostgresStore, *, forwards: bool, until: float) -> tuple[int, int]:
        stored = step = 0
        order = list(range(count)) if forwards else list(reversed(range(count)))
        while time.monotonic() < until:
            at = FIRST + step * step_s * MICRO
            rows = [Sent(device, at, step * 10) for device in order]
            written = await store.write(readings(Stream.METER, lambda d: devices[d], rows), NOW)
            assert set(written.verdicts.tolist()) <= {Verdict.STORED, Verdict.DUPLICATE}
            stored += int((written.verdicts == Verdict.STORED).sum())
            step += 1
        return stored, step

    async def main() -> None:
        conninfo = make_database()
        async for a in opened(conninfo):
            async for b in opened(conninfo):
                for device in devices[:150]:
                    await set_rules(a, Stream.METER, device, rules)
                until = time.monotonic() + seconds
                (one, steps_a), (two, steps_b) = await asyncio.gather(
                    send(a, forwards=True, until=until), send(b, forwards=False, until=until)
                )
                steps = max(steps_a, steps_b)
                assert one + two == steps * count
                assert min(steps_a, steps_b) > 10
                async with a.snapshot() as snapshot:
                    assert sum(d.readings for d in (await snapshot.stats(Stream.METER)).days) == (
                        steps * count
                    )
                last = FIRST + steps * step_s * MICRO
                assert (await b.refresh(FIRST, last)).buckets_repaired == 0

    asyncio.run(main())


def test_many_clients_of_two_engines_give_the_totals_of_one(
    make_database: Callable[[], str],
) -> None:
    rng = random.Random(11)
    rules = [
        Rules(EnergyMode(i % 2), 2_000_000 if i % 3 == 0 else None, 11_000 if i > 2 else None)
        for i in range(8)
    ]
    rows = [
        Sent(device, FIRST + s * MICRO, rng.randrange(2_000_000))
        for device in range(8)
        for s in rng.sample(range(7200), 120)
    ]

    async def main() -> None:
        conninfo = make_database()
        oracle = MemoryStore()
        await oracle.write(readings(Stream.VEHICLE, str, rows), NOW)

        async def client(stores: list[PostgresStore], seed: int) -> None:
            mine = random.Random(seed)
            batch = mine.sample(rows, len(rows))
            while batch:
                size = mine.choice([1, 5, 60])
                part, batch = batch[:size], batch[size:]
                await mine.choice(stores).write(readings(Stream.VEHICLE, str, part), NOW)

        async for a in opened(conninfo):
            async for b in opened(conninfo):
                clients = [client([a, b], seed) for seed in range(3)]
                changes = [
                    set_rules(rng.choice([a, b]), Stream.VEHICLE, str(device), rules[device])
                    for device in range(8)
                ]
                await asyncio.gather(*clients, *changes)
                for device in range(8):
                    await set_rules(oracle, Stream.VEHICLE, str(device), rules[device])
                async with b.snapshot() as snapshot:
                    for device in range(8):
                        found = await snapshot.device(Stream.VEHICLE, str(device))
                        truth = await oracle.device(Stream.VEHICLE, str(device))
                        assert found is not None
                        assert truth is not None
                        for start, end in ((FIRST, LAST), (FIRST + 1, LAST - 777 * MICRO)):
                            (total,) = await window_totals(snapshot, [(found, start, end)])
                            assert total == oracle.brute_force(truth, start, end)
                        newest, expected = await snapshot.latest(found), await oracle.latest(truth)
                        assert repr(newest) == repr(expected)
                assert (await a.refresh(FIRST, LAST)).buckets_repaired == 0

    asyncio.run(main())


def test_new_devices_met_by_two_engines_at_once_are_registered_once(
    make_database: Callable[[], str],
) -> None:
    async def main() -> None:
        conninfo = make_database()
        async for a in opened(conninfo):
            async for b in opened(conninfo):
                for n in range(20):
                    names = [f"N{n}-{i}" for i in range(40)]
                    rows = [Sent(i, NOW, i) for i in range(40)]
                    results = await asyncio.gather(
                        a.write(readings(Stream.METER, names.__getitem__, rows), NOW),
                        b.write(readings(Stream.METER, names.__getitem__, rows[::-1]), NOW),
                    )
                    verdicts = np.concatenate([result.verdicts for result in results])
                    assert (verdicts == Verdict.STORED).sum() == 40
                async with a.snapshot() as snapshot:
                    assert (await snapshot.stats(Stream.METER)).devices == 800

    asyncio.run(main())
