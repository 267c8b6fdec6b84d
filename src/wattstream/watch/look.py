"""A look: read the state of all devices, decide, open and resolve alerts."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from wattstream.domain.alerts import RESET_SHOWN_US, THRESHOLDS, AlertKind, frozen_meter
from wattstream.domain.errors import WattstreamError
from wattstream.domain.readings import Stream
from wattstream.domain.units import (
    BUCKET_US,
    DAY_US,
    HOUR_US,
    MICRO,
    NEVER_US,
    Bool,
    Float64,
    bucket_floor,
    rfc3339,
)
from wattstream.query.fleet import default_start
from wattstream.query.linked import linked_energy
from wattstream.store.alert_port import (
    AlertSnapshot,
    AlertStore,
    DriftStates,
    LastLook,
    LiveStates,
    Look,
    Opening,
    Resolution,
)
from wattstream.store.port import FleetFeeds
from wattstream.watch.clocks import Clocks
from wattstream.watch.day import judge_day
from wattstream.watch.drift import followed, judge_drift
from wattstream.watch.edges import edge_energy
from wattstream.watch.judgement import Book, Evidence, Judgement, number
from wattstream.watch.live import judge_live, judge_resets
from wattstream.watch.quarters import frozen_gain, paired

USUAL: Mapping[AlertKind, float] = {kind: limit.default for kind, limit in THRESHOLDS.items()}

_SETTLE_US = 2 * 60 * MICRO  # from the end of a quarter-hour to when it is read
_LATE_US = HOUR_US  # how long a quarter-hour that lacks readings is waited for
_AT_ONCE_US = 6 * HOUR_US  # quarter-hours in memory at once
_MOST_US = 7 * DAY_US  # after a longer pause, what is older is not caught up with


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look came to.

    Attributes:
        opened: How many alerts it opened.
        resolved: How many it resolved.
        open: How many alerts of each kind are open now.
    """

    opened: int
    resolved: int
    open: Mapping[AlertKind, int]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the quarter-hours are judged by.

    Attributes:
        live: The newest reading of every device.
        feeds: All links.
        is_linked: Which vehicles a meter fed within the last day.
    """

    live: Mapping[Stream, LiveStates]
    feeds: FleetFeeds
    is_linked: Bool

    def meters_of(self, until_us: int) -> Callable[[int], Iterable[int]]:
        """Return what tells the meters that fed a vehicle, by its row, lately."""
        feeds = self.feeds
        is_late = (feeds.start_us < until_us) & (feeds.end_us > until_us - _LATE_US)

        def meters(row: int) -> list[int]:
            is_its = feeds.vehicle == self.live[Stream.VEHICLE].device[row]
            keys: list[int] = feeds.meter[is_late & is_its].tolist()
            return keys

        return meters


class Watch:
    """Looks at all devices; several engines may watch one database.

    Args:
        store: Where alerts are kept, and readings read.
        thresholds: Usual ones, by kind; kinds that are absent have the default.
        same_id: Whether a meter of the same id counts where no link names either.
        notify: Whether openings and resolutions become events for a webhook.
        interval_us: How often the engine looks; when another one just has, this one does not.
        clock_vehicles: Of how many vehicles a look compares the clocks with their meters'.
    """

    def __init__(
        self,
        store: AlertStore,
        thresholds: Mapping[AlertKind, float] = USUAL,
        *,
        same_id: bool = True,
        notify: bool = False,
        interval_us: int = 0,
        clock_vehicles: int = 10,
    ) -> None:
        self._store = store
        self._usual = {**USUAL, **thresholds}
        self._same_id = same_id
        self._notify = notify
        self._interval_us = interval_us
        self._listening_us: int | None = None
        self._clocks = Clocks(clock_vehicles)

    async def look(self, now_us: int) -> Outcome:
        """Look once, and write what changed.

        Args:
            now_us: The clock: what opens or is over, does so now.

        Raises:
            StoreUnavailableError: The database is away; nothing was written.
        """
        try:
            return await self._look(now_us)
        except WattstreamError:
            # Where the database was away, devices could not be heard: nobody was silent.
            self._listening_us = None
            raise

    async def _look(self, now_us: int) -> Outcome:
        if self._listening_us is None:
            self._listening_us = now_us
        async with self._store.snapshot() as snapshot:
            last = await snapshot.last_look()
            book = Book(
                await snapshot.open_alerts(), self._usual, await snapshot.alert_thresholds()
            )
            if 0 <= now_us - last.looked_at_us < self._interval_us // 2:
                return Outcome(0, 0, book.counts())
            judgements, observed_us, drift = await self._judge(snapshot, book, last, now_us)
            look = await _decide(snapshot, judgements, book, observed_us, drift)
        if not await self._store.write_look(look, last, now_us, notify=self._notify):
            return Outcome(0, 0, book.counts())
        counts = Counter(book.counts())
        counts.update(opening.kind for opening in look.openings)
        counts.subtract(resolution.kind for resolution in look.resolutions)
        return Outcome(len(look.openings), len(look.resolutions), dict(counts))

    async def _judge(
        self, snapshot: AlertSnapshot, book: Book, last: LastLook, now_us: int
    ) -> tuple[list[Judgement], int, DriftStates | None]:
        live = {stream: await snapshot.live_states(stream) for stream in Stream}
        feeds = _known(await snapshot.fleet_feeds(same_id=self._same_id), live)
        listening_us = now_us if self._listening_us is None else self._listening_us
        judgements = judge_live(live, book, now_us, listening_us)

        for stream, states in live.items():
            resets = await snapshot.resets(stream, now_us - RESET_SHOWN_US)
            judgements.append(judge_resets(stream, states, resets, book))

        vehicles, meters = live[Stream.VEHICLE], live[Stream.METER]
        newest_us = max(int(states.last_at_us.max(initial=NEVER_US)) for states in live.values())
        start_us = default_start(now_us)
        end_us = max(start_us, newest_us) + 1
        energy = await linked_energy(snapshot, feeds, start_us, end_us, only_linked=True)
        judge = partial(judge_day, energy, vehicles, meters, book, window=(start_us, end_us))
        judged = judge(edge_ukwh=np.zeros(len(energy.vehicle)))
        if any((each.is_on & ~book.is_open(each.kind, each.device)).any() for each in judged):
            # Only an alert that would open asks for the edges of the day.
            judged = judge(edge_ukwh=await edge_energy(snapshot, energy, start_us, end_us))
        judgements += judged

        judgements += await self._clocks.judge(snapshot, feeds, book, now_us)
        is_linked = np.isin(vehicles.device, energy.vehicle)
        facts = _Facts(live, feeds, is_linked)
        more, observed_us, drift = await _judge_quarters(snapshot, facts, book, last, now_us)
        return judgements + more, observed_us, drift


def _known(feeds: FleetFeeds, live: Mapping[Stream, LiveStates]) -> FleetFeeds:
    """Return links without those of a device that somebody took out of the database."""
    is_known = np.isin(feeds.vehicle, live[Stream.VEHICLE].device)
    is_known &= np.isin(feeds.meter, live[Stream.METER].device)
    return FleetFeeds(*(getattr(feeds, name)[is_known] for name in FleetFeeds.__slots__))


async def _judge_quarters(
    snapshot: AlertSnapshot, facts: _Facts, book: Book, last: LastLook, now_us: int
) -> tuple[list[Judgement], int, DriftStates | None]:
    """Judge by the quarter-hours that ended since the last look; return up to which, and states."""
    until_us = bucket_floor(now_us - _SETTLE_US)
    if until_us <= last.observed_us:
        return [], last.observed_us, None
    begin_us = max(last.observed_us, until_us - _MOST_US)
    if last.observed_us == NEVER_US:
        begin_us = until_us - BUCKET_US
    vehicles, meters = facts.live[Stream.VEHICLE], facts.live[Stream.METER]
    drift = await snapshot.drift_states()
    gain: Float64 = np.full(len(vehicles.device), np.nan)
    for start_us in range(begin_us, until_us, _AT_ONCE_US):
        limits = (start_us - _LATE_US, min(start_us + _AT_ONCE_US, until_us))
        # In a thread, as all of it takes longer than requests should wait.
        quarters = await asyncio.to_thread(
            paired,
            facts.feeds,
            await snapshot.quarter_hours(Stream.VEHICLE, *limits),
            await snapshot.quarter_hours(Stream.METER, *limits),
            vehicles,
            meters,
        )
        settled_us = limits[1] - _LATE_US
        drift = await asyncio.to_thread(
            followed,
            drift,
            quarters,
            facts.feeds,
            vehicles.device,
            book=book,
            settled_us=settled_us,
        )
        gain = frozen_gain(quarters, vehicles.device)
    judgements = [
        _judge_frozen(gain, facts, book, until_us),
        replace(
            judge_drift(drift, vehicles.device, facts.is_linked, book),
            meters=facts.meters_of(until_us),
        ),
    ]
    return judgements, until_us, drift


def _judge_frozen(gain_kwh: Float64, facts: _Facts, book: Book, until_us: int) -> Judgement:
    kind = AlertKind.FROZEN_METER
    vehicle = facts.live[Stream.VEHICLE].device
    threshold = book.thresholds(kind, vehicle)
    is_on = frozen_meter(gain_kwh, book.is_open(kind, vehicle), threshold) & facts.is_linked

    def evidence(row: int) -> Evidence:
        found: Evidence = {
            "quarterHoursUntil": rfc3339(until_us),
            "gainedKwh": number(gain_kwh[row]),
            "thresholdKwh": number(threshold[row]),
        }
        return found if facts.is_linked[row] else found | {"reason": "no_meter"}

    return Judgement(kind, Stream.VEHICLE, vehicle, is_on, evidence, facts.meters_of(until_us))


async def _decide(
    snapshot: AlertSnapshot,
    judgements: Sequence[Judgement],
    book: Book,
    observed_us: int,
    drift: DriftStates | None,
) -> Look:
    """Return what changes: who is at fault without an open alert, and the other way round."""
    changes = []
    for judgement in judgements:
        is_open = book.is_open(judgement.kind, judgement.device)
        changes += [(judgement, row) for row in np.flatnonzero(is_open != judgement.is_on).tolist()]
    keys = {int(key) for judgement, row in changes for key in judgement.meters(row)}
    names = await snapshot.named(sorted(keys)) if keys else {}
    openings: list[Opening] = []
    resolutions: list[Resolution] = []
    for judgement, row in changes:
        evidence = judgement.evidence(row)
        if meters := sorted(names[int(key)] for key in set(judgement.meters(row))):
            evidence["meters"] = meters
        device = int(judgement.device[row])
        if judgement.is_on[row]:
            openings.append(Opening(judgement.kind, judgement.stream, device, evidence))
        else:
            alert_id = book.alert_id(judgement.kind, device)
            resolutions.append(Resolution(judgement.kind, alert_id, evidence))
    return Look(observed_us, openings, resolutions, drift)
