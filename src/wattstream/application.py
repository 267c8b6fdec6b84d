"""The ASGI application of one engine: what each request passes on its way to an answer."""

import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from starlette.types import ASGIApp

from wattstream.caller import asked_by
from wattstream.domain.errors import WattstreamError
from wattstream.inputs import openapi
from wattstream.inputs.express import ExpressInput
from wattstream.inputs.http import BATCH_PATH, ONE_PATH, HttpInput, Receive, Scope, Send
from wattstream.log import begin_request
from wattstream.pipeline.ingest import Ingest
from wattstream.query.admission import Admission
from wattstream.query.alerts import AlertQueries
from wattstream.query.keyring import Keyring
from wattstream.query.queries import Queries
from wattstream.query.reach import ReachedRecords
from wattstream.query.views import Views
from wattstream.server import is_loopback
from wattstream.settings import Settings
from wattstream.stats import Shared, Stats
from wattstream.store.alert_port import AlertStore
from wattstream.store.port import Store
from wattstream.store.view_port import ViewStore
from wattstream.traces import Traces
from wattstream.web.api import Context, create_api
from wattstream.web.audit import recorded
from wattstream.web.guard import Guard, is_act
from wattstream.web.pages.origin import RefuseOtherSites
from wattstream.web.pages.rendering import refusal
from wattstream.web.security import SecurityHeaders, with_cors

_BROWSER_HEADERS = frozenset({b"origin", b"sec-fetch-site"})

_log = structlog.get_logger()


def clock_us() -> int:
    """Return the time, microseconds since 1970."""
    return time.time_ns() // 1000


class Application:
    """The ASGI application: ingest endpoints first, the API for the rest."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        alerts: AlertStore,
        view: ViewStore,
        keyring: Keyring,
        *,
        clock: Callable[[], int] = clock_us,
        shared: Shared | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._traces = traces
        self.stats = stats = Stats(shared)
        self.ingest = Ingest(
            store,
            stats,
            clock,
            flush_readings=settings.flush_readings,
            queue_readings=settings.queue_readings,
            slow_flush_s=settings.slow_flush,
            traces=traces,
        )
        self._input = HttpInput(
            self.ingest,
            stats,
            clock,
            max_future_s=settings.max_future,
            max_past_s=settings.max_past,
            max_body_bytes=settings.max_body,
            max_decoded_bytes=settings.max_decoded_body,
            max_held_bytes=settings.queue_bytes,
            max_records=settings.max_records,
            admission=Admission(store),
        )
        origins = settings.cors_origins or ()
        self._input_of_browsers = RefuseOtherSites(self._input, allowed=origins)
        self._keyring = keyring
        is_public = settings.allow_open or not is_loopback(settings.host)
        self._guard = guard = Guard(keyring, is_public=is_public)
        self.express = (
            ExpressInput(self._input, self.ingest, stats, guard.writer)
            if traces is None  # a span of each request is made on the ordinary way
            else None
        )
        queries = Queries(
            ReachedRecords(store), clock, settings.link_same_id, settings.efficiency_threshold
        )
        self._views = Views(view, queries, settings.alert_silent)
        self._api = create_api(
            Context(
                queries=queries,
                views=self._views,
                alerts=AlertQueries(alerts, clock),
                stats=stats,
                keyring=keyring,
                guard=guard,
                is_full=lambda: self.ingest.is_full,
                ingest_paths=openapi.paths(),
                cors_origins=origins,
            )
        )
        self._secured = SecurityHeaders(self._answer, secure=settings.tls_certificate is not None)
        self._inside: ASGIApp = with_cors(self._route, origins)

    def end_streams(self) -> None:
        """End the streams that are open: no stop would outlast them."""
        self._views.changes.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its id is in the answer and in every line of its log."""
        request_id = begin_request(scope["headers"])
        status = 0

        async def send_named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                nonlocal status
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        if self._traces is None:
            await self._inside(scope, receive, send_named)
            return
        started_ns = time.time_ns()
        try:
            await self._inside(scope, receive, send_named)
        finally:
            is_input = scope["path"] in (ONE_PATH, BATCH_PATH)
            self._traces.request(
                scope,
                route=scope["path"] if is_input else getattr(scope.get("route"), "path", None),
                status=status,
                request_id=request_id,
                start_ns=started_ns,
                end_ns=time.time_ns(),
            )

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in (ONE_PATH, BATCH_PATH):
            await self._secured(scope, receive, send)
            return
        # Checks that a program has nothing to do with cost it nothing.
        is_browser = any(name in _BROWSER_HEADERS for name, _ in scope["headers"])
        take = self._input_of_browsers if is_browser else self._input
        if self._keyring.is_open and not is_browser:
            await take(scope, receive, send)
        else:
            await self._guarded(take, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guarded(self._answer_api, scope, receive, send)

    async def _guarded(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            who = await self._guard.admit(scope)
        except WattstreamError as error:
            await refusal(scope, error)(scope, receive, send)
            return
        with asked_by(who):
            await app(scope, receive, send)

    async def _answer_api(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if is_act(scope["method"], scope["path"]):
                await recorded(self._keyring, self._api, scope, receive, send)
            else:
                await self._api(scope, receive, send)
        except WattstreamError as error:  # it could not be written down, and was not done
            await refusal(scope, error)(scope, receive, send)
        except Exception:  # noqa: BLE001 - the last line of defence, as in any server
            # The client has got its 500, or sees a stream that breaks off.
            _log.exception("A request failed", method=scope["method"], path=scope["path"])
