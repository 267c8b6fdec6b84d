"""The pages: fleet, devices, a device, alerts, ingest."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response

from wattstream.domain.alerts import AlertFilter, AlertKind, AlertState
from wattstream.domain.errors import NotFoundError, WattstreamError
from wattstream.domain.holdings import WantedRejections
from wattstream.domain.links import AcSource
from wattstream.domain.readings import KINDS, Stream, is_valid_id
from wattstream.domain.units import DAY_US, MICRO, NEVER_US, kwh, rfc3339
from wattstream.query.alerts import AlertQueries
from wattstream.query.keyring import Keyring
from wattstream.query.performance import Performance
from wattstream.query.queries import Queries
from wattstream.query.views import Views
from wattstream.stats import Stats
from wattstream.web.guard import Guard
from wattstream.web.pages import words
from wattstream.web.pages.login import add_login
from wattstream.web.pages.meters import Work, verdict_of, work_of
from wattstream.web.pages.origin import RefuseOtherSites
from wattstream.web.pages.rendering import error_page, rendered
from wattstream.web.pages.static import add_static
from wattstream.web.stream import summary_of

_ROWS = 50
_WORST = 10
_EXAMPLES = 3
_LAST_ID = 2**63 - 1

_State = Literal["open", "acknowledged", "resolved", "all"]
_Shown = Literal["all", "reporting", "silent"]
_Sort = Literal["id", "heard", "energy", "field1", "field2"]

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pages show."""

    queries: Queries
    alerts: AlertQueries
    views: Views
    stats: Stats
    keyring: Keyring
    guard: Guard


def add_pages(
    app: FastAPI, pages: Pages, other_sites: Sequence[str]
) -> Callable[[Request], Awaitable[Response]]:
    """Add the pages and their files; return what answers with the first of them.

    Args:
        app: Where they are added.
        pages: What they show.
        other_sites: Whose pages may change things as well.
    """
    views = pages.views
    app.add_middleware(RefuseOtherSites, allowed=other_sites)
    add_static(app)
    add_login(app, pages.keyring, pages.guard)

    async def page(name: str, facts: Awaitable[Facts]) -> Response:
        """Render a page; an error is a page as well."""
        try:
            return rendered(name, **await facts)
        except WattstreamError as error:
            return error_page(error)

    async def fleet(request: Request) -> Response:
        return await page("fleet", _fleet(pages))

    @app.get("/devices", include_in_schema=False)
    async def devices(  # noqa: PLR0917 - query parameters
        type: Stream = Stream.VEHICLE,
        q: Annotated[str, Query(max_length=128)] = "",
        shown: _Shown = "all",
        sort: _Sort = "id",
        order: Literal["asc", "desc"] = "asc",
        number: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
    ) -> Response:
        asked = {"type": type.value, "q": q, "shown": shown, "sort": sort, "order": order}
        return await page("devices", _devices(views, asked, number))

    @app.get("/device", include_in_schema=False)
    async def device(type: Stream, id: str) -> Response:
        return await page("device", _device(pages, type, id))

    @app.get("/alerts", include_in_schema=False)
    async def alerts(
        state: _State = "open",
        kind: str = "",
        after: Annotated[int, Query(ge=1, le=_LAST_ID)] = _LAST_ID,
    ) -> Response:
        return await page("alerts", _alerts(pages.alerts, state, kind, after))

    @app.get("/ingest", include_in_schema=False)
    async def ingest() -> Response:
        return await page("ingest", _ingest(pages))

    @app.get("/pages/day.json", include_in_schema=False)
    async def day() -> Response:
        quarters = await views.day()
        columns = {
            "start": [rfc3339(each.start_us) for each in quarters],
            "acKwh": [kwh(each.ac_ukwh) for each in quarters],
            "dcKwh": [kwh(each.dc_ukwh) for each in quarters],
            "efficiency": [each.efficiency for each in quarters],
        }
        return JSONResponse(columns, headers={"Cache-Control": "no-store"})

    @app.get("/pages/ingest.json", include_in_schema=False)
    async def work() -> Response:
        overview = await views.overview()
        found = await _work(pages)
        shown = {
            "queue": found.queue,
            "ack": words.seconds(found.ack_p95_s),
            "verdict": asdict(verdict_of(found, summary_of(overview).lag_p95_seconds)),
        }
        return JSONResponse(shown, headers={"Cache-Control": "no-store"})

    return fleet


async def _fleet(pages: Pages) -> Facts:
    overview = await pages.views.overview()
    low = await pages.views.losing()
    return {
        "now": summary_of(overview),
        "reported": {stream.value: each for stream, each in overview.reported.items()},
        "fleet": overview.fleet.totals,
        "threshold": pages.queries.threshold,
        "losing": sorted(low.alerts, key=lambda each: each.dc_ukwh - each.ac_ukwh)[:_WORST],
        "losing_count": len(low.alerts),
    }


async def _devices(views: Views, asked: dict[str, str], number: int) -> Facts:
    stream = Stream(asked["type"])
    shown: _Shown = next(each for each in get_args(_Shown) if each == asked["shown"])
    sort: _Sort = next(each for each in get_args(_Sort) if each == asked["sort"])
    rows, total = await views.search(
        stream,
        asked["q"].replace("\0", ""),
        shown,
        sort,
        is_descending=asked["order"] == "desc",
        offset=(number - 1) * _ROWS,
        limit=_ROWS,
    )
    return {
        "asked": asked,
        "rows": rows,
        "total": total,
        "number": number,
        "last": max(1, -(-total // _ROWS)),
        "first_row": (number - 1) * _ROWS + 1,
        "columns": _columns(stream),
        "silent": views.silent,
        "now_us": views.clock_us(),
    }


def _columns(stream: Stream) -> list[tuple[str, str]]:
    """Return the columns of a list of devices, by what they are sorted by."""
    fields = {
        Stream.METER: ["Voltage"],
        Stream.VEHICLE: ["Charge", "Battery"],
    }[stream]
    energy = {Stream.METER: "AC, last day", Stream.VEHICLE: "DC, last day"}[stream]
    measured = [(f"field{place}", name) for place, name in enumerate(fields, 1)]
    return [("id", "Id"), ("heard", "Last heard"), *measured, ("energy", energy)]


async def _device(pages: Pages, stream: Stream, external_id: str) -> Facts:
    queries, views = pages.queries, pages.views
    now_us = views.clock_us()
    device, pending = await queries.device(stream, external_id)
    try:
        state = await queries.live_state(stream, external_id)
    except NotFoundError:
        state = None
    own = device.alert_thresholds.get("silent", views.silent)
    silent_s = None if own is None else own * device.rules.heartbeat_s
    side = {"meter" if stream is Stream.METER else "vehicle": external_id}
    both = {"meter": None, "vehicle": None, **side}
    links = await queries.links(0, 1000, meter=both["meter"], vehicle=both["vehicle"])
    day = await _day(queries, stream, external_id, now_us)
    return {
        "device": device,
        "pending": pending,
        "stream": stream.value,
        "fields": KINDS[stream].fields,
        "state": state,
        "now_us": now_us,
        "silent_s": silent_s,
        "is_silent": state is not None
        and silent_s is not None
        and now_us - state.latest.received_at_us >= silent_s * MICRO,
        "day": day,
        "falls": await queries.falls(stream, external_id, NEVER_US, 1000),
        "links": links,
        "alerts": await pages.alerts.alerts(
            AlertFilter(None, None, stream, external_id), _LAST_ID, 20
        ),
    }


async def _day(
    queries: Queries, stream: Stream, external_id: str, now_us: int
) -> Performance | None:
    """Return the last 24 h of a vehicle, or of that which a meter feeds by the same id."""
    try:
        day = await queries.performance(external_id, now_us - DAY_US, now_us)
    except NotFoundError:
        return None
    is_fed = stream is Stream.VEHICLE or day.ac_source is AcSource.SAME_ID
    return day if is_fed else None


async def _alerts(alerts: AlertQueries, state: _State, kind: str, after: int) -> Facts:
    wanted = AlertFilter(
        None if state == "all" else AlertState(state),
        AlertKind(kind) if kind in set(AlertKind) else None,
    )
    found = await alerts.alerts(wanted, after, _ROWS)
    return {
        "state": state,
        "kind": kind,
        "alerts": found,
        "after": found[-1].alert_id if len(found) == _ROWS else None,
        "is_first": after == _LAST_ID,
    }


async def _work(pages: Pages) -> Work:
    # In a thread: several workers' counters are files.
    return work_of((await asyncio.to_thread(pages.stats.text)).decode())


async def _ingest(pages: Pages) -> Facts:
    overview = await pages.views.overview()
    counts = await pages.queries.rejection_counts()
    codes: dict[str, Facts] = {}
    for count in sorted(counts, key=lambda each: (-each.last_at_us, each.code)):
        of_code = codes.setdefault(count.code, {"count": 0, "last_us": NEVER_US, "examples": []})
        of_code["count"] += count.rejections
        of_code["last_us"] = max(of_code["last_us"], count.last_at_us)
    for code, of_code in codes.items():
        wanted = WantedRejections(code, newest_first=True)
        of_code["examples"] = [
            {
                "at_us": kept.rejected_at_us,
                "id": kept.rejection.device,
                "type": kept.rejection.stream and kept.rejection.stream.value,
                "is_known": kept.rejection.device is not None
                and is_valid_id(kept.rejection.device),
                "message": kept.rejection.message,
                "record": kept.rejection.record[:600].decode(errors="replace"),
            }
            for kept in await pages.queries.rejections(wanted, None, _EXAMPLES)
        ]
    work, now = await _work(pages), summary_of(overview)
    return {
        "now": now,
        "work": work,
        "verdict": verdict_of(work, now.lag_p95_seconds),
        "codes": codes,
    }
