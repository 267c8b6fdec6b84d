"""Alerts on real PostgreSQL: opened once, kept, resolved, whoever looks and however often."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import numpy as np
import psycopg
import pytest

from conftest import Server
from wattstream.domain.alerts import Alert, AlertFilter, AlertKind
from wattstream.domain.devices import DeviceChange
from wattstream.domain.errors import StoreUnavailableError
from wattstream.domain.links import FOREVER_US
from wattstream.domain.readings import Readings, Stream
from wattstream.domain.register import EnergyMode
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


Send = Callable[[PostgresStore, str, int, int, float], Awaitable[None]]


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


def test_two_watches_at_once_open_one_alert_and_count_one_look(run: Run, conninfo: str) -> None:
    async def test(store: PostgresStore) -> None:
        for name in "ABCDEFGH":
            await vehicle(store, name, NOW - MINUTE, NOW, 0.0, temp_c=60)
        async with opened(conninfo) as other:
            watches = [Watch(which.alerts, notify=True) for which in (store, other) * 4]
            outcomes = await asyncio.gather(*(watch.look(NOW) for watch in watches))
        assert sum(outcome.opened for outcome in outcomes) == 8
        assert [alert.kind for alert in await alerts(store)] == ["battery_hot"] * 8
        events = await store.alerts.claim_events(NOW, 100)
        assert sorted(event.alert.device for event in events) == list("ABCDEFGH")

    run(test)


def test_a_look_right_after_that_of_another_engine_is_left_out(run: Run) -> None:
    async def test(store: PostgresStore) -> None:
        await vehicle(store, "V", NOW - MINUTE, NOW, 0.0, temp_c=30)
        first, second = (Watch(store.alerts, interval_us=MINUTE) for _ in range(2))
        await first.look(NOW)
        await vehicle(store, "V", NOW, NOW + MINUTE, 0.0, temp_c=60)
        assert (await second.look(NOW + MINUTE // 2 - 1)).opened == 0
        assert (await second.look(NOW + MINUTE // 2)).opened == 1

    run(test)


def test_a_device_is_silent_after_five_heartbeats_unless_the_engine_was_deaf(run: Run) -> None:
    async def test(store: PostgresStore) -> None:
        await store.change_device(Stream.METER, "never", DeviceChange(heartbeat_s=1))
        await store.change_device(Stream.METER, "slow", DeviceChange(heartbeat_s=900))
        for name in ("M", "slow"):
            await meter(store, name, NOW - HOUR_US, NOW, 0.0, came_us=NOW)
        watch = Watch(store.alerts)
        # An engine that has just started has heard nobody, and blames nobody.
        assert (await watch.look(NOW + HOUR_US)).opened == 0
        assert (await watch.look(NOW + HOUR_US + 5 * MINUTE - 1)).opened == 0
        assert (await watch.look(NOW + HOUR_US + 5 * MINUTE)).opened == 1
        (alert,) = await alerts(store)
        assert (alert.device, alert.kind) == ("M", "silent")
        assert alert.evidence["quietSeconds"] == 3900
        # Another engine that starts later does not take the alert for over.
        assert (await Watch(store.alerts).look(NOW + HOUR_US + 6 * MINUTE)).resolved == 0

        back = NOW + HOUR_US + 7 * MINUTE
        await meter(store, "M", back, back + MINUTE, 0.0, came_us=back)
        assert (await watch.look(back + 150 * MICRO)).resolved == 0
        assert (await watch.look(back + 150 * MICRO - 1)).resolved == 1

    run(test)


def test_thresholds_of_a_device_come_before_the_usual_ones(run: Run) -> None:
    async def test(store: PostgresStore) -> None:
        own = {"warm": {"battery_hot": 62.0}, "off": {"battery_hot": None}, "cool": {"silent": 9.0}}
        for name, value in own.items():
            await vehicle(store, name, NOW - MINUTE, NOW, 0.0, temp_c=61)
            change = DeviceChange(alert_thresholds=value)
            device, _ = await store.change_device(Stream.VEHICLE, name, change)
            assert device.alert_thresholds == value
        watch = Watch(store.alerts)
        await watch.look(NOW)
        assert await kinds(store) == [("cool", "battery_hot", "open")]
        # Switched off while it is open, an alert is over.
        off = DeviceChange(alert_thresholds={"battery_hot": None})
        await store.change_device(Stream.VEHICLE, "cool", off)
        await watch.look(NOW + 1)
        assert await kinds(store) == [("cool", "battery_hot", "resolved")]
        # Without one of its own the usual one holds again; another fleet label changes nothing.
        none = DeviceChange(fleet="north", clear=frozenset({"alert_thresholds"}))
        await store.change_device(Stream.VEHICLE, "cool", none)
        await store.change_device(Stream.VEHICLE, "warm", DeviceChange(fleet="north"))
        await watch.look(NOW + 2)
        assert await kinds(store) == [
            ("cool", "battery_hot", "open"),
            ("cool", "battery_hot", "resolved"),
        ]

    run(test)


def test_only_energy_while_linked_is_compared(run: Run) -> None:
    """A meter linked at half past the day: what the vehicle gained before is not its doing."""

    async def test(store: PostgresStore) -> None:
        start = NOW - DAY_US
        cut = NOW - 14 * HOUR_US - 7 * MINUTE  # inside a quarter-hour
        for name, share in (("good", 0.9), ("bad", 0.8)):
            await store.add_link(f"M-{name}", name, cut, FOREVER_US)
            await meter(store, f"M-{name}", start, NOW, 0.01)
            await vehicle(store, name, start, NOW, 0.01 * share)
        # Links of less than half the day tell too little.
        await store.add_link("M-late", "late", NOW - 11 * HOUR_US, FOREVER_US)
        await meter(store, "M-late", start, NOW, 0.01)
        await vehicle(store, "late", start, NOW, 0.001)
        # One meter after the other is one supply.
        swap = NOW - 6 * HOUR_US
        await store.add_link("M-first", "swapped", start, swap)
        await store.add_link("M-second", "swapped", swap, FOREVER_US)
        await meter(store, "M-first", start, NOW, 0.01)
        await meter(store, "M-second", start, NOW, 0.01)
        await vehicle(store, "swapped", start, NOW, 0.007)

        watch = Watch(store.alerts)
        await watch.look(NOW)
        assert await kinds(store) == [
            ("bad", "low_efficiency", "open"),
            ("swapped", "low_efficiency", "open"),
        ]
        swapped, bad = await alerts(store)
        assert bad.evidence["efficiencyFraction"] == 0.8
        assert bad.evidence["acKwh"] == pytest.approx(8.47)
        assert swapped.evidence["meters"] == ["M-first", "M-second"]
        assert swapped.evidence["efficiencyFraction"] == 0.7
        # Without a meter there is nothing to compare, and the alert is over.
        for link in range(1, 6):
            await store.delete_link(link)
        await watch.look(NOW)
        assert {alert.state for alert in await alerts(store)} == {"resolved"}
        assert (await alerts(store))[0].resolution is not None

    run(test)


def test_a_vehicle_that_gains_more_than_was_drawn_is_over_unity(run: Run) -> None:
    async def test(store: PostgresStore) -> None:
        await meter(store, "E", NOW - DAY_US, NOW, 0.01)
        await vehicle(store, "E", NOW - DAY_US, NOW, 0.0103)
        await Watch(store.alerts).look(NOW)
        assert await kinds(store) == [("E", "over_unity", "open")]

    run(test)


@pytest.mark.parametrize(("share", "expected"), [(0.9, []), (0.6, ["low_efficiency"])])
def test_standby_beside_the_end_of_a_charge_is_no_loss(
    run: Run, share: float, expected: list[str]
) -> None:
    """The window holds the last 2 kWh of a charge, and 8 W of standby all day: 0.82."""

    async def test(store: PostgresStore) -> None:
        ended = NOW - DAY_US + 20 * MINUTE
        standby = 0.008 / 60
        await meter(store, "E", NOW - DAY_US, ended, 0.1 + standby)
        await vehicle(store, "E", NOW - DAY_US, ended, 0.1 * share)
        await meter(store, "E", ended, NOW, standby)
        await vehicle(store, "E", ended, NOW, 0.0)
        await Watch(store.alerts).look(NOW)
        assert [kind for _, kind, _ in await kinds(store)] == expected

    run(test)


@pytest.mark.parametrize(("ahead", "behind"), [(meter, vehicle), (vehicle, meter)])
def test_a_side_that_is_ahead_in_a_charge_is_no_fault(run: Run, ahead: Send, behind: Send) -> None:
    """Four minutes at 22 kW: one side has counted them, of the other the last is to come."""

    async def test(store: PostgresStore) -> None:
        began = NOW - 4 * MINUTE
        for send in (ahead, behind):
            await send(store, "E", NOW - DAY_US, began, 0.0)
        await ahead(store, "E", began, NOW, 0.37)
        await behind(store, "E", began, NOW - MINUTE, 0.37)
        await Watch(store.alerts).look(NOW)
        assert await kinds(store) == []

    run(test)


def test_a_frozen_meter_is_found_within_its_charge(run: Run) -> None:
    async def test(store: PostgresStore) -> None:
        watch = Watch(store.alerts)
        at = NOW
        frozen_us = 0
        for quarter in range(12):
            kwh = 0.12 if quarter >= 4 else 0.0
            end = at + 15 * MINUTE
            await meter(store, "E", at, end, kwh if quarter < 6 else 0.0)
            await vehicle(store, "E", at, end, 0.9 * kwh)
            at = end
            await watch.look(at + 2 * MINUTE)
            if frozen_us == 0 and await alerts(store, kind=AlertKind.FROZEN_METER):
                frozen_us = at
        # It froze at quarter 6; from two quarter-hours later on three in a row are empty.
        assert frozen_us == NOW + 9 * 15 * MINUTE
        (alert,) = await alerts(store, kind=AlertKind.FROZEN_METER)
        assert alert.evidence["gainedKwh"] == 1.62
        assert alert.evidence["meters"] == ["E"]
        await meter(store, "E", at, at + 15 * MINUTE, 0.12)
        await vehicle(store, "E", at, at + 15 * MINUTE, 0.11)
        await watch.look(at + 17 * MINUTE)
        (alert,) = await alerts(store, kind=AlertKind.FROZEN_METER)
        assert alert.state == "resolved"

    run(test)


def test_a_reset_is_an_alert_for_a_day_and_a_dip_is_none(run: Run) -> None:
    async def test(store: PostgresStore) -> None:
        for name, values in (("reset", (9.0, 1.0, 1.1)), ("dip", (9.0, 1.0, 9.1))):
            rule = DeviceChange(energy_mode=EnergyMode.REGISTER)
            await store.change_device(Stream.METER, name, rule)
            for i, kwh in enumerate(values):
                at = NOW + i * MINUTE
                await meter(store, name, at, at + MINUTE, kwh)
                if i == 1:  # nobody knows yet what it is
                    await Watch(store.alerts).look(at)
                    assert await alerts(store, device=name) == []
        await Watch(store.alerts).look(NOW + 3 * MINUTE)
        assert await kinds(store) == [("reset", "register_reset", "open")]
        (alert,) = await alerts(store)
        assert (alert.evidence["beforeKwh"], alert.evidence["afterKwh"]) == (9.0, 1.0)
        await Watch(store.alerts).look(NOW + MINUTE + DAY_US)
        (alert,) = await alerts(store)
        assert alert.state == "resolved"

    run(test)


def test_what_a_drift_rests_on_survives_a_restart(run: Run) -> None:
    """A charger loses 8 points on the seventh day; a new watch looks every quarter-hour."""

    async def test(store: PostgresStore) -> None:
        noise = np.random.default_rng(7)
        found_day = None
        for day in range(9):
            for quarter in range(10):
                at = NOW + day * DAY_US + quarter * 15 * MINUTE
                end = at + 15 * MINUTE
                is_charging = 1 <= quarter <= 8
                ac = 0.12 if is_charging else 0.0
                share = (0.9 if day < 7 else 0.82) + noise.normal(0, 0.01)
                await meter(store, "E", at, end, ac)
                await vehicle(store, "E", at, end, ac * share)
                await Watch(store.alerts).look(end + 2 * MINUTE)
            if found_day is None and await alerts(store, kind=AlertKind.EFFICIENCY_DRIFT):
                found_day = day
        assert found_day in (7, 8)
        (alert,) = await alerts(store, kind=AlertKind.EFFICIENCY_DRIFT)
        assert alert.evidence["expectedEfficiencyFraction"] == pytest.approx(0.9, abs=0.02)

    run(test)


def test_a_database_that_is_away_makes_nobody_silent(
    run: Run, embedded: Server, conninfo: str
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    elsewhere = psycopg.conninfo.make_conninfo(embedded.superuser(conninfo), dbname="postgres")

    def allow(is_allowed: bool) -> None:
        with psycopg.connect(elsewhere, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {is_allowed}".encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )

    async def test(store: PostgresStore) -> None:
        await meter(store, "M", NOW - HOUR_US, NOW, 0.0)
        watch = Watch(store.alerts)
        await watch.look(NOW)
        allow(False)
        with pytest.raises(StoreUnavailableError):
            await watch.look(NOW + 4 * MINUTE)
        allow(True)
        with suppress(StoreUnavailableError):  # of a connection that was cut
            await watch.look(NOW + 7 * MINUTE)
        assert (await watch.look(NOW + 8 * MINUTE)).opened == 0
        assert (await watch.look(NOW + 13 * MINUTE)).opened == 1

    run(test)
