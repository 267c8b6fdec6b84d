"""Live states as server-sent events, `/v1/stream`.

Source: WHATWG HTML, section 9.2, Server-sent events.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Literal

from fastapi import FastAPI, Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from wattstream.caller import caller
from wattstream.domain.errors import MalformedError, WattstreamError
from wattstream.domain.readings import Stream, is_valid_id
from wattstream.domain.units import NEVER_US, kwh
from wattstream.query.changes import Listener, Wanted
from wattstream.query.keyring import Keyring
from wattstream.query.overview import Overview
from wattstream.query.views import Views
from wattstream.web import answers, models
from wattstream.web.documents import AWAY, BAD, Responses

EVENTS = "text/event-stream"
_MAX_IDS = 1000
_RETRY_MS = 2000
_COMMENT_EVERY_S = 15.0
_SUMMARY_EVERY_S = 1.0
_EVENTS_AT_ONCE = 200
SLOW_AFTER_S = 30.0
"""A client that takes nothing for so long loses its stream."""

_Ids = Annotated[
    list[str] | None,
    Query(description="Only of devices with this id; repeat the key", max_length=_MAX_IDS),
]
_Kinds = Annotated[
    list[Literal["live", "summary"]] | None,
    Query(description="`live` (default): states of devices; `summary`: a few numbers of all"),
]
_OK: Responses = {
    200: {"content": {EVENTS: {"schema": {"type": "string"}}}, "description": "Events, for good"}
}


class Summary(models.Model):
    """The fleet and its ingest; energy and efficiency are of the fleet's default window."""

    devices: int
    silent: int
    readings: int | None
    heartbeats_per_second: float | None
    total_ac: float
    total_dc: float
    efficiency: float | None
    open_alerts: int
    unacknowledged_alerts: int
    rejections: int | None
    lag_seconds: float | None
    lag_p95_seconds: float | None


class EventStream(StreamingResponse):
    """A stream that is given up where its client does not read.

    Args:
        body: Events; each part is sent as it comes.
        opened: What is closed at the end of the stream.
        slow_after_s: Seconds in which a client must take some of what waits for it.
    """

    def __init__(
        self,
        body: AsyncGenerator[bytes],
        opened: AsyncExitStack,
        *,
        slow_after_s: float = SLOW_AFTER_S,
    ) -> None:
        super().__init__(
            body,
            media_type=EVENTS,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._opened = opened
        self._slow_after_s = slow_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client leaves, is too slow, or the engine stops."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._slow_after_s):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            pass  # without a last chunk, the server closes the connection
        finally:
            await self._opened.aclose()


def add_stream(app: FastAPI, views: Views, keyring: Keyring) -> None:
    """Add the endpoint of live events."""

    @app.get(
        "/v1/stream",
        tags=["answers"],
        summary="Live states of devices as they change, as server-sent events",
        description=(
            "At most one state a second of each device. A stream of named devices begins with "
            "their states; one with `Last-Event-ID`, with every state that changed since."
        ),
        response_class=StreamingResponse,
        responses={**_OK, **BAD, **AWAY},
    )
    async def stream(
        type: Annotated[Stream | None, Query(description="Only of meters, or vehicles")] = None,
        id: _Ids = None,
        event: _Kinds = None,
        last_event_id: Annotated[str | None, Header(description="Where to go on")] = None,
    ) -> StreamingResponse:
        kinds = set(event or ["live"])
        streams = () if "live" not in kinds else tuple(Stream) if type is None else (type,)
        # What no device can be called never changes, and PostgreSQL refuses a zero byte.
        ids = None if id is None else frozenset(name for name in id if is_valid_id(name))
        who = caller()
        wanted = Wanted(streams, ids, _since(last_event_id), who.reach)
        opened = AsyncExitStack()
        listener = await opened.enter_async_context(views.changes.listen(wanted))
        body = _events(
            views,
            listener,
            lambda: keyring.admits(who.key),
            with_summary="summary" in kinds,
        )
        return EventStream(body, opened)


def _since(last_event_id: str | None) -> int | None:
    if not last_event_id:
        return None
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 18):
        raise MalformedError(
            "Last-Event-ID must be an id of this stream: digits only",
            code="event_id_invalid",
            field="Last-Event-ID",
        )
    return int(last_event_id)


async def _events(
    views: Views, listener: Listener, is_allowed: Callable[[], bool], *, with_summary: bool
) -> AsyncGenerator[bytes]:
    yield b"retry: %d\n\n" % _RETRY_MS
    summary_due = spoken = time.monotonic()
    while not listener.is_over and is_allowed():
        if with_summary and time.monotonic() >= summary_due:
            if (event := await _summary_event(views)) is not None:
                yield event
                spoken = time.monotonic()
            summary_due = time.monotonic() + _SUMMARY_EVERY_S
        states = await listener.take(_SUMMARY_EVERY_S if with_summary else _COMMENT_EVERY_S)
        if not is_allowed():
            return
        told_us, now_us = listener.told_us, views.clock_us()
        for first in range(0, len(states), _EVENTS_AT_ONCE):
            part = states[first : first + _EVENTS_AT_ONCE]
            is_last = first + _EVENTS_AT_ONCE >= len(states)
            event_id = told_us if is_last and told_us > NEVER_US else None
            *others, last = (answers.status(state, now_us) for state in part)
            events = [_event("live", None, status) for status in others]
            yield b"".join([*events, _event("live", event_id, last)])
            spoken = time.monotonic()
        if time.monotonic() >= spoken + _COMMENT_EVERY_S - 1:
            yield b": still here\n\n"
            spoken = time.monotonic()


async def _summary_event(views: Views) -> bytes | None:
    """Return a summary; None while the database is away, which the stream outlives."""
    try:
        return _event("summary", None, summary_of(await views.overview()))
    except WattstreamError:
        return None


def _event(name: str, event_id: int | None, data: models.Model) -> bytes:
    """Return one event; only the last of those told together has an id, as all were told then."""
    numbered = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {name}\n{numbered}data: {data.model_dump_json(by_alias=True)}\n\n".encode()


def summary_of(overview: Overview) -> Summary:
    """Return an overview as JSON; lag is that of the slower stream."""
    tallies, fleet = overview.tallies, overview.fleet.totals
    meters, vehicles = overview.reported[Stream.METER], overview.reported[Stream.VEHICLE]
    lags = [each for each in (meters, vehicles) if each.lag_s is not None]
    return Summary(
        devices=meters.devices + vehicles.devices,
        silent=meters.silent + vehicles.silent,
        readings=tallies.readings,
        heartbeats_per_second=overview.per_second,
        total_ac=kwh(fleet.ac.energy_ukwh),
        total_dc=kwh(fleet.dc.energy_ukwh),
        efficiency=fleet.efficiency,
        open_alerts=tallies.alerts,
        unacknowledged_alerts=tallies.unnoticed,
        rejections=tallies.rejections,
        lag_seconds=max((each.lag_s or 0 for each in lags), default=None),
        lag_p95_seconds=max((each.lag_p95_s or 0 for each in lags), default=None),
    )
