"""Answers over all devices at once, together and by fleet label."""

from dataclasses import dataclass

import numpy as np

from wattstream.caller import caller
from wattstream.domain.efficiency import Status, efficiency, status
from wattstream.domain.errors import NotFoundError
from wattstream.domain.links import covered
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, MICRO, Int64, bucket_ceil
from wattstream.query.performance import BATTERY_TEMP
from wattstream.query.ranges import device_totals, grouped, range_sums
from wattstream.query.reach import within
from wattstream.store.port import DeviceTotals, Records, Snapshot, Totals


@dataclass(frozen=True, slots=True)
class FleetTotals:
    """Energy and efficiency of some devices together.

    Attributes:
        ac: Sums of the meters.
        dc: Sums of the vehicles.
        linked_ac_ukwh: AC of the meters at times when it is known which vehicle they feed.
        linked_dc_ukwh: DC of the vehicles at times when it is known which meter feeds them.
        efficiency: DC / AC as a fraction, None where AC is 0 or no vehicle reported.
        linked_efficiency: The same of what is linked.
        battery_temp_c: Mean over the vehicles' readings, °C; None where there are none.
    """

    ac: Totals
    dc: Totals
    linked_ac_ukwh: int
    linked_dc_ukwh: int
    efficiency: float | None
    linked_efficiency: float | None
    battery_temp_c: float | None
    status: Status


@dataclass(frozen=True, slots=True)
class FleetPerformance:
    """The answer for all devices, or those of one label, over [start_us, end_us)."""

    start_us: int
    end_us: int
    totals: FleetTotals


@dataclass(frozen=True, slots=True)
class Fleets:
    """The answer for each fleet label over [start_us, end_us).

    Attributes:
        fleets: By label in code point order; last None, for devices without a label.
    """

    start_us: int
    end_us: int
    fleets: list[tuple[str | None, FleetTotals]]


@dataclass(frozen=True, slots=True)
class _Measured:
    """What each device of a stream sums over a range, n devices.

    Attributes:
        linked_ukwh: Of its energy, that at times with a link, int64[n].
    """

    totals: DeviceTotals
    linked_ukwh: Int64


async def fleet_performance(
    store: Records,
    now_us: int,
    start_us: int | None,
    end_us: int | None,
    *,
    label: str | None,
    same_id: bool,
    threshold: float,
) -> FleetPerformance:
    """Return energy and efficiency of devices together.

    Args:
        store: Where the readings are.
        now_us: The engine's clock, microseconds.
        start_us: Inclusive; None: the first whole quarter-hour after now − 24 h.
        end_us: Exclusive; None: just after the newest reading, so no quarter-hour is cut.
        label: Only devices with this fleet label; None: all.
        same_id: Whether a meter of the same id counts where no link names either.
        threshold: Efficiency below this is low, fraction.

    Raises:
        NotFoundError: No device has that label.
    """
    async with store.snapshot() as snapshot:
        start_us, end_us, measured = await _measured(
            snapshot, now_us, start_us, end_us, same_id=same_id
        )
        groups = {stream: np.zeros(len(of.totals.key), np.int64) for stream, of in measured.items()}
        if label is not None:
            keys = {stream: (await snapshot.labelled(stream)).get(label) for stream in Stream}
            if all(some is None for some in keys.values()):
                raise NotFoundError(
                    f"no device has the fleet label {label[:128]!r}; GET /v1/analytics/fleets "
                    "lists the labels that exist",
                    code="fleet_unknown",
                    field="fleet",
                )
            for stream, some in keys.items():
                is_in = np.isin(measured[stream].totals.key, [] if some is None else some)
                groups[stream] = np.where(is_in, 0, -1)
    (totals,) = _grouped(measured, groups, 1, threshold)
    return FleetPerformance(start_us, end_us, totals)


async def fleets(
    store: Records,
    now_us: int,
    start_us: int | None,
    end_us: int | None,
    *,
    same_id: bool,
    threshold: float,
) -> Fleets:
    """Return energy and efficiency of each fleet label; see `fleet_performance`."""
    async with store.snapshot() as snapshot:
        start_us, end_us, measured = await _measured(
            snapshot, now_us, start_us, end_us, same_id=same_id
        )
        keys = {stream: await snapshot.labelled(stream) for stream in Stream}
    labels = sorted({*keys[Stream.METER], *keys[Stream.VEHICLE]}, key=lambda x: (x is None, x))
    groups = {
        stream: _numbers(of.totals.key, [keys[stream].get(label) for label in labels])
        for stream, of in measured.items()
    }
    totals = _grouped(measured, groups, len(labels), threshold)
    return Fleets(start_us, end_us, list(zip(labels, totals, strict=True)))


def default_start(now_us: int) -> int:
    """Return the first whole quarter-hour after now − 24 h: no bucket is cut there."""
    return bucket_ceil(now_us - DAY_US)


async def _measured(
    snapshot: Snapshot, now_us: int, start_us: int | None, end_us: int | None, *, same_id: bool
) -> tuple[int, int, dict[Stream, _Measured]]:
    """Return the range, and what each device sums over it."""
    newest = {stream: await snapshot.newest(stream) for stream in Stream}
    start_us = default_start(now_us) if start_us is None else start_us
    end_us = max(start_us, *newest.values()) + 1 if end_us is None else end_us
    feeds = await snapshot.fleet_feeds(same_id=same_id)
    measured = {}
    for stream, key in ((Stream.METER, feeds.meter), (Stream.VEHICLE, feeds.vehicle)):
        totals = await device_totals(snapshot, stream, start_us, end_us, newest[stream])
        if (keys := await within(snapshot, stream, caller().reach)) is not None:
            totals = totals.of(keys)
        # Nothing is after the newest reading: a link may as well end with its quarter-hour.
        until_us = bucket_ceil(end_us) if end_us > newest[stream] else end_us
        links = (key, feeds.start_us, feeds.end_us)
        linked = await _linked(snapshot, stream, totals, links, start_us=start_us, end_us=until_us)
        measured[stream] = _Measured(totals, linked)
    return start_us, end_us, measured


async def _linked(
    snapshot: Snapshot,
    stream: Stream,
    totals: DeviceTotals,
    links: tuple[Int64, Int64, Int64],
    *,
    start_us: int,
    end_us: int,
) -> Int64:
    """Return the energy of each device at times when a link names it, micro-kWh.

    Args:
        snapshot: Where the readings are.
        stream: Of which devices.
        totals: What they sum over [start_us, end_us).
        links: Key, start and end of all links.
        start_us: Inclusive.
        end_us: Exclusive.
    """
    key, first, last = links
    first, last = np.maximum(first, start_us), np.minimum(last, end_us)
    inside = (first < last) & np.isin(key, totals.key)
    key, first, last = covered(key[inside], first[inside], last[inside])
    is_whole = (first == start_us) & (last == end_us)
    linked = np.where(np.isin(totals.key, key[is_whole]), totals.energy_ukwh, 0)
    key, first, last = key[~is_whole], first[~is_whole], last[~is_whole]
    parts, _ = await range_sums(snapshot, stream, key, first, last)
    np.add.at(linked, np.searchsorted(totals.key, key), parts)
    return linked


def _grouped(
    measured: dict[Stream, _Measured], groups: dict[Stream, Int64], n: int, threshold: float
) -> list[FleetTotals]:
    """Return the totals of n groups of devices; a device whose group is below 0 is left out."""
    sums = {
        stream: grouped(np.vstack([of.totals.sums, of.linked_ukwh]), groups[stream], n)
        for stream, of in measured.items()
    }
    return [
        _totals(ac, dc, threshold)
        for ac, dc in zip(sums[Stream.METER], sums[Stream.VEHICLE], strict=True)
    ]


def _totals(ac_sums: list[int], dc_sums: list[int], threshold: float) -> FleetTotals:
    """Return totals from the sums of a stream's columns, each with linked energy after them."""
    (ac, linked_ac), (dc, linked_dc) = (
        (Totals(energy, suspect, readings, tuple(measured[::2]), tuple(measured[1::2])), linked)
        for energy, suspect, readings, *measured, linked in (ac_sums, dc_sums)
    )
    value = efficiency(dc.energy_ukwh, ac.energy_ukwh) if dc.readings else None
    temps = dc.counts[BATTERY_TEMP]
    return FleetTotals(
        ac=ac,
        dc=dc,
        linked_ac_ukwh=linked_ac,
        linked_dc_ukwh=linked_dc,
        efficiency=value,
        linked_efficiency=efficiency(linked_dc, linked_ac) if dc.readings else None,
        battery_temp_c=dc.sums_micro[BATTERY_TEMP] / (temps * MICRO) if temps else None,
        status=status(
            vehicle_readings=dc.readings,
            has_meter=ac.readings > 0,
            value=value,
            threshold=threshold,
        ),
    )


def _numbers(key: Int64, members: list[Int64 | None]) -> Int64:
    """Return, for each key, which of some lists it is in; every key is in one."""
    lists = [np.zeros(0, np.int64) if some is None else some for some in members]
    known = np.concatenate([np.zeros(0, np.int64), *lists])
    number = np.repeat(np.arange(len(lists)), [len(some) for some in lists])
    order = np.argsort(known)
    return number[order][np.searchsorted(known, key, sorter=order)]
