"""A device's rules changed while it reports: old totals until they are all new."""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from conftest import Server
from oracle import MemoryStore
from test_exactness import FIRST, LAST, Sent, readings, set_rules
from test_http import Api
from test_store import NOW, opened
from wattstream.domain.readings import Readings, Stream
from wattstream.domain.register import EnergyMode, Rules
from wattstream.domain.units import MICRO, NEVER_US
from wattstream.query.window import window_totals
from wattstream.settings import load
from wattstream.store.port import Store
from wattstream.store.postgres import PostgresStore

_RULES = [
    Rules(EnergyMode.REGISTER, 2_000_000, 11_000),
    Rules(EnergyMode.INTERVAL, None, None),
    Rules(EnergyMode.REGISTER, 1_000_000, None),
    Rules(EnergyMode.INTERVAL, None, 22_000, 900),
]


async def is_waiting(store: Store, stream: Stream) -> bool:
    async with store.snapshot() as snapshot:
        return bool(await snapshot.pending_rules(await snapshot.devices(stream, "", 100)))


async def until_done(store: Store, stream: Stream) -> None:
    for _ in range(3000):
        if not await is_waiting(store, stream):
            return
        await asyncio.sleep(0.01)
    pytest.fail("devices still wait to be recomputed")


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 8))]
)
def test_rules_changed_under_writers_of_two_engines_count_as_ever_after(
    make_database: Callable[[], str], seed: int
) -> None:
    """No history is short enough to be recomputed at once, and late readings keep coming."""
    rng = random.Random(seed)
    rows = [
        Sent(device, FIRST + s * MICRO, rng.randrange(2_000_000))
        for device in range(6)
        for s in rng.sample(range(7200), 400)
    ]
    rng.shuffle(rows)

    async def write(stores: list[PostgresStore]) -> None:
        for first in range(0, len(rows), 40):
            part = readings(Stream.METER, str, rows[first : first + 40])
            await rng.choice(stores).write(part, NOW)

    async def change(stores: list[PostgresStore], oracle: MemoryStore) -> None:
        for _ in range(40):
            device, rules = str(rng.randrange(6)), rng.choice(_RULES)
            await set_rules(rng.choice(stores), Stream.METER, device, rules)
            await set_rules(oracle, Stream.METER, device, rules)
            await asyncio.sleep(0.02)

    async def main() -> None:
        conninfo = make_database()
        oracle = MemoryStore()
        async for a in opened(conninfo, at_once_readings=0):
            async for b in opened(conninfo, at_once_readings=0):
                recomputing = [asyncio.create_task(store.recompute()) for store in (a, b)]
                await asyncio.gather(write([a, b]), change([a, b], oracle))
                await until_done(a, Stream.METER)
                for task in recomputing:
                    task.cancel()
                await oracle.write(readings(Stream.METER, str, rows), NOW)
                async with a.snapshot() as snapshot:
                    for truth in await oracle.devices(Stream.METER, "", 10):
                        found = await snapshot.device(Stream.METER, truth.external_id)
                        assert found is not None
                        assert found.rules == truth.rules
                        (total,) = await window_totals(snapshot, [(found, FIRST, LAST)])
                        assert total == oracle.brute_force(truth, FIRST, LAST)
                        falls = await snapshot.falls(found, NEVER_US, 999)
                        assert falls == await oracle.falls(truth, NEVER_US, 999)
                assert (await b.refresh(FIRST, LAST)).buckets_repaired == 0

    asyncio.run(main())


def test_answers_are_old_until_they_are_new_and_others_write_on(conninfo: str) -> None:
    """A history of several chunks; every answer meanwhile is by the one rule or the other."""
    per_day, days = 8640, 24
    start = NOW - NOW % 86_400_000_000

    async def main() -> None:
        async for store in opened(conninfo, at_once_readings=1000):
            for day in range(days):
                at = start + np.arange(day * per_day, (day + 1) * per_day) * 10 * MICRO
                value = 1 + np.arange(day * per_day, (day + 1) * per_day)
                volts = np.full((per_day, 1), 230.0)
                part = Readings(Stream.METER, ["LONG"] * per_day, at, value, volts)
                await store.write(part, NOW)
            n, end = per_day * days, start + days * 86_400 * MICRO
            as_intervals, as_register = n * (n + 1) // 2, n - 1
            seen = set()
            await set_rules(store, Stream.METER, "LONG", Rules(EnergyMode.REGISTER))
            recomputing = asyncio.create_task(store.recompute())
            step = 0
            while await is_waiting(store, Stream.METER):
                await store.write(readings(Stream.METER, str, [Sent(1, NOW + step, step)]), NOW)
                step += 1
                async with store.snapshot() as snapshot:
                    device = await snapshot.device(Stream.METER, "LONG")
                    assert device is not None
                    (total,) = await window_totals(snapshot, [(device, start, end)])
                    (waits,) = (await snapshot.pending_rules([device])).values() or (None,)
                seen.add((total.energy_ukwh, device.rules.energy_mode, waits is None))
            recomputing.cancel()
            assert step > 3
            async with store.snapshot() as snapshot:
                device = await snapshot.device(Stream.METER, "LONG")
                assert device is not None
                (total,) = await window_totals(snapshot, [(device, start, end)])
            assert total.energy_ukwh == as_register
            assert seen <= {
                (as_intervals, EnergyMode.INTERVAL, False),
                (as_register, EnergyMode.REGISTER, True),
            }
            assert (as_intervals, EnergyMode.INTERVAL, False) in seen

    asyncio.run(main())


def test_a_change_of_a_long_history_survives_the_end_of_the_engine(embedded: Server) -> None:
    conninfo = embedded.make_database()
    first = (datetime.now(UTC) - timedelta(days=1)).replace(microsecond=0)
    api = Api(conninfo, load({}, {}))
    for part in range(4):
        beats = range(15_000 * part, 15_000 * (part + 1))
        api.batch(
            [
                {
                    "meterId": "L",
                    "kwhConsumedAc": second / 1000,
                    "timestamp": (first + timedelta(seconds=second)).isoformat(),
                }
                for second in beats
            ]
        )
    settings = {"energyMode": "register", "fleet": "north"}
    answer = api.request("PUT", "/v1/devices/meter/L", json=settings)
    api.close()
    assert answer.status_code == 202
    assert answer.json()["energyMode"] == "interval"
    assert answer.json()["fleet"] == "north"
    assert answer.json()["recomputing"] == {
        "energyMode": "register",
        "registerModulusKwh": None,
        "ratedPowerKw": None,
        "heartbeatSeconds": 60,
        "progress": answer.json()["recomputing"]["progress"],
    }
    api = Api(conninfo, load({}, {}))
    for _ in range(3000):
        device = api.get("/v1/devices/meter/L").json()
        if device["recomputing"] is None:
            break
        time.sleep(0.01)
    assert device["recomputing"] is None
    assert device["energyMode"] == "register"
    window = {"start": first.isoformat(), "end": (first + timedelta(days=1)).isoformat()}
    assert api.get("/v1/analytics/fleet", **window).json()["totalAc"] == 59.999
    api.close()


def test_rules_taken_back_before_they_held_leave_nothing_to_wait_for(conninfo: str) -> None:
    async def main() -> None:
        async for store in opened(conninfo, at_once_readings=0):
            rows = [Sent(0, FIRST + s * 300 * MICRO, s) for s in range(20)]
            await store.write(readings(Stream.METER, str, rows), NOW)
            await set_rules(store, Stream.METER, "0", Rules(EnergyMode.REGISTER))
            assert await is_waiting(store, Stream.METER)
            await set_rules(store, Stream.METER, "0", Rules(EnergyMode.INTERVAL))
            assert not await is_waiting(store, Stream.METER)

    asyncio.run(main())
