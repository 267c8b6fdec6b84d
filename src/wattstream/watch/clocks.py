"""Clocks of vehicles and meters that are apart: some pairs a look, each in its turn."""

import asyncio

import numpy as np

from wattstream.domain.alerts import AlertKind, clock_offset
from wattstream.domain.clock import ClockEstimate
from wattstream.domain.devices import Device
from wattstream.domain.links import Link
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, MICRO, Int64, rfc3339
from wattstream.query.clock import read_pairs
from wattstream.store.alert_port import AlertSnapshot
from wattstream.store.port import FleetFeeds
from wattstream.watch.judgement import Book, Evidence, Judgement, number

_WINDOW_US = 2 * DAY_US
_LINKS = 3  # of a vehicle, the latest: more of them are short, and tell little

Found = tuple[int, ClockEstimate]
"""A meter's key, and how far its clock is from the vehicle's."""


class Clocks:
    """Compares the clocks of pairs, a few vehicles at a time.

    Args:
        vehicles: How many a look.
    """

    def __init__(self, vehicles: int) -> None:
        self._vehicles = vehicles
        self._last_key = -1

    async def judge(
        self, snapshot: AlertSnapshot, feeds: FleetFeeds, book: Book, now_us: int
    ) -> list[Judgement]:
        """Return which of the next vehicles have a meter whose clock is far from theirs.

        Args:
            snapshot: Where the readings are.
            feeds: All links.
            book: What is open, and thresholds.
            now_us: The engine's clock; the two days before it are compared.
        """
        kind = AlertKind.CLOCK_OFFSET
        start_us = now_us - _WINDOW_US
        inside = (feeds.start_us < now_us) & (feeds.end_us > start_us)
        turn = self._next(np.union1d(feeds.vehicle[inside], book.devices(kind)))
        if len(turn) == 0:
            return []
        vehicles = await snapshot.keyed(Stream.VEHICLE, turn.tolist())
        rows = np.flatnonzero(inside & np.isin(feeds.vehicle, turn))
        meters = await snapshot.keyed(Stream.METER, np.unique(feeds.meter[rows]).tolist())
        found: list[Found | None] = []
        for key in turn.tolist():
            latest = sorted(
                rows[feeds.vehicle[rows] == key].tolist(), key=lambda row: int(feeds.start_us[row])
            )[-_LINKS:]
            links = [
                Link(
                    meters[int(feeds.meter[row])],
                    max(start_us, int(feeds.start_us[row])),
                    min(now_us, int(feeds.end_us[row])),
                )
                for row in latest
            ]
            found.append(await _furthest(snapshot, vehicles[key], links))
        is_linked = np.isin(turn, feeds.vehicle[inside])
        offset_s = np.array([_offset_s(one) for one in found])
        threshold = book.thresholds(kind, turn)

        def evidence(row: int) -> Evidence:
            one = found[row]
            common: Evidence = {
                "windowStart": rfc3339(start_us),
                "windowEnd": rfc3339(now_us),
                "thresholdSeconds": number(threshold[row]),
            }
            if one is None:
                return common | ({} if is_linked[row] else {"reason": "no_meter"})
            return common | {
                "meterAheadSeconds": number(offset_s[row]),
                "uncertaintySeconds": (one[1].uncertainty_us or 0) / MICRO,
            }

        def meter(row: int) -> list[int]:
            one = found[row]
            return [] if one is None else [one[0]]

        is_on = clock_offset(offset_s, book.is_open(kind, turn), threshold) & is_linked
        return [Judgement(kind, Stream.VEHICLE, turn, is_on, evidence, meter)]

    def _next(self, linked: Int64) -> Int64:
        """Return the vehicles whose turn it is, ascending."""
        first = int(np.searchsorted(linked, self._last_key, "right"))
        turn = np.roll(linked, -first)[: self._vehicles]
        if len(turn):
            self._last_key = int(turn[-1])
        return np.sort(turn)


async def _furthest(snapshot: AlertSnapshot, vehicle: Device, links: list[Link]) -> Found | None:
    """Return the meter whose clock is the furthest away; None where none is known."""
    known: list[Found] = []
    for pair in await read_pairs(snapshot, vehicle, links):
        estimate = await asyncio.to_thread(pair.offset)
        if estimate.offset_us is not None:
            known.append((pair.link.meter.key, estimate))
    return max(known, key=lambda one: abs(one[1].offset_us or 0), default=None)


def _offset_s(one: Found | None) -> float:
    return np.nan if one is None else (one[1].offset_us or 0) / MICRO
