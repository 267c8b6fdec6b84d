"""Alerts on real PostgreSQL: opened once, kept, resolved, whoever looks and however often."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import psycopg
import pytest

from wattstream.domain.alerts import Alert, AlertFilter, AlertKind
from wattstream.domain.devices import DeviceChange
from wattstream.domain.links import FOREVER_US
from wattstream.domain.readings import Readings, Stream
from wattstream.domain.units import DAY_US, HOUR_US, MICRO
from wattstream.store.postgres import PostgresStore
from wattstream.watch import Watch

NOW = 1_770_631_200 * MICRO  # 2026-02-09T10:00:00Z, a bucket start
MINUTE = 60 * MICRO


@asynccontextmanager
async def opened(conninfo: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(conninfo, read_connections=2)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def run(conninfo: str) -> Callable[[Callable[[PostgresStore], Awaitable[None]]], None]:
    """Run a test against a store on a fresh database."""

    def on(test: Callable[[PostgresStore], Awaitable[None]]) -> None:
        async def main() -> None:
            async with opened(conninfo) as store:
                await test(store)

        asyncio.run(main())

    return on


Run = Callable[[Callable[[PostgresStore], Awaitable[None]]], None]


async def meter(
    store: PostgresStore, name: str, start_us: int, end_us: int, kwh: float, came_us: int = 0
) -> None:
    """Write a reading a minute, each of so many kWh; it comes at once, or at a given time."""
    at = np.arange(start_us, end_us, MINUTE)
    energy = np.full(len(at), round(kwh * MICRO))
    fields = np.full((len(at), 1), 230.0)
    readings = Readings(Stream.METER, [name] * len(at), at, energy, fields)
    await store.write(readings, came_us or int(at[-1]))


async def vehicle(
    store: PostgresStore, name: str, start_us: int, end_us: int, kwh: float, temp_c: float = 30.0
) -> None:
    """Write a reading a minute, each of so many kWh, which comes at once."""
    at = np.arange(start_us, end_us, MINUTE)
    energy = np.full(len(at), round(kwh * MICRO))
    fields = np.column_stack([np.full(len(at), 50.0), np.full(len(at), temp_c)])
    await store.write(Readings(Stream.VEHICLE, [name] * len(at), at, energy, fields), int(at[-1]))


async def alerts(store: PostgresStore, **wanted: object) -> list[Alert]:
    async with store.alerts.snapshot() as snapshot:
        return await snapshot.alerts(AlertFilter(**wanted), 2**63 - 1, 1000)  # type: ignore[arg-type]


async def kinds(store: PostgresStore) -> list[tuple[str, str, str]]:
    return sorted((alert.device, alert.kind, alert.state) for alert in await alerts(store))


def test_low_efficiency_opens_once_and_is_over_when_it_rises(run: Run) -> None:
    async def test(store: PostgresStore) -> None:
        await meter(store, "E", NOW - DAY_US, NOW, 0.01)
        await vehicle(store, "E", NOW - DAY_US, NOW, 0.008)
        await meter(store, "F", NOW - DAY_US, NOW, 0.01)
        await vehicle(store, "F", NOW - DAY_US, NOW, 0.009)
        watch = Watch(store.alerts)
        first = await watch.look(NOW)
        assert (first.opened, first.open[AlertKind.LOW_EFFICIENCY]) == (1, 1)
        again = await watch.look(NOW + MINUTE)
        assert (again.opened, again.open[AlertKind.LOW_EFFICIENCY]) == (0, 1)
        (alert,) = await alerts(store)
        assert (alert.kind, alert.device, alert.opened_at_us) == ("low_efficiency", "E", NOW)
        assert alert.evidence["efficiencyFraction"] == 0.8
        assert alert.evidence["acKwh"] == 14.4
        assert alert.evidence["meters"] == ["E"]

        later = NOW + DAY_US
        await meter(store, "E", NOW, later, 0.01)
        await vehicle(store, "E", NOW, later, 0.0095)
        last = await watch.look(later)
        assert (last.resolved, last.open[AlertKind.LOW_EFFICIENCY]) == (1, 0)
        (alert,) = await alerts(store, kind=AlertKind.LOW_EFFICIENCY)
        assert alert.resolved_at_us == later
        assert alert.resolution is not None
        assert alert.resolution["efficiencyFraction"] == 0.95

    run(test)
