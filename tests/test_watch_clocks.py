"""Clocks that are apart become alerts, each pair in its turn."""

import asyncio

import numpy as np
import pytest

from test_watch import MINUTE, NOW, alerts, opened
from wattstream.domain.alerts import AlertKind
from wattstream.domain.links import FOREVER_US
from wattstream.domain.readings import Readings, Stream
from wattstream.domain.units import DAY_US, HOUR_US, MICRO
from wattstream.store.postgres import PostgresStore
from wattstream.watch import Watch

OFFSET_US = 20 * MINUTE


async def charges(
    store: PostgresStore, name: str, day: int, *, meter_ahead_us: int, meter: str = ""
) -> None:
    """Write four days with two charges each; the meter stamps later than it should."""
    at = np.arange(NOW + day * DAY_US, NOW + (day + 4) * DAY_US, MINUTE)
    hour, other = (at % DAY_US) / HOUR_US, at // DAY_US % 7  # no day is like another
    kw = np.where((hour > 1.3) & (hour < 2.4 + 0.4 * other), 11.0, 0)
    kw += np.where((hour > 18.1 - 0.3 * other) & (hour < 19.4), 7.4, 0)
    ac = np.rint(kw / 60 * MICRO).astype(np.int64)
    volts = np.full((len(at), 1), 230.0)
    fields = np.column_stack([np.full(len(at), 50.0), np.full(len(at), 30.0)])
    stamped = at + meter_ahead_us
    await store.write(Readings(Stream.METER, [meter or name] * len(at), stamped, ac, volts), NOW)
    dc = np.rint(0.9 * ac).astype(np.int64)
    await store.write(Readings(Stream.VEHICLE, [name] * len(at), at, dc, fields), NOW)


def test_a_meter_that_is_ahead_is_an_alert_until_it_is_right(conninfo: str) -> None:
    async def main() -> None:
        async with opened(conninfo) as store:
            for name in ("A", "B", "C"):
                await charges(store, name, -4, meter_ahead_us=OFFSET_US if name == "B" else 0)
            watch = Watch(store.alerts, clock_vehicles=1)
            wanted = {"kind": AlertKind.CLOCK_OFFSET}
            for look in range(3):
                await watch.look(NOW + look)
                assert len(await alerts(store, **wanted)) == (look >= 1)  # B is the second
            (alert,) = await alerts(store, **wanted)
            assert (alert.device, alert.evidence["meters"]) == ("B", ["B"])
            assert alert.evidence["meterAheadSeconds"] == pytest.approx(1200, abs=30)
            # Three turns later the others come again, and nothing new is found.
            for look in range(3, 6):
                await watch.look(NOW + look)
            assert len(await alerts(store, **wanted)) == 1

            await charges(store, "B", 0, meter_ahead_us=0)
            for look in range(3):
                await watch.look(NOW + 4 * DAY_US + look)
            (alert,) = await alerts(store, **wanted)
            assert alert.state == "resolved"
            assert alert.resolution is not None
            assert alert.resolution["meterAheadSeconds"] == pytest.approx(0, abs=30)

    asyncio.run(main())


def test_a_pair_that_is_none_any_more_has_no_clocks_to_compare(conninfo: str) -> None:
    async def main() -> None:
        async with opened(conninfo) as store:
            link = await store.add_link("M", "V", NOW - 9 * DAY_US, FOREVER_US)
            await charges(store, "V", -4, meter_ahead_us=OFFSET_US, meter="M")
            watch = Watch(store.alerts)
            await watch.look(NOW)
            (alert,) = await alerts(store, kind=AlertKind.CLOCK_OFFSET)
            assert alert.evidence["meters"] == ["M"]
            await store.delete_link(link.link_id)
            await watch.look(NOW + 1)
            (alert,) = await alerts(store, kind=AlertKind.CLOCK_OFFSET)
            assert alert.resolution is not None
            assert alert.resolution["reason"] == "no_meter"

    asyncio.run(main())
