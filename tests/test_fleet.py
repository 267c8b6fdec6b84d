"""The simulated fleet: the same readings however they are asked for, and plausible ones."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wattstream.client.fleet import Fleet, Heartbeats
from wattstream.domain.readings import METER, VEHICLE
from wattstream.domain.units import Float64

MINUTE = 29_510_000  # a minute of February 2026


def table(fleet: Fleet, minutes: range, *names: str) -> list[Float64]:
    """Return columns of all pairs as tables, a row a minute."""
    beats = fleet.heartbeats(
        np.tile(np.arange(fleet.pairs), len(minutes)), np.repeat(minutes, fleet.pairs)
    )
    return [getattr(beats, name).reshape(-1, fleet.pairs) for name in names]


@given(st.integers(0, 2**63), st.integers(0, 10**8), st.data())
def test_a_reading_depends_on_seed_pair_and_minute_only(
    seed: int, minute: int, data: st.DataObject
) -> None:
    fleet = Fleet(50, seed=seed)
    some = np.array(sorted(data.draw(st.sets(st.integers(0, 49), min_size=1))))
    whole, part = fleet.heartbeats(np.arange(50), minute), fleet.heartbeats(some, minute)
    again = Fleet(50, seed=seed).heartbeats(np.arange(50), minute)
    for name in Heartbeats.__slots__[1:]:
        np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(whole, name)[some], getattr(part, name))
    minutes, names = range(minute, minute + 2), Heartbeats.__slots__[1:]
    each = [fleet.heartbeats(np.arange(50), one) for one in minutes]
    for name, found in zip(names, table(fleet, minutes, *names), strict=True):
        np.testing.assert_array_equal(found, [getattr(beats, name) for beats in each])


def test_a_day_is_plausible() -> None:
    fleet = Fleet(300, seed=1, faulty_share=0.1)
    names = ("ac_kwh", "dc_kwh", "soc_percent", "temp_c", "voltage_v")
    ac, dc, soc, temp, volts = table(fleet, range(MINUTE, MINUTE + 1440), *names)
    for values, field in zip((volts, soc, temp), (*METER.fields, *VEHICLE.fields), strict=True):
        assert (values >= field.low).all()
        assert (values <= field.high).all()
    assert (ac > 0).all()
    assert (ac >= dc).all()
    assert (ac.max(axis=0) * 60 <= 22 / 0.9).all()
    efficiency = dc.sum(axis=0) / ac.sum(axis=0)
    assert ((efficiency < 0.83) == fleet.is_faulty).all()
    healthy = efficiency[~fleet.is_faulty]
    assert (healthy > 0.87).all()
    assert (healthy < 0.945).all()
    assert 10 <= fleet.is_faulty.sum() <= 50


def test_the_battery_gains_what_was_delivered() -> None:
    fleet = Fleet(100, seed=4)
    dc, soc = table(fleet, range(MINUTE, MINUTE + 1440), "dc_kwh", "soc_percent")
    rises = np.where(dc[1:] > 0, np.diff(soc, axis=0), 0).sum(axis=0)
    battery_kwh = dc[1:].sum(axis=0) / rises * 100
    assert (battery_kwh > 39).all()
    assert (battery_kwh < 91).all()
