"""The composition root: the only file that names concrete classes."""

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn

from wattstream.domain.errors import OperatorError, WattstreamError
from wattstream.inputs import openapi
from wattstream.inputs.http import BATCH_PATH, ONE_PATH, HttpInput, Receive, Scope, Send
from wattstream.pipeline.ingest import Ingest
from wattstream.query.queries import Queries
from wattstream.settings import Settings
from wattstream.stats import Stats
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.port import Store
from wattstream.store.postgres import PostgresStore
from wattstream.store.postgres.migrations import migrate
from wattstream.web.api import Context, create_api

_PREPARE_EVERY_S = 3600
_WATCH_EVERY_S = 1.0
# A lane that has its answer from PostgreSQL waits this long, at most, for a thread that decodes.
_SWITCH_S = 0.0005

_log = structlog.get_logger()


def clock_us() -> int:
    """Return the time, microseconds since 1970."""
    return time.time_ns() // 1000


@contextmanager
def database(settings: Settings) -> Iterator[tuple[str, EmbeddedPostgres | None]]:
    """Provide the database: the one that is named, or the embedded one, started and stopped.

    Raises:
        OperatorError: The embedded server cannot be started.
    """
    if settings.database_url is not None:
        yield settings.database_url, None
        return
    server = EmbeddedPostgres(settings.data_dir, settings.postgres_user)
    conninfo = server.start()
    try:
        yield conninfo, server
    finally:
        server.stop()


class Application:
    """The ASGI application: ingest endpoints first, the API for the rest."""

    def __init__(
        self, settings: Settings, store: Store, clock: Callable[[], int] = clock_us
    ) -> None:
        stats = Stats()
        self.ingest = Ingest(
            store,
            stats,
            clock,
            flush_readings=settings.flush_readings,
            queue_readings=settings.queue_readings,
        )
        self._input = HttpInput(
            self.ingest,
            stats,
            clock,
            max_future_s=settings.max_future,
            max_past_s=settings.max_past,
            max_body_bytes=settings.max_body,
            max_decoded_bytes=settings.max_decoded_body,
        )
        self._api = create_api(
            Context(
                queries=Queries(store, clock, settings.link_same_id, settings.efficiency_threshold),
                stats=stats,
                is_full=lambda: self.ingest.is_full,
                ingest_paths=openapi.paths(),
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] in (ONE_PATH, BATCH_PATH):
            await self._input(scope, receive, send)
        else:
            await self._api(scope, receive, send)


@asynccontextmanager
async def running(settings: Settings, conninfo: str) -> AsyncIterator[Application]:
    """Run an engine on a migrated database; on leaving, commit what is queued and close."""
    store = PostgresStore(conninfo, read_connections=settings.read_connections)
    await store.open()
    await store.prepare(clock_us())
    application = Application(settings, store)
    writing = asyncio.create_task(application.ingest.run())
    preparing = asyncio.create_task(_prepare_daily(store))
    try:
        yield application
    finally:
        preparing.cancel()
        application.ingest.stop()
        await writing
        await store.close()


async def _prepare_daily(store: Store) -> None:
    while True:
        await asyncio.sleep(_PREPARE_EVERY_S)
        try:
            await store.prepare(clock_us())
        except WattstreamError as error:
            _log.warning("Partitions were not made ahead; the next flush makes its own", why=error)


def _spare_the_collector() -> None:
    """Let the garbage collector pass over what lives as long as the process, and run rarely.

    Otherwise it walks through every imported module many times a second under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process by the signal itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second signal does not wait for requests under way.

    Args:
        settings: All settings.
        on_ready: Called with the URL once requests are answered.

    Raises:
        OperatorError: The database or the port cannot be had; the message says what to do.
    """
    sys.setswitchinterval(_SWITCH_S)
    _spare_the_collector()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as stack:
        conninfo, embedded = await asyncio.to_thread(stack.enter_context, database(settings))
        await asyncio.to_thread(migrate, conninfo)
        async with running(settings, conninfo) as application:
            watching = asyncio.create_task(_watch(embedded))
            try:
                await _listen(settings, application, stop, on_ready)
            finally:
                watching.cancel()
        await asyncio.to_thread(stack.close)


async def _listen(
    settings: Settings,
    application: Application,
    stop: asyncio.Event,
    on_ready: Callable[[str], None],
) -> None:
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_grace,
    )
    server = _Server(config)
    sockets = [_bound_socket(settings.host, settings.port)]
    serving = asyncio.create_task(server.serve(sockets))
    stopping = asyncio.create_task(stop.wait())
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
        await asyncio.sleep(0.005)
    port = sockets[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    on_ready(f"http://{host}:{port}")
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stop.clear()
    stopping.cancel()
    again = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, again), return_when=asyncio.FIRST_COMPLETED)
    server.force_exit = not serving.done()
    again.cancel()
    await serving


def _bound_socket(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        remedy = (
            "Another program holds the port: choose another with --port or WATTSTREAM_PORT."
            if error.errno == errno.EADDRINUSE
            else "Choose an address of this machine with --host or WATTSTREAM_HOST."
        )
        raise OperatorError(
            f"Cannot listen on {host}:{port}: {error.strerror}. {remedy}"
        ) from error
    return listener


async def _watch(embedded: EmbeddedPostgres | None) -> None:
    """Start the embedded server again where it ended by itself."""
    while embedded is not None:
        await asyncio.sleep(_WATCH_EVERY_S)
        code = embedded.poll()
        if code is None:
            continue
        _log.error("The embedded PostgreSQL ended; starting it again", exit_code=code)
        try:
            await asyncio.to_thread(embedded.start)
        except WattstreamError as error:
            _log.error("The embedded PostgreSQL did not start", why=error.message)
