"""Live states as they change, for any number of listeners.

Once a second, and only while somebody listens, live rows are compared with those of the look
before, and what changed is read once for all listeners. Where all listeners name devices, and few
together, only their rows are read; else the versions of all. So it does not matter which engine
wrote a row, and writing costs nothing more. On a busy machine looks are further apart.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import structlog

from wattstream.domain.access import WHOLE, Reach
from wattstream.domain.devices import Device
from wattstream.domain.errors import RetryLaterError, WattstreamError
from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO, NEVER_US, Int64
from wattstream.query.latest import LiveState, state_of
from wattstream.store.port import Latest
from wattstream.store.view_port import Versions, ViewSnapshot, ViewStore

MAX_LISTENERS = 200
_EVERY_S = 1.0
_LONGEST_S = 2.0
_PAUSE = 50  # times as long as a look took
_FEW = 2000

_Row = tuple[Device, Latest]
_Seen = Versions | dict[int, _Row]
"""What was there at the last look: versions of all devices, or the rows of named ones by key."""
# A row is committed some time after its readings came, and clocks of engines differ a little:
# who comes back is told again what came so long before.
_OVERLAP_US = 15 * MICRO

_log = structlog.get_logger()


class TooManyStreamsError(RetryLaterError):
    """As many streams are open as one engine serves."""

    code = "too_many_streams"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes are wanted.

    Attributes:
        streams: Of these; none: no live states at all.
        ids: Of devices with these outside ids; None: of all.
        since_us: Who was told everything that came before, microseconds; None: nobody.
        reach: And within it.
    """

    streams: tuple[Stream, ...]
    ids: frozenset[str] | None = None
    since_us: int | None = None
    reach: Reach = WHOLE


@dataclass(eq=False, slots=True)
class Listener:
    """What one listener has still to be told: of each device the newest state only.

    Attributes:
        told_us: Everything that came before has been told, or waits here; microseconds.
        is_over: Whether there will be no more.
    """

    wanted: Wanted
    told_us: int = NEVER_US
    is_over: bool = False
    _waiting: dict[tuple[Stream, str], LiveState] = field(default_factory=dict)
    _has_news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, timeout_s: float) -> list[LiveState]:
        """Return what waits, as soon as something does; nothing after a time, or at the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_news.wait()
        if not self.is_over:
            self._has_news.clear()
        rows = list(self._waiting.values())
        self._waiting.clear()
        return rows

    def tell(self, rows: Iterable[LiveState], *, is_new: bool = True) -> None:
        """Let states wait; one that is not new does not replace another."""
        for row in rows:
            if self._wants(row):
                name = (row.device.stream, row.device.external_id)
                self._waiting[name] = row if is_new else self._waiting.get(name, row)
        if self._waiting:
            self._has_news.set()

    def end(self) -> None:
        """Let there be no more."""
        self.is_over = True
        self._has_news.set()

    def _wants(self, row: LiveState) -> bool:
        ids, device = self.wanted.ids, row.device
        return (
            device.stream in self.wanted.streams
            and (ids is None or device.external_id in ids)
            and self.wanted.reach.admits(device.external_id, device.fleet)
        )


class Changes:
    """The changes of one engine's database."""

    def __init__(self, store: ViewStore) -> None:
        self._store = store
        self._listeners: set[Listener] = set()
        self._seen: dict[Stream, _Seen] = {}
        self._newest_us = NEVER_US
        self._looking: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False

    def close(self) -> None:
        """End every listener, now and from now on."""
        self._is_closed = True
        for listener in self._listeners:
            listener.end()

    @asynccontextmanager
    async def listen(self, wanted: Wanted) -> AsyncIterator[Listener]:
        """Provide a listener.

        It is told at first: with `since_us`, every state of readings that came since; with ids
        alone, the states of those devices; else nothing. Then each state that changes. A state
        may be told twice.

        Raises:
            TooManyStreamsError: There are MAX_LISTENERS.
            StoreUnavailableError: The database does not answer.
        """
        if len(self._listeners) >= MAX_LISTENERS:
            raise TooManyStreamsError(
                f"{MAX_LISTENERS} streams are open, the most of one engine", retry_after_s=10
            )
        listener = Listener(wanted)
        self._listeners.add(listener)
        try:
            if wanted.streams:
                await self._begin(listener)
            if self._is_closed:
                listener.end()
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._are_wanted() and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _begin(self, listener: Listener) -> None:
        async with self._lock:
            if self._looking is None:  # nobody has listened: what was seen is long ago
                self._seen.clear()
                await self._look()
                self._looking = asyncio.create_task(self._look_often())
            elif not all(
                self._is_seen(stream, listener.wanted) for stream in listener.wanted.streams
            ):
                await self._look()  # what changes from now on must differ from something
            listener.told_us = self._newest_us
        async with self._store.snapshot() as snapshot:
            for stream in listener.wanted.streams:
                found = await self._first(snapshot, stream, listener.wanted)
                listener.tell([state_of(*row) for row in found], is_new=False)
                seen = self._seen.get(stream)
                if isinstance(seen, dict):  # the next look tells of what changed since
                    for row in found:
                        seen.setdefault(row[0].key, row)

    async def _first(self, snapshot: ViewSnapshot, stream: Stream, wanted: Wanted) -> list[_Row]:
        if wanted.since_us is not None:
            versions = await snapshot.versions(stream)
            is_since = versions.received_at_us >= max(wanted.since_us - _OVERLAP_US, NEVER_US + 1)
            return await snapshot.live_keyed(stream, versions.device[is_since])
        return await snapshot.live_named(stream, sorted(wanted.ids or ()))

    def _is_seen(self, stream: Stream, wanted: Wanted) -> bool:
        """Return whether there is something that the next look can compare a stream with."""
        seen = self._seen.get(stream)
        return isinstance(seen, Versions) or (seen is not None and wanted.ids is not None)

    def _are_wanted(self) -> bool:
        return any(listener.wanted.streams for listener in self._listeners)

    async def _look_often(self) -> None:
        took_s = 0.0
        while True:
            await asyncio.sleep(min(max(_EVERY_S, _PAUSE * took_s), _LONGEST_S))
            started = time.monotonic()
            try:
                async with self._lock:
                    await self._look()
            except WattstreamError as error:
                _log.warning("Live streams pause until the database answers", why=error.message)
            except Exception:  # noqa: BLE001 - a bug must be seen, and streams go on
                _log.exception("Live states were not read; trying again")
            took_s = time.monotonic() - started

    async def _look(self) -> None:
        """Compare once, with the lock: an older look must not replace what a newer one saw."""
        rows: list[LiveState] = []
        seen: dict[Stream, _Seen] = {}
        async with self._store.snapshot() as snapshot:
            for stream in self._streams():
                seen[stream], changes = await self._compare(snapshot, stream)
                rows += changes
        self._seen = seen
        self._newest_us = max([self._newest_us, *(_newest_us(each) for each in seen.values())])
        for listener in self._listeners:
            listener.tell(rows)
            listener.told_us = self._newest_us

    def _streams(self) -> set[Stream]:
        return {stream for each in self._listeners for stream in each.wanted.streams}

    async def _compare(
        self, snapshot: ViewSnapshot, stream: Stream
    ) -> tuple[_Seen, list[LiveState]]:
        """Return what is seen of a stream, and the states that changed since, or more."""
        before = self._seen.get(stream)
        ids = [each.wanted.ids for each in self._listeners if stream in each.wanted.streams]
        named = sorted({name for some in ids for name in some or ()})
        are_few = None not in ids and len(named) <= _FEW
        rows: dict[int, _Row] = {}
        if are_few or isinstance(before, dict):
            rows = {row[0].key: row for row in await snapshot.live_named(stream, named)}
        known = before if isinstance(before, dict) else {}  # else each is told, perhaps again
        differing = [state_of(*row) for key, row in rows.items() if known.get(key) != row]
        if are_few:
            return rows, differing
        versions = await snapshot.versions(stream)
        if not isinstance(before, Versions):
            return versions, differing
        found = await snapshot.live_keyed(stream, changed(before, versions))
        return versions, [state_of(*row) for row in found]


def changed(before: Versions, now: Versions) -> Int64:
    """Return the keys of rows whose version is another one, or that are new."""
    order = np.argsort(before.device)
    known = before.device[order]
    if len(known) == 0:
        return now.device
    place = np.minimum(np.searchsorted(known, now.device), len(known) - 1)
    is_same = (known[place] == now.device) & (before.version[order][place] == now.version)
    return np.asarray(now.device[~is_same])


def _newest_us(seen: _Seen) -> int:
    if isinstance(seen, Versions):
        return int(seen.received_at_us.max(initial=NEVER_US))
    return max((latest.received_at_us for _, latest in seen.values()), default=NEVER_US)
