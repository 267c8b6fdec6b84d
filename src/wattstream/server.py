"""The HTTP server around an application: its socket, its start, and its end in good order."""

import asyncio
import errno
import gc
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wattstream.domain.errors import OperatorError
from wattstream.replies import error_body

BACKLOG = 2048
# A lane that has its answer from PostgreSQL waits this long, at most, for a thread that decodes.
_SWITCH_S = 0.0005

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


class _Protocol(HttpToolsProtocol):
    """Answers what is no HTTP in the form that every error has."""

    def send_400_response(self, msg: str) -> None:
        """Refuse a request whose line or headers cannot be read, and close the connection."""
        body = error_body("malformed_request", "the request's line or headers are not HTTP", None)
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process by the signal itself."""

    def __init__(self, application: Served, *, grace_s: int) -> None:
        self._end_streams = application.end_streams
        super().__init__(
            uvicorn.Config(
                application,
                loop="none",
                http=_Protocol,
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
        """Answer on a connection that another process accepted, once the server runs."""
        protocol_class: Any = self.config.http_protocol_class
        protocol = partial(
            protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)

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
        serving = asyncio.create_task(self.serve(sockets))
        while not self.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.005)
        on_started()
        await wait_for(stop.asked, serving)
        self._end_streams()
        self.should_exit = True
        await wait_for(stop.forced, serving)
        self.force_exit = not serving.done()
        await serving


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


def url_of(host: str, listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
