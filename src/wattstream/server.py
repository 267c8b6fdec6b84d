"""The HTTP server around an application: its socket, its start, and its end in good order."""

import asyncio
import ctypes
import errno
import gc
import ipaddress
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import structlog
import uvicorn

from wattstream.connection import Connection, ConnectionGuard, ConnectionLimits
from wattstream.domain.errors import OperatorError
from wattstream.express import Express, ExpressConnection
from wattstream.tls import Certificate

BACKLOG = 2048
# A lane that has its answer from PostgreSQL waits this long, at most, for a thread that decodes.
_SWITCH_S = 0.0005
_NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PAUSE_S = 1.0
_HANDSHAKE_S = 10.0
_READ_CERTIFICATE_EVERY_S = 2.0

_log = structlog.get_logger()

_Scope = MutableMapping[str, Any]


class Served(Protocol):
    """An ASGI application with answers that go on until they are ended."""

    async def __call__(self, scope: _Scope, receive: Any, send: Any) -> None:
        """Answer one request."""

    def end_streams(self) -> None:
        """End the answers that would go on for ever."""


def _spare_the_collector() -> None:
    """Let the garbage collector pass over what lives as long as the process, and run rarely.

    Otherwise it walks through every imported module many times a second under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _keep_freed_memory() -> None:
    """Let what is freed be used again, instead of fetching zeroed pages from the kernel each time.

    Source: mallopt(3) of glibc; elsewhere nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024**2)


class Stop:
    """What tells a process to end: asked once it finishes what is under way, twice it does not."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()

    def ask(self) -> None:
        """Ask for an end; asked before, force it."""
        (self.forced if self.asked.is_set() else self.asked).set()

    def on_signals(self, act: Callable[[], None]) -> None:
        """Act on SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, act)


async def wait_for(event: asyncio.Event, *tasks: asyncio.Task[Any]) -> None:
    """Wait until an event is set, or one of the tasks ends."""
    setting = asyncio.create_task(event.wait())
    await asyncio.wait((setting, *tasks), return_when=asyncio.FIRST_COMPLETED)
    setting.cancel()


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process by the signal itself."""

    def __init__(
        self,
        application: Served,
        *,
        grace_s: int,
        limits: ConnectionLimits,
        certificate: Certificate | None = None,
        express: Express | None = None,
    ) -> None:
        self._end_streams = application.end_streams
        self._guard = ConnectionGuard(limits)
        self._certificate = certificate
        self._handshakes: set[asyncio.Task[None]] = set()
        connection = (
            partial(Connection, guard=self._guard)
            if express is None
            else partial(ExpressConnection, guard=self._guard, express=express)
        )
        super().__init__(
            uvicorn.Config(
                application,
                loop="none",
                http=connection,  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=grace_s,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def adopt(self, connection: socket.socket) -> None:
        """Answer on a connection that was accepted elsewhere, once the server runs.

        With TLS, return before it has shaken hands: a slow one holds up no other.
        """
        if self._certificate is None:
            await self._connect(connection, None)
            return
        count = len(self.server_state.connections) + len(self._handshakes)
        if count >= self._guard.limits.connections:
            self._guard.refused["too_many_connections"] += 1
            connection.close()
            return
        task = asyncio.create_task(self._shake_hands(connection, self._certificate.context))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        try:
            await self._connect(connection, context)
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            self._guard.refused["tls_handshake"] += 1
            connection.close()

    async def _connect(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        protocol_class: Any = self.config.http_protocol_class
        protocol = partial(
            protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        await asyncio.get_running_loop().connect_accepted_socket(
            protocol,
            connection,
            ssl=context,
            ssl_handshake_timeout=None if context is None else _HANDSHAKE_S,
        )

    async def answer(
        self, sockets: list[socket.socket], stop: Stop, on_started: Callable[[], None]
    ) -> None:
        """Answer requests until asked to stop, then finish those under way unless forced.

        Args:
            sockets: Bound ones to listen on; they are closed at the stop.
            stop: What ends it.
            on_started: Called once requests are answered.
        """
        sys.setswitchinterval(_SWITCH_S)
        _spare_the_collector()
        _keep_freed_memory()
        # uvicorn would read a certificate once; with one, connections are accepted here.
        own, others = ([], sockets) if self._certificate is not None else (sockets, [])
        serving = asyncio.create_task(self.serve(own))
        while not self.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.005)
        beside = [asyncio.create_task(self._guard.watch(self.server_state.connections))]
        for listener in others:
            listener.setblocking(False)
            listener.listen(BACKLOG)
        accepting = [asyncio.create_task(self._accept(listener)) for listener in others]
        if self._certificate is not None:
            beside.append(asyncio.create_task(_refresh_often(self._certificate)))
        on_started()
        await wait_for(stop.asked, serving, *accepting)
        for task in accepting:
            task.cancel()
        for listener in others:
            listener.close()
        if self._handshakes:
            await asyncio.wait(self._handshakes, timeout=1)
        self._end_streams()
        self.should_exit = True
        await wait_for(stop.forced, serving)
        self.force_exit = not serving.done()
        await serving
        for task in beside:
            task.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        async for connection in accepted(listener):
            await self.adopt(connection)


async def accepted(listener: socket.socket) -> AsyncIterator[socket.socket]:
    """Yield connections of a listening socket for ever; while the system has no room, wait."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno in _NO_FILES:
                _log.warning("Connections wait; the system has no room", why=error.strerror)
                await asyncio.sleep(_PAUSE_S)
            continue
        yield connection
        await asyncio.sleep(0)  # an accept that need not wait does not let others run


async def _refresh_often(certificate: Certificate) -> None:
    while True:
        await asyncio.sleep(_READ_CERTIFICATE_EVERY_S)
        await asyncio.to_thread(certificate.refresh)


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that has the port, and does not listen yet.

    Raises:
        OperatorError: It cannot be had.
    """
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


def url_of(host: str, listener: socket.socket, *, secure: bool) -> str:
    """Return the URL of a bound socket."""
    port = listener.getsockname()[1]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
