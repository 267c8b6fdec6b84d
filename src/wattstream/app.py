"""The composition root: the only file that names concrete classes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import structlog

from wattstream.application import Application, clock_us
from wattstream.connection import ConnectionLimits
from wattstream.domain.errors import OperatorError, WattstreamError
from wattstream.domain.units import MICRO
from wattstream.limits import most_connections
from wattstream.query.keyring import Keyring
from wattstream.server import HttpServer, Stop, bound_socket, is_loopback, url_of
from wattstream.settings import Settings
from wattstream.stats import Shared, Stats
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.port import Store
from wattstream.store.postgres import PostgresStore
from wattstream.store.postgres.access import PostgresAccess
from wattstream.store.postgres.connections import Worker
from wattstream.store.postgres.migrations import migrate
from wattstream.store.postgres.store import WRITE_CONNECTIONS
from wattstream.tls import Certificate
from wattstream.traces import Traces, traces_of
from wattstream.watch import Watch, Webhook, deliver_regularly, look_regularly

_SPARE_CONNECTIONS = 20  # a start's own, and people who look into the database
_PREPARE_EVERY_S = 3600
_PRUNE_EVERY_S = 10
_MEASURE_POOL_EVERY_S = 2
_MEASURE_DATABASE_EVERY_S = 60
_WATCH_EVERY_S = 1.0
_WATCH_AT_MOST_S = 30.0

_log = structlog.get_logger()


@contextmanager
def database(settings: Settings) -> Iterator[tuple[str, EmbeddedPostgres | None]]:
    """Provide the database: the one that is named, or the embedded one, started and stopped.

    Raises:
        OperatorError: The embedded server cannot be started.
    """
    if settings.database_url is not None:
        yield settings.database_url, None
        return
    needed = settings.workers * (WRITE_CONNECTIONS + settings.read_connections)
    server = EmbeddedPostgres(
        settings.data_dir, settings.postgres_user, connections=needed + _SPARE_CONNECTIONS
    )
    conninfo = server.start()
    try:
        yield conninfo, server
    finally:
        server.stop()


@asynccontextmanager
async def migrated_database(settings: Settings) -> AsyncIterator[str]:
    """Provide the conninfo of the migrated database; an embedded server is watched meanwhile.

    Raises:
        OperatorError: The database cannot be had.
    """
    with contextlib.ExitStack() as stack:
        conninfo, embedded = await asyncio.to_thread(stack.enter_context, database(settings))
        await asyncio.to_thread(migrate, conninfo)
        await _check_open(settings, conninfo)
        watching = asyncio.create_task(_watch(embedded))
        try:
            yield conninfo
        finally:
            watching.cancel()
            await asyncio.to_thread(stack.close)


async def _check_open(settings: Settings, conninfo: str) -> None:
    """Refuse to serve others without keys; say so where nobody is asked for one.

    Raises:
        OperatorError: The address is not this machine's own, and there is no key.
    """
    worker = Worker(conninfo, "keys")
    try:
        _, keys = await PostgresAccess(worker).keys()
    finally:
        await worker.close()
    if keys:
        return
    if not is_loopback(settings.host) and not settings.allow_open:
        raise OperatorError(
            f"{settings.host} is reached by others, and there is no key: whoever reaches it could "
            "send, read and change everything. Make one first with\n"
            "  wattstream keys create --name operator --scope admin\n"
            "or set WATTSTREAM_ALLOW_OPEN=yes to serve without keys."
        )
    _log.warning(
        "No keys: whoever reaches this address may send, read and change everything",
        host=settings.host,
        remedy="wattstream keys create --name operator --scope admin",
    )


@asynccontextmanager
async def running(
    settings: Settings, conninfo: str, shared: Shared | None = None
) -> AsyncIterator[Application]:
    """Run an engine on a migrated database; on leaving, commit what is queued and close.

    Args:
        settings: All settings.
        conninfo: The database.
        shared: The counters, where the engine is one of several workers. The first of them
            makes partitions ahead, drops what was refused long ago and watches the devices for
            all.
    """
    async with _traced() as traces, _opened(conninfo, settings) as store:
        keyring = Keyring(store.access, clock_us, engines=settings.workers)
        await keyring.load()
        application = Application(
            settings, store, store.alerts, store.view, keyring, shared=shared, traces=traces
        )
        is_first = shared is None or shared.number == 0
        if is_first:
            await store.prepare(clock_us())
        writing = asyncio.create_task(application.ingest.run())
        recomputing = asyncio.create_task(store.recompute())
        measuring = asyncio.create_task(_measure_pool(store, application.stats))
        following = asyncio.create_task(keyring.follow())
        async with _beside(settings, store, application.stats) if is_first else nullcontext():
            try:
                yield application
            finally:
                recomputing.cancel()
                measuring.cancel()
                following.cancel()
                application.ingest.stop()
                await writing


@asynccontextmanager
async def _beside(settings: Settings, store: PostgresStore, stats: Stats) -> AsyncIterator[None]:
    """Do beside the requests what one engine does for all."""
    webhook = None
    work = [
        _prepare_daily(store),
        _prune_often(store, settings),
        _measure_database(store, stats),
    ]
    if settings.alert_interval:
        watch = Watch(
            store.alerts,
            settings.alert_thresholds(),
            same_id=settings.link_same_id,
            notify=settings.webhook_url is not None,
            interval_us=settings.alert_interval * MICRO,
        )
        work.append(look_regularly(watch, settings.alert_interval, clock_us, stats.show_alerts))
    if settings.webhook_url is not None and settings.webhook_secret is not None:
        webhook = Webhook(store.alerts, settings.webhook_url, settings.webhook_secret)
        work.append(deliver_regularly(webhook, clock_us))
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if webhook is not None:
            await webhook.close()


@asynccontextmanager
async def _traced() -> AsyncIterator[Traces | None]:
    traces = traces_of(os.environ)
    try:
        yield traces
    finally:
        if traces is not None:
            await asyncio.to_thread(traces.close)


@asynccontextmanager
async def _opened(conninfo: str, settings: Settings) -> AsyncIterator[PostgresStore]:
    """Open the store; close it whatever happens, as an open pool keeps the event loop alive."""
    store = PostgresStore(conninfo, read_connections=settings.read_connections)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _prepare_daily(store: Store) -> None:
    while True:
        await asyncio.sleep(_PREPARE_EVERY_S)
        try:
            await store.prepare(clock_us())
        except WattstreamError as error:
            _log.warning("Partitions were not made ahead; the next flush makes its own", why=error)


async def _measure_pool(store: PostgresStore, stats: Stats) -> None:
    while True:
        pool = store.pool_state()
        stats.show_pool(busy=pool.busy, idle=pool.idle, waiting=pool.waiting)
        await asyncio.sleep(_MEASURE_POOL_EVERY_S)


async def _measure_database(store: PostgresStore, stats: Stats) -> None:
    while True:
        try:
            footprint = await store.footprint()
        except WattstreamError:
            pass  # the outage is in the log; the last figures stay until it is over
        else:
            stats.show_database(footprint.size_bytes, footprint.partitions)
        await asyncio.sleep(_MEASURE_DATABASE_EVERY_S)


async def _prune_often(store: Store, settings: Settings) -> None:
    while True:
        try:
            oldest_us = clock_us() - settings.rejections_max_age * MICRO
            await store.prune(oldest_us, settings.rejections_max_bytes)
        except WattstreamError as error:
            _log.warning("Old rejections were not dropped; the next attempt is soon", why=error)
        await asyncio.sleep(_PRUNE_EVERY_S)


def certificate_of(settings: Settings) -> Certificate | None:
    """Return the certificate that is named, or None for plain HTTP.

    Raises:
        OperatorError: It cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_certificate, settings.tls_key)


def server_of(
    settings: Settings, application: Application, certificate: Certificate | None
) -> HttpServer:
    """Return the HTTP server around an application."""
    most = settings.max_connections
    limits = ConnectionLimits(
        connections=most_connections() if most is None else most,
        head_s=settings.header_timeout,
        body_s=settings.body_timeout,
        idle_s=settings.idle_timeout,
    )
    grace_s = settings.shutdown_grace
    return HttpServer(
        application,
        grace_s=grace_s,
        limits=limits,
        certificate=certificate,
        express=application.express,
    )


async def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second signal does not wait for requests under way.

    Args:
        settings: All settings.
        on_ready: Called with the URL once requests are answered.

    Raises:
        OperatorError: The database or the port cannot be had; the message says what to do.
    """
    stop = Stop()
    stop.on_signals(stop.ask)
    certificate = certificate_of(settings)
    async with migrated_database(settings) as conninfo, running(settings, conninfo) as application:
        listener = bound_socket(settings.host, settings.port)
        url = url_of(settings.host, listener, secure=certificate is not None)
        server = server_of(settings, application, certificate)
        await server.answer([listener], stop, lambda: on_ready(url))


async def _watch(embedded: EmbeddedPostgres | None) -> None:
    """Start the embedded server again where it ended by itself, until it runs."""
    pause_s = _WATCH_EVERY_S
    while embedded is not None:
        await asyncio.sleep(pause_s)
        if embedded.is_running():
            pause_s = _WATCH_EVERY_S
            continue
        code = embedded.poll()  # None where the last start has failed
        _log.error("The embedded PostgreSQL does not run; starting it again", exit_code=code)
        try:
            await asyncio.to_thread(embedded.start)
        except WattstreamError as error:
            _log.error("The embedded PostgreSQL did not start", why=error.message)
            pause_s = min(2 * pause_s, _WATCH_AT_MOST_S)
