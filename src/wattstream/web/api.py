"""The API that people and programs read: answers, registry, health, metrics, documents."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client.exposition import CONTENT_TYPE_LATEST

import wattstream
from wattstream.domain.errors import NotAcceptableError, QueueFullError, ReadingError
from wattstream.domain.readings import Stream, is_valid_id
from wattstream.domain.units import NEVER_US, rfc3339
from wattstream.query.alerts import AlertQueries
from wattstream.query.keyring import Keyring
from wattstream.query.queries import Queries
from wattstream.query.views import Views
from wattstream.stats import Stats
from wattstream.web import answers, models
from wattstream.web.alerts import add_alerts
from wattstream.web.audit import add_audit
from wattstream.web.bodies import BodyLimit
from wattstream.web.clock import add_clock
from wattstream.web.documents import (
    AWAY,
    BAD,
    CONNECTION,
    KEYS,
    RULE,
    UNKNOWN,
    DeviceId,
    DeviceType,
    Limit,
)
from wattstream.web.errors import add_error_handlers
from wattstream.web.fleet import add_fleet
from wattstream.web.guard import Guard, needed
from wattstream.web.history import add_history
from wattstream.web.links import add_links
from wattstream.web.negotiation import preferred
from wattstream.web.pages import Pages, add_pages
from wattstream.web.parameters import (
    AfterQuery,
    EndQuery,
    StartQuery,
    fraction,
    time_of_query,
    time_range,
)
from wattstream.web.rejections import add_rejections
from wattstream.web.stream import add_stream


class Index(models.Model):
    """What the engine answers."""

    name: str
    version: str
    documentation: str
    endpoints: list[str]


@dataclass(frozen=True, slots=True)
class Context:
    """What the API answers from.

    Attributes:
        is_full: Whether the ingest queue is at its bound.
        ingest_paths: OpenAPI path items of the inputs.
        cors_origins: Other sites whose pages may ask.
    """

    queries: Queries
    alerts: AlertQueries
    views: Views
    stats: Stats
    keyring: Keyring
    guard: Guard
    is_full: Callable[[], bool]
    ingest_paths: dict[str, Any]
    cors_origins: Sequence[str]


def create_api(context: Context) -> FastAPI:
    """Return the application, without the inputs' own endpoints."""
    app = FastAPIOffline(
        title="Wattstream",
        version=wattstream.__version__,
        summary="Energy telemetry of smart meters and electric vehicles",
        description=(
            "Times are RFC 3339 in UTC, energy is kWh, voltage V, temperature °C, state of "
            "charge %, efficiency a fraction. Ranges are [start, end)."
        ),
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(BodyLimit)
    _add_answers(app, context)
    _add_registry(app, context)
    add_fleet(app, context.queries)
    add_links(app, context.queries)
    add_alerts(app, context.alerts)
    add_clock(app, context.queries)
    add_rejections(app, context.queries)
    add_audit(app, context.keyring)
    pages = Pages(
        context.queries,
        context.alerts,
        context.views,
        context.stats,
        context.keyring,
        context.guard,
    )
    _add_operations(app, context, add_pages(app, pages, context.cors_origins))
    add_history(app, context.queries)
    add_stream(app, context.views, context.keyring)
    add_error_handlers(app)
    _document(app, context.ingest_paths)
    return app


def _add_answers(app: FastAPI, context: Context) -> None:
    queries = context.queries

    @app.get(
        "/v1/ingest/status/{type}/{id:path}",
        tags=["answers"],
        summary="Live state of a device",
        responses={**UNKNOWN, **AWAY},
    )
    async def status(type: DeviceType, id: DeviceId) -> models.MeterStatus | models.VehicleStatus:
        return answers.status(await queries.live_state(type, id), queries.clock_us())

    @app.get(
        "/v1/analytics/performance/{vehicleId:path}",
        tags=["answers"],
        summary="Energy and efficiency of a vehicle",
        responses={**BAD, **UNKNOWN, **AWAY},
    )
    async def vehicle_performance(
        vehicleId: DeviceId, start: StartQuery = None, end: EndQuery = None
    ) -> models.PerformanceAnswer:
        start_us, end_us = time_range(start, end, queries.clock_us())
        return answers.performance(await queries.performance(vehicleId, start_us, end_us))

    @app.get("/v1/analytics/stats", tags=["answers"], summary="What is held", responses={**AWAY})
    async def stats() -> models.StatsAnswer:
        return answers.stats(await queries.stats())

    @app.get(
        "/v1/analytics/alerts",
        tags=["answers"],
        summary="Vehicles whose efficiency is below a threshold",
        responses={**BAD, **AWAY},
    )
    async def alerts(
        threshold: Annotated[
            float | None,
            Query(description="Fraction, or percent where above 1. Default: the setting, 0.85."),
        ] = None,
    ) -> models.AlertsAnswer:
        limit = fraction(queries.threshold if threshold is None else threshold)
        return answers.alerts(await queries.low_efficiency(limit), limit)

    @app.post(
        "/v1/analytics/refresh",
        tags=["operations"],
        summary="Recompute rollups from history and repair any that differ",
        responses={**BAD, **AWAY},
    )
    async def refresh(start: StartQuery = None, end: EndQuery = None) -> models.RefreshAnswer:
        start_us, end_us = time_range(start, end, queries.clock_us())
        started = time.perf_counter()
        repair = await queries.refresh(start_us, end_us)
        return models.RefreshAnswer(
            buckets_checked=repair.buckets_checked,
            buckets_repaired=repair.buckets_repaired,
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
        )


def _add_registry(app: FastAPI, context: Context) -> None:
    queries = context.queries

    @app.get("/v1/devices", tags=["registry"], summary="List devices", responses={**BAD, **AWAY})
    async def devices(
        type: Annotated[Stream, Query(description="meter or vehicle")],
        after: Annotated[str, Query(description="`next` of the page before")] = "",
        limit: Limit = 100,
    ) -> models.DevicesAnswer:
        found = await queries.devices(type, after.replace("\0", ""), limit)
        more = found[-1][0].external_id if len(found) == limit else None
        listed = [answers.device(*settled) for settled in found]
        return models.DevicesAnswer(devices=listed, next=more)

    @app.get(
        "/v1/devices/{type}/{id:path}",
        tags=["registry"],
        summary="Settings of a device",
        responses={**UNKNOWN, **AWAY},
    )
    async def device(type: DeviceType, id: DeviceId) -> models.DeviceAnswer:
        return answers.device(*await queries.device(type, id))

    @app.put(
        "/v1/devices/{type}/{id:path}",
        tags=["registry"],
        summary="Change or make a device; a changed rule recomputes its totals",
        responses={
            201: {"model": models.DeviceAnswer, "description": "Made"},
            202: {
                "model": models.DeviceAnswer,
                "description": "Its history is long: it is recomputed first, see `recomputing`",
            },
            **BAD,
            **UNKNOWN,
            **RULE,
            **AWAY,
        },
    )
    async def change_device(
        type: DeviceType, id: DeviceId, settings: models.DeviceSettings, response: Response
    ) -> models.DeviceAnswer:
        if not is_valid_id(id):
            raise ReadingError(
                "a device id must be 1 to 128 printable characters without white space",
                code="id_invalid",
                field="id",
            )
        changed, is_new = await queries.change_device(type, id, answers.device_change(settings))
        response.status_code = 201 if is_new else 200 if changed[1] is None else 202
        return answers.device(*changed)

    @app.get(
        "/v1/events/{type}/{id:path}",
        tags=["registry"],
        summary="Falls of a device's register: rollover, dip, reset; oldest first",
        responses={**BAD, **UNKNOWN, **AWAY},
    )
    async def events(
        type: DeviceType, id: DeviceId, after: AfterQuery = None, limit: Limit = 100
    ) -> models.EventsAnswer:
        after_us = NEVER_US if after is None else time_of_query("after", after)
        found = await queries.falls(type, id, after_us, limit)
        more = rfc3339(found[-1].at_us) if len(found) == limit else None
        return models.EventsAnswer(events=[answers.event(fall) for fall in found], next=more)


def _add_operations(
    app: FastAPI, context: Context, first_page: Callable[[Request], Awaitable[Response]]
) -> None:
    @app.get(
        "/v1/health", tags=["operations"], summary="Ready to take readings", responses={**AWAY}
    )
    async def health() -> models.Ready:
        await context.queries.ping()
        if context.is_full():
            raise QueueFullError("The ingest queue is at its bound.")
        return models.Ready(status="ready")

    @app.get("/v1/health/live", tags=["operations"], summary="The process runs")
    async def live() -> models.Alive:
        return models.Alive(status="alive")

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Prometheus text",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(context.stats.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get(
        "/",
        tags=["operations"],
        summary="The list of endpoints; a browser gets the dashboard",
        response_model=Index,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def index(request: Request) -> Any:
        if _wants_page(request):
            return await first_page(request)
        listed = [
            f"{method.upper()} {path}"
            for path, item in app.openapi()["paths"].items()
            for method in item
        ]
        found = Index(
            name="Wattstream",
            version=wattstream.__version__,
            documentation="/docs",
            endpoints=sorted(listed, key=lambda line: line.split()[1]),
        )
        return JSONResponse(found.model_dump(by_alias=True), headers={"Vary": "Accept"})


def _document_refusals(document: dict[str, Any]) -> None:
    """Say of every endpoint which key it needs, how it refuses others, and bad connections."""
    document["components"]["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "Made by `wattstream keys create`; not asked for before the first is.",
        }
    }
    for path, item in document["paths"].items():
        for method, operation in item.items():
            refusals = CONNECTION
            scope = needed(method.upper(), path)
            if scope is not None:
                operation["security"] = [{"key": [scope.value]}]
                refusals = CONNECTION | KEYS
            operation["responses"] |= {str(code): said for code, said in refusals.items()}


def _wants_page(request: Request) -> bool:
    """Return whether the client names HTML before JSON; who takes anything gets JSON."""
    try:
        form = preferred(request.headers.get("Accept"), ("application/json", "text/html"))
    except NotAcceptableError:
        return False
    return form == "text/html"


def _document(app: FastAPI, ingest_paths: dict[str, Any]) -> None:
    """Add the inputs' endpoints to the OpenAPI file, and take out what is never answered."""
    generated: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generated()
            for item in document["paths"].values():
                for operation in item.values():
                    default = operation["responses"].get("422", {}).get("description")
                    if default == "Validation Error":
                        del operation["responses"]["422"]
            document["paths"] = ingest_paths | document["paths"]
            _document_refusals(document)
            for unused in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(unused, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
